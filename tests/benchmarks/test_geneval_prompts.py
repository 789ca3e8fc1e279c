"""Clauses of GenEval's prompts to which the rules cannot be applied."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.geneval.files import read_prompts, write_prompts
from unigrpo.worlds.shapes.prompts import GenEvalPrompt
from unigrpo.worlds.shapes.rules import apply_rules

FIRST = {"class": "cross", "count": 1}
FAULTS = [
    ({"include": [{"class": "cross", "count": 0}]}, "include[0]: count: expected a whole number from 1, got 0"),
    ({"include": [{"class": "cross"}]}, "include[0]: count: expected a whole number from 1, which is missing"),
    ({"include": [{"class": "cross", "count": -1}]}, "include[0]: count: expected a whole number from 1, got -1"),
    ({"include": [{"class": "cross", "count": True}]}, "got True"),
    ({"include": [{"class": "cross", "count": "2"}]}, "got '2'"),
    ({"include": [{"class": "cross", "count": 2.0}]}, "got 2.0"),
    ({"include": [FIRST, {"count": 1}]}, "include[1]: class: expected a name, which is missing"),
    ({"include": [{"class": None, "count": 1}]}, "include[0]: class: expected a name, got None"),
    ({"include": [FIRST | {"color": None}]}, "include[0]: color: expected a name, got None"),
    ({"include": [FIRST | {"position": ["above", 0]}]}, "include[0]: position: expected [left of | right of | above"),
    ({"include": [FIRST, FIRST | {"position": ["above", 1]}]}, "include[1]: position: expected "),
    ({"include": [FIRST, FIRST | {"position": ["above", 2]}]}, "got ['above', 2]"),
    ({"include": [FIRST, FIRST | {"position": ["above", -1]}]}, "got ['above', -1]"),
    ({"include": [FIRST, FIRST | {"position": ["above", False]}]}, "got ['above', False]"),
    ({"include": [FIRST, FIRST | {"position": ["beside", 0]}]}, "got ['beside', 0]"),
    ({"include": [FIRST, FIRST | {"position": [["above"], 0]}]}, "got [['above'], 0]"),
    ({"include": [FIRST, FIRST | {"position": "above"}]}, "got 'above'"),
    ({"include": [FIRST], "exclude": [{"class": "cross", "count": 0}]}, "exclude[0]: count: expected a whole"),
    ({"include": [FIRST], "exclude": [{"class": "cross"}]}, "exclude[0]: count: expected a whole"),
    ({"include": []}, "expected a clause in include or exclude, got none"),
]


@pytest.mark.parametrize(("clauses", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_clause_that_says_nothing_is_named_with_its_prompt(tmp_path, clauses, message):
    prompt = GenEvalPrompt("counting", tuple(clauses["include"]), tuple(clauses.get("exclude", ())), "a cross")
    with pytest.raises(ValueError, match="^" + re.escape("'a cross': ") + ".*" + re.escape(message)):
        apply_rules([], prompt)
    path = tmp_path / "prompts.jsonl"
    write_prompts(path, [prompt])
    with pytest.raises(ValueError, match=re.escape(f"{path}:1: 'a cross': ") + ".*" + re.escape(message)):
        read_prompts(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"include": {"class": "cross"}}, "include: expected list, got {"),
        ({"include": ["cross"]}, "include[0]: expected a JSON object, got 'cross'"),
        ({"exclude": None}, "exclude: expected list, got None"),
        ({"tag": None}, "tag: expected str, got None"),
        ({"prompt": ["a"]}, "prompt: expected str, got ['a']"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, change, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"tag": "colors", "include": [FIRST], "prompt": "a cross"} | change))
    with pytest.raises(ValueError, match=re.escape(f"{path}:1: {message}")):
        read_prompts(path)


def test_a_prompt_may_only_exclude(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"tag": "t", "exclude": [FIRST], "prompt": "no cross"}))
    (prompt,) = read_prompts(path)
    assert apply_rules([], prompt).official
