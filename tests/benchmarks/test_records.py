"""Every reader of JSON records: as wide as Python's own, and stricter where a file would mean something else."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.answers import read_answers
from benchmarks.editing import ratings
from benchmarks.editing.ratings import read_ratings
from benchmarks.geneval.files import read_prompts, read_results
from benchmarks.interleaved import interleavedbench, judgements, mmie
from benchmarks.interleaved.judgements import ASPECTS, read_judgements


@dataclass(frozen=True)
class Reader:
    """A reader, and a row of its files."""

    name: str
    read: Callable[[Path], Any]
    row: dict[str, Any]
    text: str
    """A field that is text."""
    once: str | None
    """The field by which rows are told apart."""


BLOCKS = [{"text": "a", "image": None}]
READERS = (
    Reader("answers", lambda path: list(read_answers(path)), {"id": "SA", "answer": BLOCKS}, "id", "id"),
    Reader(
        "ratings",
        read_ratings,
        {"prompt": "p", "tag": "add", "success": 1, "preserved": 2, "PQ": 3},
        "tag",
        "prompt",
    ),
    Reader("judgements", read_judgements, {"prompt": "p", "tag": "story"} | dict.fromkeys(ASPECTS, 1), "tag", "prompt"),
    Reader(
        "prompts",
        read_prompts,
        {"tag": "colors", "include": [{"class": "cross", "count": 1}], "prompt": "a cross"},
        "prompt",
        None,  # training files have prompts more than once
    ),
    Reader(
        "results",
        read_results,
        dict.fromkeys(("filename", "tag", "prompt", "reason", "metadata", "details"), "x") | {"correct": True},
        "reason",
        "filename",
    ),
    Reader("MMIE's replies", mmie.read_replies, {"id": "SA", "gpt_feedback": "### Score 3"}, "gpt_feedback", "id"),
    Reader(
        "MMIE's items",
        mmie.read_items,
        {"id": "SA", "question": BLOCKS, "answer": BLOCKS, "model": "m", "gt_answer": BLOCKS},
        "model",
        "id",
    ),
    Reader(
        "InterleavedBench's items",
        interleavedbench.read_items,
        {"id": "a", "task_name": "t", "image": [], "conversations": [{"value": "x"}]},
        "task_name",
        "id",
    ),
)


@pytest.fixture(params=READERS, ids=lambda reader: reader.name)
def reader(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def refusal(reader: Reader, path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="^" + re.escape(str(path))) as error:
        reader.read(path)
    return str(error.value).removeprefix(str(path))


def test_a_file_may_be_of_any_system_and_have_more_fields(reader, path):
    row = reader.row | {reader.text: "SA one\u2028two\u2029three\u0085four", "more": {"fields": [1.5, None]}}
    line = json.dumps(row, ensure_ascii=False)
    path.write_bytes(f"\ufeff{line}\r\n\r\n \n".encode())
    (read,) = reader.read(path)
    path.write_text(json.dumps(row))  # the same in letters of ASCII
    assert reader.read(path) == [read]
    assert "four" in str(read)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("null", ":2: expected a JSON object, got None"),
        ("[{}]", ":2: expected a JSON object, got [{}]"),
        ("{", ":2: not JSON"),
        ("{} {}", ":2: not JSON"),
        ("[" * 100_000, ":2: not JSON"),
        ('{"a": 1, "a": 1}', ":2: the key 'a' comes twice in one object"),
        ('{"a": {"b": 1, "b": 2}}', ":2: the key 'b' comes twice in one object"),
        (b'{"a": "\xff"}', ":2: not UTF-8 text (byte 0xff)"),
        ('{"a": 1}'.encode("utf-16"), ":2: not UTF-8 text (byte 0xff)"),
        ("{}", ":2: "),
    ],
)
def test_what_is_no_record_is_named_by_its_line(reader, path, content, message):
    row = json.dumps(reader.row).encode()
    second = content.encode() if isinstance(content, str) else content
    assert refusal(reader, path, row + b"\n" + second).startswith(message)


@pytest.mark.parametrize("value", [1, True, None, ["a"], {"a": 1}, 1.5, "\ud800"])
def test_text_of_another_type_is_named_by_its_field(reader, path, value):
    message = refusal(reader, path, json.dumps(reader.row | {reader.text: value}))
    assert message.startswith(f":1: {reader.text}: expected ")


def test_an_entry_that_comes_twice_is_named_at_both_places(reader, path):
    if reader.once is None:
        pytest.skip("may come twice")
    line = json.dumps(reader.row)
    message = refusal(reader, path, f"{line}\n{line}\n")
    assert message.startswith(f":2: {reader.once}: expected one ")
    assert message.endswith(f"again, first at {path}:1")
    # the text of a number is not the number
    assert refusal(reader, path, f"{line}\n{json.dumps(reader.row | {reader.once: 1})}").startswith(":2: ")


def test_a_file_of_another_kind_is_named(reader, tmp_path):
    for content in ("{}", "", "null", '[{"a": 1, "a": 2}]'):
        if reader.name in ("prompts", "results"):
            continue  # one object per line, whatever the name of the file
        refusal(reader, tmp_path / "rows.json", content)
    with pytest.raises(OSError, match=r"nothing.jsonl"):
        reader.read(tmp_path / "nothing.jsonl")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        reader.read(tmp_path)


def test_a_picture_that_has_no_result_is_named_by_its_prompt(path):
    row = next(reader for reader in READERS if reader.name == "results").row
    rows = [row | {"filename": name, "metadata": name[0], "prompt": name[0]} for name in ("a0", "a1", "b0")]
    path.write_text("\n".join(map(json.dumps, rows)))
    message = f"{path}: expected 2 pictures of every prompt, as of another one, got 1 of 'b'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_results(path)


def test_a_prompt_is_one_however_its_metadata_are_written(path):
    row = next(reader for reader in READERS if reader.name == "results").row
    written = [{"b": 1, "a": 2}, {"a": 2, "b": 1}, {"a": 3}]
    rows = [row | {"filename": f"{k}.png", "metadata": json.dumps(said)} for k, said in enumerate(written)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="expected 2 pictures of every prompt"):
        read_results(path)


@pytest.mark.parametrize("other", ["./a/0.png", "a//0.png", "a/b/../0.png"])
def test_a_picture_is_one_however_its_path_is_written(path, other):
    row = next(reader for reader in READERS if reader.name == "results").row
    path.write_text("\n".join(json.dumps(row | {"filename": name}) for name in ("a/0.png", other)))
    with pytest.raises(ValueError, match="expected one result per picture"):
        read_results(path)


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-0.1", "10.1", "1" * 400, "true", "null", '"3"', "[3]")


@pytest.mark.parametrize("number", NUMBERS)
def test_scores_are_numbers_of_the_scale(path, number):
    for name, field in (("ratings", "PQ"), ("judgements", "helpfulness")):
        reader = next(reader for reader in READERS if reader.name == name)
        line = json.dumps(reader.row | {field: "HERE"}).replace('"HERE"', number)
        assert refusal(reader, path, line).startswith(f":1: {field}: expected a number in [0, ")


@pytest.mark.parametrize("number", ["true", "1.0", '"1"', "-1", "NaN"])
def test_turns_and_images_are_whole_numbers(path, number):
    for name in ("ratings", "judgements"):
        reader = next(reader for reader in READERS if reader.name == name)
        for field in ("turn", "image"):
            line = json.dumps(reader.row | {field: "HERE"}).replace('"HERE"', number)
            assert refusal(reader, path, line).startswith(f":1: {field}: expected ")


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_verdict_is_true_or_false(path, value):
    reader = next(reader for reader in READERS if reader.name == "results")
    assert refusal(reader, path, json.dumps(reader.row | {"correct": value})).startswith(":1: correct: expected bool")


@pytest.mark.parametrize("name", ["ratings", "judgements"])
def test_samples_and_turns_that_are_absent_are_named(path, name):
    reader = next(reader for reader in READERS if reader.name == name)

    def lines(*keys: tuple[str, int, int]) -> str:
        names = ("prompt", "image", "turn")
        return "\n".join(json.dumps(reader.row | dict(zip(names, key, strict=True))) for key in keys)

    path.write_text(lines(("a", 0, 1), ("a", 1, 1), ("b", 1, 1), ("b", 0, 1)))
    assert len(reader.read(path)) == 4
    message = refusal(reader, path, lines(("b", 0, 1), ("a", 0, 1), ("a", 1, 1)))
    assert message.startswith(": prompt 'b': expected 2 images, as 'a' has, got 1")
    message = refusal(reader, path, lines(("a", 0, 1), ("a", 0, 3)))
    assert message == ": prompt 'a', image 0: expected turn 2 too"
    # missing numbers are the first ones
    assert "again" in refusal(reader, path, lines(("p", 0, 1)) + "\n" + json.dumps(reader.row))


@pytest.mark.parametrize("module", [ratings, judgements])
def test_commands_take_paths_from_home_and_names_in_any_letters(module, path, monkeypatch):
    reader = next(reader for reader in READERS if reader.name == module.__name__.rpartition(".")[2])
    path.write_text(json.dumps(reader.row | {"tag": "日本"}))
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setattr(sys, "argv", ["command", f"~/{path.name}"])
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    module.main()
    sys.stdout.flush()
    assert b"\\u65e5\\u672c" in output.getvalue()


@pytest.mark.parametrize("module", [ratings, judgements])
def test_an_empty_file_is_named(module, path, monkeypatch, capsys):
    path.touch()
    monkeypatch.setattr(sys, "argv", ["command", str(path)])
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"{path}: expected at least one ")
