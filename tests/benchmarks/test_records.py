"""Files of records: what every reader of them accepts and refuses."""

from __future__ import annotations

import json

import pytest

from benchmarks.answers import read_answers
from benchmarks.editing.ratings import read_ratings
from benchmarks.geneval.files import Result, read_prompts, read_results, write_results
from benchmarks.interleaved import interleavedbench, mmie
from benchmarks.interleaved.judgements import ASPECTS, read_judgements
from benchmarks.records import read_records
from unigrpo.worlds.shapes.prompts import by_task

PROMPT = json.loads(by_task("test")["position"][0].to_json())
LIST = ("answers.json", "items.json", "replies.json", "bench.json")
ENTRIES = {
    "answers.json": (read_answers, {"id": "a", "answer": []}),
    "items.json": (
        mmie.read_items,
        {"id": "SA", "question": [], "answer": [], "model": "", "gt_answer": [{"text": ""}]},
    ),
    "replies.json": (mmie.read_replies, {"id": "SA-1", "gpt_feedback": "### Score 6"}),
    "bench.json": (interleavedbench.read_items, {"id": "a", "task_name": "", "conversations": [{"value": ""}]}),
    "judgements.jsonl": (read_judgements, {"prompt": "a", "tag": "b", "image": 1} | dict.fromkeys(ASPECTS, 1)),
    "ratings.jsonl": (read_ratings, {"prompt": "a", "tag": "b", "success": 1, "preserved": 1, "PQ": 1}),
    "results.jsonl": (read_results, vars(Result("a.png", "t", "p", True, "", "{}", "{}"))),
}


def written(folder, name, *entries):
    text = json.dumps(entries) if name in LIST else "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_comes_twice_is_refused(tmp_path, name):
    read, entry = ENTRIES[name]
    assert len(list(read(written(tmp_path, name, entry)))) == 1
    first, second = ("[0]", "[1]") if name in LIST else (":1", ":2")
    with pytest.raises(ValueError, match="again, first at") as caught:
        list(read(written(tmp_path, name, entry, entry)))
    assert f"{name}{second}: " in str(caught.value)
    assert str(caught.value).endswith(f"{name}{first}")


def test_turns_of_a_chain_are_all_there_and_once(tmp_path):
    read, entry = ENTRIES["ratings.jsonl"]
    assert len(read(written(tmp_path, "ratings.jsonl", entry, entry | {"turn": 2}))) == 2
    for others, message in (
        ([entry | {"turn": 1}], "one rating per prompt, image, turn"),
        ([entry | {"turn": 3}], "ratings.jsonl:2: turn: expected turn 2 of 'a' beside turn 3"),
        ([entry | {"turn": True}], "turn: expected int, got True"),
    ):
        with pytest.raises(ValueError, match=message):
            read(written(tmp_path, "ratings.jsonl", entry, *others))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_at_the_newline_alone(tmp_path, ending, mark):
    said = "a\u2028b\u2029c\x85d"
    prompt = json.dumps(PROMPT | {"prompt": said, "seed": 3}, ensure_ascii=False)
    (tmp_path / "prompts.jsonl").write_bytes((mark + prompt + ending + prompt + ending).encode())
    assert [read.prompt for read in read_prompts(tmp_path / "prompts.jsonl")] == [said] * 2
    result = Result("a.png", "t", said, True, "", "{}", "{}")
    line = json.dumps(vars(result) | {"seed": 3}, ensure_ascii=False)
    (tmp_path / "results.jsonl").write_bytes((mark + line + ending).encode())
    assert read_results(tmp_path / "results.jsonl") == [result]
    write_results(tmp_path / "again.jsonl", [result])
    assert read_results(tmp_path / "again.jsonl") == [result]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": "\xff"}', "rows.jsonl:2: expected UTF-8, got byte 0xff"),
        (b'{"a": 1, "a": 2}', "rows.jsonl:1: not JSON .field 'a' twice"),
        (b'{"a": "\\ud800"}', "rows.jsonl:1: expected Unicode texts"),
        (b"[" * 100_000, "rows.jsonl:1: not JSON"),
        (b"1" * 5000, "rows.jsonl:1: not JSON"),
        (b"[]", "rows.jsonl:1: expected a JSON object"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_records(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "3", None, -0.1, 1e300, [1]])
@pytest.mark.parametrize(("name", "field"), [("judgements.jsonl", "helpfulness"), ("ratings.jsonl", "PQ")])
def test_scores_are_numbers_in_range(tmp_path, name, field, value):
    read, entry = ENTRIES[name]
    with pytest.raises(ValueError, match=f"{name}:1: {field}: expected a number"):
        read(written(tmp_path, name, entry | {field: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": "true"}, "correct: expected bool"),
        ({"correct": 1}, "correct: expected bool"),
        ({"tag": 3}, "tag: expected str"),
        ({"metadata": {}}, "metadata: expected str"),
        ({"gone": None}, None),
    ],
)
def test_a_result_has_the_types_of_the_official_file(tmp_path, change, message):
    path = written(tmp_path, "results.jsonl", ENTRIES["results.jsonl"][1] | change)
    if message is None:
        assert len(read_results(path)) == 1
        return
    with pytest.raises(ValueError, match=f"results.jsonl:1: not a GenEval result: {message}"):
        read_results(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": 3}, "tag: expected str"),
        ({"include": {}}, "include: expected list"),
        ({"include": []}, "include: expected one clause at least"),
        ({"include": ["dog"]}, r"include\[0\]: expected a JSON object"),
        ({"include": [{"count": 1}]}, r"include\[0\]: class: expected str"),
        ({"include": [{"class": "a", "count": "1"}]}, r"include\[0\]: count: expected int, got '1'"),
        ({"include": [{"class": "a", "count": 0}]}, r"include\[0\]: count: expected a whole number from 1, got 0"),
        ({"include": [{"class": "a"}]}, r"include\[0\]: count: expected int, found only class"),
        ({"include": [{"class": "a", "count": 1, "position": ["above", 0]}]}, r"include\[0\]: position: expected"),
        ({"include": [{"class": "a", "count": 1, "color": 1}]}, r"include\[0\]: color: expected str"),
        ({"exclude": [{"class": "a", "count": True}]}, r"exclude\[0\]: count: expected int, got True"),
    ],
)
def test_a_prompt_of_wrong_types_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"prompts.jsonl:1: {message}"):
        read_prompts(written(tmp_path, "prompts.jsonl", PROMPT | change))
