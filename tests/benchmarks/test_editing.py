"""Ratings of edits: files and summaries."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.editing import ratings
from benchmarks.editing.ratings import Rating, Scores, by_turn, read_ratings, report, summarise, write_ratings

# the product of smaller scores underflows
SCORE = st.just(0.0) | st.floats(1e-6, 10)
RATINGS = st.builds(Rating, st.just("p"), st.sampled_from(["add", "remove"]), st.integers(1, 3), SCORE, SCORE, SCORE)


def rating(tag: str, success: float, preserved: float, quality: float, turn: int = 1) -> Rating:
    return Rating("prompt", tag, turn, success, preserved, quality)


def test_scores_of_one_picture():
    row = rating("add", 9, 4, 9)
    assert (row.SC, row.O) == (4, 6)
    assert rating("add", 10, 0, 10).O == 0


@given(RATINGS)
def test_overall_lies_between_its_parts(row):
    low, high = sorted((row.SC, row.PQ))
    assert low * (1 - 1e-12) <= row.O <= high * (1 + 1e-12)


def test_types_weigh_alike_whatever_their_numbers():
    rows = [
        rating("add", 10, 10, 10),
        rating("remove", 0, 10, 10),
        rating("remove", 4, 10, 1),
        rating("remove", 0, 0, 1),
    ]
    summary = summarise(rows)
    assert summary.types["add"] == Scores(10, 10, 10)
    assert summary.types["remove"] == Scores(pytest.approx(4 / 3), 4, pytest.approx(2 / 3))
    assert summary.overall.O == pytest.approx((10 + 2 / 3) / 2)  # noqa: SIM300 - O is no constant
    assert summary.count == 4
    assert summarise(rows * 2).types == summary.types


def test_the_mean_of_o_is_not_the_root_of_means():
    summary = summarise([rating("add", 10, 10, 0), rating("add", 0, 10, 10)])
    assert summary.overall == Scores(5, 5, 0)


def test_turns_are_kept_apart():
    rows = [rating("add", 4, 4, 4, turn=3), rating("add", 9, 9, 9), rating("move", 1, 1, 1)]
    turns = by_turn(rows)
    assert [*turns] == [1, 3]
    assert turns[1].overall == Scores(5, 5, 5)
    assert turns[3].types == {"add": Scores(4, 4, 4)}
    assert summarise(rows).overall == Scores(3.75, 3.75, 3.75)
    assert report(rows).splitlines()[-1] == "turn 3: SC  4.000   PQ  4.000   O  4.000   n 1"
    assert "turn 1" not in report(rows[1:])


@given(st.lists(RATINGS, min_size=1), st.randoms())
def test_summaries_do_not_depend_on_order(rows, rng):
    shuffled = rng.sample(rows, len(rows))
    one, other = summarise(rows), summarise(shuffled)
    assert one.count == other.count
    for name in ("SC", "PQ", "O"):
        assert getattr(one.overall, name) == pytest.approx(getattr(other.overall, name))


@given(st.lists(RATINGS))
def test_files_round_trip(tmp_path_factory, rows):
    rows = [dataclasses.replace(row, prompt=str(number), turn=1) for number, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("ratings") / "ratings.jsonl"
    write_ratings(path, rows)
    assert read_ratings(path) == rows


def test_written_rows_hold_what_follows(tmp_path):
    write_ratings(tmp_path / "ratings.jsonl", [rating("add", 9, 4, 9, turn=2)])
    row = json.loads((tmp_path / "ratings.jsonl").read_text())
    assert list(row) == ["prompt", "tag", "turn", "SC", "PQ", "O", "success", "preserved"]
    assert (row["SC"], row["O"], row["turn"]) == (4, 6, 2)


def test_a_turn_may_be_missing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "ratings.jsonl"
    path.write_text('{"prompt": "0001", "tag": "style", "success": 8, "preserved": 6, "PQ": 6, "reason": "so"}\n')
    assert read_ratings(path) == [Rating("0001", "style", 1, 8, 6, 6)]
    monkeypatch.setattr(sys, "argv", ["ratings", str(path)])
    ratings.main()
    assert "overall SC  6.000   PQ  6.000   O  6.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"success": 11}, r"ratings.jsonl:1: success: expected a number in \[0, 10\], got 11"),
        ({"turn": "1"}, "turn: expected int, got '1'"),
        ({"turn": 0}, "ratings.jsonl:1: turn: expected a number from 1, got 0"),
        ({"turn": -1}, "turn: expected a number from 1, got -1"),
        ({"PQ": None}, "PQ: expected a number"),
    ],
)
def test_malformed_ratings_are_refused(tmp_path, monkeypatch, capsys, change, message):
    path = tmp_path / "ratings.jsonl"
    path.write_text(
        json.dumps({"prompt": "a", "tag": "add", "turn": 1, "success": 1, "preserved": 1, "PQ": 1} | change)
    )
    with pytest.raises(ValueError, match=message):
        read_ratings(path)
    monkeypatch.setattr(sys, "argv", ["ratings", str(path)])
    with pytest.raises(SystemExit) as stop:
        ratings.main()
    assert stop.value.code == 2
    assert "ratings.jsonl:1" in capsys.readouterr().err


def test_nothing_cannot_be_summed_up():
    with pytest.raises(ValueError, match="at least one rating"):
        summarise([])
