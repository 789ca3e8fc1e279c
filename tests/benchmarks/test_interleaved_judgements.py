"""InterleavedEval's aspects: files and summary."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.interleaved import judgements
from benchmarks.interleaved.judgements import ASPECTS, Judgement, read_judgements, summarise, write_judgements


def judgement(tag: str, *aspects: float) -> Judgement:
    return Judgement("prompt", tag, *aspects)


def run(monkeypatch, path) -> None:
    monkeypatch.setattr(sys, "argv", ["judgements", str(path)])
    judgements.main()


def test_overall_is_the_plain_mean_of_the_aspects():
    summary = summarise([judgement("story", 5, 4, 3, 2, 1), judgement("report", 1, 2, 1, 2, 1)])
    assert list(summary.aspects) == list(ASPECTS)
    assert list(summary.aspects.values()) == [3, 3, 2, 2, 1]
    assert summary.overall == pytest.approx(2.2)
    assert summary.tags["report"]["perceptual_quality"] == 2
    assert (summary.count, summary.textless) == (2, ())


def test_published_averages_are_plain_means():
    assert summarise([judgement("", 2.86, 3.58, 3.25, 3.02, 2.94)]).overall == pytest.approx(3.13)
    assert summarise([judgement("", 2.33, 3.39, 3.01, 2.75, 2.85)]).overall == pytest.approx(2.87, abs=0.005)


def test_textual_aspects_of_editing_and_subject_driven_tasks_are_skipped():
    rows = [judgement("story", 4, 4, 4, 4, 4), judgement("image_editing", 0, 2, 2, 0, 2)]
    summary = summarise([*rows, judgement("subject_driven_generation", 0, 3, 3, 0, 3)])
    assert list(summary.aspects.values()) == [4, 3, 3, 4, 3]
    assert set(summary.tags["image_editing"]) == {"perceptual_quality", "image_coherence", "helpfulness"}
    assert summary.textless == ("image_editing", "subject_driven_generation")
    assert "image_editing, subject_driven_generation" in str(summary)
    assert list(summarise(rows, textless=()).aspects.values()) == [2, 3, 3, 2, 3]


def test_an_aspect_that_never_counts_is_in_no_mean():
    summary = summarise([judgement("image_editing", 0, 2, 3, 0, 4)])
    assert list(summary.aspects.values()) == [2, 3, 4]
    assert summary.overall == 3


def test_words_of_textless_tasks_are_found_in_any_letters():
    rows = [judgement("Image Editing", 0, 2, 3, 0, 4)]
    assert summarise(rows).textless == summarise(rows, textless=("EDIT",)).textless == ("Image Editing",)
    with pytest.raises(ValueError, match="textless: expected words, got an empty one"):
        summarise(rows, textless=("edit", ""))


def test_the_table_says_how_many_answers_a_mean_has():
    printed = str(summarise([judgement("edit", 0, 2, 3, 0, 4)] * 2 + [judgement("edit too", 0, 2, 3, 0, 4)]))
    assert "perceptual_quality    2.000   n 3" in printed
    assert f"{'text_quality':20s}      -   counts in no answer" in printed
    assert "edit                  3.000   n 2" in printed


@given(st.lists(st.tuples(*[st.floats(0, 5)] * 5), min_size=1))
def test_means_stay_in_the_scale(rows):
    summary = summarise([judgement("story", *row) for row in rows])
    assert all(0 <= mean <= 5 for mean in summary.aspects.values())
    assert summary.overall == pytest.approx(sum(map(sum, rows)) / len(rows) / 5)


def test_files_round_trip_and_rows_of_a_run_are_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "per_prompt.jsonl"
    row = judgement("steps-2", 5, 4, 3, 2, 1)
    write_judgements(path, [row])
    assert read_judgements(path) == [row]
    more = {"text": "tell\u2028it", "image": 0, "mean": 3.0, "structure": 1.0, "prompt": "key", "tag": "steps-3"}
    path.write_text(json.dumps(more | dict.fromkeys(ASPECTS, 2.5), ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert read_judgements(path) == [Judgement("key", "steps-3", 2.5, 2.5, 2.5, 2.5, 2.5)]
    run(monkeypatch, path)
    assert "overall               2.500   of 5, 1 answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"helpfulness": 5.1}, r"rows.jsonl:1: helpfulness: expected a number in \[0, 5\], got 5.1"),
        ({"helpfulness": True}, "got True"),
        ({"helpfulness": float("nan")}, "got nan"),
        ({"helpfulness": None}, "got None"),
    ],
)
def test_aspects_outside_the_scale_are_refused(tmp_path, change, message):
    row = {"prompt": "a", "tag": "b"} | dict.fromkeys(ASPECTS, 1) | change
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        read_judgements(tmp_path / "rows.jsonl")


def test_what_cannot_be_summed_up_ends_with_a_message(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "rows.jsonl")
    assert "text_quality: expected a number in [0, 5], found only prompt" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "rows.jsonl")
    assert "at least one judgement" in capsys.readouterr().err
