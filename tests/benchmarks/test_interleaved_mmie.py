"""MMIE's scorer: its input, its output and their summaries."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.answers import Block
from benchmarks.interleaved import mmie

TEXTS = st.none() | st.text(max_size=8)
BLOCKS = st.lists(st.builds(Block, TEXTS, TEXTS), max_size=5).map(tuple)


def item(id: str = "SA-1", question: int = 0, answer: int = 0) -> mmie.Item:
    def blocks(name: str, count: int) -> tuple[Block, ...]:
        return tuple(Block(f"{name} {number}", f"{name}{number}.png") for number in range(count))

    return mmie.Item(id, blocks("q", question) or (Block("q"),), blocks("a", answer), "model", (Block("gt"),))


def run(monkeypatch, what, path) -> None:
    monkeypatch.setattr(sys, "argv", ["mmie", what, str(path)])
    mmie.main()


@given(BLOCKS, BLOCKS, st.lists(st.builds(Block, TEXTS, TEXTS), min_size=1).map(tuple))
def test_items_round_trip(tmp_path_factory, question, answer, reference):
    path = tmp_path_factory.mktemp("mmie") / "data.json"
    items = [mmie.Item("PBL-3", question, answer, "model", reference)]
    mmie.write_items(path, items)
    assert mmie.read_items(path) == items


def test_an_answer_may_be_plain_text(tmp_path):
    path = tmp_path / "data.json"
    mmie.write_items(path, [item()])
    (plain,) = json.loads(path.read_text())
    path.write_text(json.dumps([plain | {"answer": "forty-two"}]))
    assert mmie.read_items(path)[0].answer == (Block("forty-two"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "7"}, r"data.json\[0\]: id: expected one that holds SA or PBL or MSR, got '7'"),
        ({"gt_answer": []}, r"data.json\[0\]: SA-1: gt_answer: expected one block at least"),
        ({"answer": [{"text": 3}]}, r"data.json\[0\]: answer\[0\]: text: expected str, got 3"),
        ({"answer": ["a"]}, r"answer\[0\]: expected an object with text and image, got 'a'"),
        ({"question": None}, "question: expected list, got None"),
    ],
)
def test_a_malformed_item_is_named(tmp_path, change, message):
    path = tmp_path / "data.json"
    mmie.write_items(path, [item()])
    (plain,) = json.loads(path.read_text())
    path.write_text(json.dumps([plain | change]))
    with pytest.raises(ValueError, match=message):
        mmie.read_items(path)


@pytest.mark.parametrize(
    ("question", "answer", "hidden", "left_out"),
    [(0, 3, 0, False), (0, 5, 2, False), (2, 1, 0, False), (2, 3, 2, False), (3, 2, 2, False), (5, 0, 0, True)],
)
def test_what_the_scorer_shows(tmp_path, question, answer, hidden, left_out):
    asked = item(question=question, answer=answer)
    for block in (*asked.question, *asked.answer):
        if block.image:
            (tmp_path / block.image).touch()
    assert mmie.view(asked, tmp_path) == mmie.View(hidden, left_out, ())


def test_the_first_text_is_shown_beside_any_question(tmp_path):
    asked = item(question=3)
    for block in asked.question:
        (tmp_path / str(block.image)).touch()
    answers = (Block("first"), Block("second"))
    only_text = mmie.Item(asked.id, asked.question, answers, "model", asked.gt_answer)
    assert mmie.view(only_text, tmp_path).hidden == 1


def test_pictures_that_are_missing_do_not_count(tmp_path):
    asked = item(answer=4)
    (tmp_path / "a3.png").touch()
    assert mmie.view(asked, tmp_path) == mmie.View(0, False, ("a0.png", "a1.png", "a2.png"))


def test_the_check_counts_what_is_not_seen(tmp_path, monkeypatch, capsys):
    items = [item("SA-1", answer=5), item("SA-2", question=5), item("SA-3", answer=1)]
    for number in range(5):
        (tmp_path / f"q{number}.png").touch()
        (tmp_path / f"a{number}.png").touch()
    mmie.write_items(tmp_path / "data.json", items)
    (tmp_path / "a0.png").unlink()
    run(monkeypatch, "check", tmp_path / "data.json")
    printed = capsys.readouterr().out
    assert "3 items, 1 left out" in printed
    assert "1 answers shown in part" in printed
    assert "1 blocks hidden" in printed
    assert "2 pictures are not there\n  a0.png\n  a0.png" in printed


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("### Feedback\nfine, 3 pictures\n### Score\n4", 4),
        ("### Score: 5/6", 5),
        ("### Score\nI would give it a **2.7** of 6", 3),
        ("### Score 0", 0),
        ("### Score\n7", None),
        ("### Score\n-1", None),
        ("### Score\n6.4", 6),
        ("### Score\n-0.4", 0),
        ("### Score " + "9" * 400, None),
        ("### Score\nnone", None),
        ("4", None),
        ("", None),
        ("### Feedback 5", None),
    ],
)
def test_the_first_number_after_the_heading_counts(text, score):
    assert mmie.Reply("SA", text).score == score


@given(st.text())
def test_any_reply_has_a_score_in_range_or_none(text):
    assert mmie.Reply("SA", text).score in {None, *range(7)}
    assert mmie.Reply("SA", f"### Score {text}").score in {None, *range(7)}


def test_a_category_weighs_as_much_as_it_has():
    scores = [("SA", 3), ("PBL", 6), ("PBL", 6), ("PBL", 3), ("MSR", 0)]
    replies = [mmie.Reply(f"{category}-{n}", f"### Score {score}") for n, (category, score) in enumerate(scores)]
    summary = mmie.summarise([*replies, mmie.Reply("MSR-9", "### Score 9"), mmie.Reply("SA-9", "no idea")])
    assert summary.categories == {"SA": 3, "PBL": 5, "MSR": 0}
    assert summary.mean == pytest.approx(18 / 5)
    assert (summary.count, summary.dropped) == (5, 2)
    assert "60.00 %" in str(summary)
    assert "5 replies count, 2 dropped" in str(summary)


@pytest.mark.parametrize(
    ("row", "average"),
    [((56.87, 62.28, 54.31), 59.50), ((53.12, 60.34, 53.28), 57.27), ((47.63, 55.12, 42.17), 50.92)],
)
def test_published_averages_are_weighted_by_samples(row, average):
    replies = []
    for category, size, percent in zip(mmie.CATEGORIES, (5005, 11482, 3616), row, strict=True):
        low, above = divmod(round(percent / 100 * mmie.MOST * size), size)
        replies += [mmie.Reply(category, f"### Score {low + (number < above)}") for number in range(size)]
    summary = mmie.summarise(replies)
    assert [100 * mean / mmie.MOST for mean in summary.categories.values()] == pytest.approx(row, abs=0.002)
    assert 100 * summary.mean / mmie.MOST == pytest.approx(average, abs=0.012)


def test_outputs_of_the_scorer_are_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "eval_result.json"
    row = {"id": "MSR-0", "model": "m", "question": "q\n", "answer": "a\n", "gt_answer": "g", "images": []}
    other = row | {"id": "MSR-1", "gpt_feedback": "?"}
    path.write_text(json.dumps([row | {"gpt_feedback": "good\n### Score\n3"}, other]))
    run(monkeypatch, "summary", path)
    printed = capsys.readouterr().out
    assert "MSR   3.000 of 6    50.00 %" in printed
    assert "1 replies count, 1 dropped" in printed
    path.write_text(json.dumps([row]))
    with pytest.raises(SystemExit):
        run(monkeypatch, "summary", path)
    assert "eval_result.json[0]: gpt_feedback: expected str" in capsys.readouterr().err


def test_an_item_counts_once_and_the_table_says_how_many_count(tmp_path, monkeypatch, capsys):
    path = tmp_path / "result.json"
    rows = [{"id": f"SA-{n}", "gpt_feedback": f"### Score {score}"} for n, score in enumerate((6, 0))]
    path.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "summary", path)
    assert stop.value.code == 2
    message = f"{path}[2]: id: expected one reply per id, got 'SA-0' again, first at {path}[0]"
    assert message in capsys.readouterr().err
    path.write_text(json.dumps([*rows, {"id": "PBL", "gpt_feedback": "### Score 6"}]))
    run(monkeypatch, "summary", path)
    printed = capsys.readouterr().out
    assert "SA    3.000 of 6    50.00 %   2 replies count, 0 dropped" in printed
    assert "MSR  no reply" in printed
    assert "AVG is of SA and PBL alone: no reply of MSR" in printed


def test_a_reply_without_a_score_may_count_as_wrong(tmp_path, monkeypatch, capsys):
    path = tmp_path / "result.json"
    replies = {"SA-0": "### Score 6", "SA-1": "no idea", "PBL": ""}
    path.write_text(json.dumps([{"id": id, "gpt_feedback": text} for id, text in replies.items()]))
    with pytest.raises(SystemExit):
        run(monkeypatch, "summary", path)
    message = f"{path}: PBL: expected at least one reply with a score from 0 to 6, got none and 1 without"
    assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["mmie", "summary", str(path), "--missing", "wrong"])
    mmie.main()
    printed = capsys.readouterr().out
    assert "AVG   2.000 of 6    33.33 %   3 replies count, 0 dropped" in printed
    assert "PBL   0.000" in printed


@pytest.mark.parametrize("what", ["check", "summary"])
def test_an_empty_list_is_named(tmp_path, monkeypatch, capsys, what):
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, what, path)
    assert stop.value.code == 2
    assert f"{path}: expected at least one" in capsys.readouterr().err


def test_an_empty_answer_is_named(tmp_path):
    asked = mmie.Item("SA-7", (Block("q"),), (Block("", None),), "model", (Block("gt"),))
    assert mmie.check([item(answer=1), asked], tmp_path).endswith("1 answers are empty\n  SA-7")


def test_replies_that_all_drop_are_no_score():
    with pytest.raises(ValueError, match="got none and 1 without"):
        mmie.summarise([mmie.Reply("SA", "")])
