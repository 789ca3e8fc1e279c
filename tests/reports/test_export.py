"""Cells and scores by prompt, for other programs."""

from __future__ import annotations

import csv
import io
import json

import pytest

from reports import export
from reports.__main__ import main
from reports.collect import read
from tests.reports.synthetic import write_sweep


@pytest.fixture(scope="module")
def sweep(edits):
    return read(edits)


def test_scores_by_prompt_are_means_over_images(stories):
    found = export.per_prompt(read(stories))
    cell = next(iter((stories.parents[1] / "cells").iterdir()))
    rows = [json.loads(line) for line in (cell / "per_prompt.jsonl").read_text().splitlines()]
    of_one = [row["mean"] for row in rows if row["prompt"] == "story-2-0"]
    (at,) = [
        i
        for i, (name, prompt) in enumerate(zip(found["cell"], found["prompt"], strict=True))
        if (name, prompt) == (cell.name, "story-2-0")
    ]
    assert found["mean"][at] == pytest.approx(sum(of_one) / 2)
    assert (found["images"][at], found["tag"][at]) == (2, "steps-2")
    assert "image" not in found


def test_turns_and_guidance_are_rows_of_their_own(sweep, tmp_path):
    found = export.per_prompt(sweep)
    assert {*found["turn"]} == {1, 2, 3}
    assert {*found["images"]} == {1}
    assert len({len(column) for column in found.values()}) == 1
    folder = write_sweep(tmp_path, seeds=[0], updates=1)
    for path in (tmp_path / "cells").iterdir():
        rows = [json.loads(line) | {"guidance": 2.0} for line in (path / "per_prompt.jsonl").read_text().splitlines()]
        (path / "per_prompt_guided.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    guided = export.per_prompt(read(folder))
    assert [guided["guidance"].count(value) for value in (None, 2.0)] == [len(guided["seed"]) / 2] * 2


def test_parquet_holds_what_csv_holds_and_the_same_bytes_twice(sweep):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    files = export.tables(sweep)
    assert files == export.tables(sweep)
    for name in ("cells", "per_prompt"):
        table = parquet.read_table(io.BytesIO(files[f"{name}.parquet"]))
        rows = [*csv.reader(io.StringIO(files[f"{name}.csv"].decode()))]
        assert table.column_names == rows[0]
        found = [*zip(*(column.to_pylist() for column in table.columns), strict=True)]
        assert [["" if v is None else str(v) for v in row] for row in found] == rows[1:]


def test_a_column_of_words_and_numbers_is_one_of_words():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert export._array(["a", 1, None]).to_pylist() == ["a", "1", None]
    assert export._array([None]).to_pylist() == [None]


def test_without_pyarrow_there_is_csv_and_a_line_that_says_so(tmp_path, monkeypatch, capsys, undrawn):
    folder = write_sweep(tmp_path, seeds=[0], updates=1)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main([str(folder)]) == 0
    assert "pyarrow is not installed" in capsys.readouterr().err
    assert {path.name for path in (folder / "report").glob("*.csv")} == {"cells.csv", "per_prompt.csv"}
    assert not [*(folder / "report").glob("*.parquet")]


def test_a_field_that_is_no_number_in_some_rows_is_averaged_over_the_others():
    rows = [{"a": 1, "b": 2.0, "c": "x"}, {"a": 3, "b": float("nan"), "c": "y"}, {"a": "odd", "b": 4.0}]
    assert export._means(rows[:2]) == {"a": 2, "b": 2.0}
    assert export._means(rows) == {"a": 2, "b": 3.0}
    assert export._means([{"a": 1, "b": 2, "image": 0}, {"a": 2, "b": 4, "image": 1}]) == {"a": 1.5, "b": 3}
    assert export._key({"prompt": ["p"], "turn": 1}) == (None, "['p']", None, None, "1")
