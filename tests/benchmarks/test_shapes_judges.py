"""The judges shapes-interleaved and shapes-edit on answers in files."""

from __future__ import annotations

import json
import random
import sys

import pytest

from benchmarks.answers import Answer, Block, write_answers
from benchmarks.editing import score as editing
from benchmarks.editing.ratings import read_ratings
from benchmarks.interleaved import score as interleaved
from benchmarks.interleaved.judgements import ASPECTS, Judgement, read_judgements
from benchmarks.pictures import write_picture
from unigrpo.worlds.shapes.edit_prompts import edits_by_type
from unigrpo.worlds.shapes.edits import apply_edit
from unigrpo.worlds.shapes.grammar import PLACES, Scene, random_item
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.stories import stories_by_length
from unigrpo.worlds.shapes.thinking import plan_of, write_thinking


def scenes_of(story) -> list[Scene]:
    """Scenes that tell a story."""
    rng = random.Random(0)
    scenes = [
        Scene(
            tuple(
                random_item(rng, place, one.shape, one.colour) for place, one in zip(PLACES, story.start, strict=False)
            )
        )
    ]
    for edit in story.edits:
        scenes.append(apply_edit(edit, scenes[-1], rng))
    return scenes


def told(story, folder, name: str) -> list[Block]:
    """The right answer to a story, its pictures written."""
    blocks = []
    for number, scene in enumerate(scenes_of(story)):
        write_picture(folder / f"{name}-{number}.png", render([scene])[0])
        blocks.append(Block(write_thinking(plan_of(scene)), f"{name}-{number}.png"))
    return [*blocks, Block("", None)]


@pytest.fixture
def stories():
    """One story of two pictures, and one of three."""
    return [stories[0] for stories in stories_by_length("test").values()]


@pytest.fixture
def edit():
    """A chain of three edits."""
    return edits_by_type("test")["recolour"][0]


def test_told_as_asked_is_five_of_five(stories, tmp_path, monkeypatch, capsys):
    answers = [Answer(story.key, tuple(told(story, tmp_path, story.key))) for story in stories]
    write_answers(tmp_path / "answers.json", answers)
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "answers.json")])
    interleaved.main()
    assert read_judgements(tmp_path / "judgements.jsonl") == [
        Judgement(story.key, story.tag, 5, pytest.approx(5, abs=0.05), 5, 5, 5) for story in stories
    ]
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert [row["structure"] for row in rows] == [1, 1]
    assert [row["pictures"] for row in rows] == [2, 3]
    assert capsys.readouterr().out.startswith("shapes-interleaved\ntext_quality")


def test_each_fault_costs_its_own_aspect(stories, tmp_path):
    story = stories[1]
    blocks = told(story, tmp_path, "story")
    faults = {
        "right": blocks,
        "early": [*blocks[:2], blocks[-1]],
        "open": blocks[:-1],
        "unpainted": [*blocks[:2], Block(blocks[2].text, None)],
        "wordless": [Block("circle", blocks[0].image), *blocks[1:]],
        "swapped": [
            blocks[0],
            Block(blocks[1].text, blocks[2].image),
            Block(blocks[2].text, blocks[1].image),
            blocks[3],
        ],
        "nothing": [],
    }
    answers = [Answer(story.key, tuple(blocks)) for blocks in faults.values()]
    rows = dict(zip(faults, interleaved.score(answers, tmp_path), strict=True))
    right = rows["right"]
    assert rows["early"]["helpfulness"] == pytest.approx(10 / 3)
    assert rows["early"]["text_quality"] == 5
    assert rows["open"] == right | {name: rows["open"][name] for name in ("structure", "reason")}
    assert rows["open"]["structure"] == 0.75
    assert rows["unpainted"]["text_quality"] == pytest.approx(10 / 3)
    assert rows["wordless"]["text_quality"] < 5
    assert rows["wordless"]["text_image_coherence"] < 5
    assert rows["wordless"]["helpfulness"] == 5
    assert rows["swapped"]["text_quality"] == 5
    assert rows["swapped"]["text_image_coherence"] < 5
    assert rows["swapped"]["helpfulness"] < 5
    assert {rows["nothing"][name] for name in (*ASPECTS, "structure")} == {0}


def test_what_follows_the_end_is_not_judged(stories, tmp_path):
    blocks = told(stories[0], tmp_path, "story")
    answers = [Answer(stories[0].key, tuple(blocks + more)) for more in ([], blocks)]
    one, other = interleaved.score(answers, tmp_path)
    assert one == other


def test_an_empty_name_is_no_picture(stories, tmp_path):
    blocks = told(stories[0], tmp_path, "story")
    nameless = [blocks[0], Block(blocks[1].text, ""), *blocks]
    pictureless = [blocks[0], Block(blocks[1].text, None)]
    one, other = (
        interleaved.score([Answer(stories[0].key, tuple(each))], tmp_path) for each in (nameless, pictureless)
    )
    assert one == other


def test_a_row_does_not_depend_on_the_other_answers(stories, tmp_path):
    answers = [Answer(story.key, tuple(told(story, tmp_path, story.key))) for story in stories]
    together = interleaved.score(answers, tmp_path)
    assert together == [row for answer in answers for row in interleaved.score([answer], tmp_path)]


def test_edited_as_asked_is_ten_of_ten(edit, tmp_path, monkeypatch, capsys):
    rng, answers = random.Random(0), []
    other = edits_by_type("test")["remove"][0]
    for prompt in (edit, other):
        scene, blocks = prompt.source, []
        for turn, change in enumerate(prompt.edits):
            scene = apply_edit(change, scene, rng)
            write_picture(tmp_path / f"{prompt.key}-{turn}.png", render([scene])[0])
            blocks.append(Block(None, f"{prompt.key}-{turn}.png"))
        answers.append(Answer(prompt.key, tuple(blocks)))
    write_answers(tmp_path / "answers.json", answers)
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "answers.json")])
    editing.main()
    ratings = read_ratings(tmp_path / "ratings.jsonl")
    assert [rating.turn for rating in ratings] == [1, 1, 2, 2, 3, 3]
    assert [rating.tag for rating in ratings] == [of.types[turn] for turn in range(3) for of in (edit, other)]
    assert all(rating.SC == 10 and rating.PQ > 9.9 for rating in ratings)
    assert capsys.readouterr().out.startswith("shapes-edit\n")


def test_an_edit_is_judged_against_the_picture_before_it(edit, tmp_path):
    write_picture(tmp_path / "source.png", render([edit.source])[0])
    write_picture(tmp_path / "first.png", render([apply_edit(edit.edits[0], edit.source, random.Random(0))])[0])
    (idle,) = editing.score([Answer(edit.key, (Block(None, "source.png"),))], tmp_path)
    assert (idle["success"], idle["preserved"], idle["SC"]) == (0, 10, 0)
    chain = Answer(edit.key, (Block(None, "first.png"), Block(None, "first.png")))
    assert [row["success"] == 10 for row in editing.score([chain], tmp_path)] == [True, False]


@pytest.mark.parametrize("module", [interleaved, editing])
def test_answers_to_something_else_are_refused(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "answers.json")])
    for answers, message in (([Answer("wikihow_0", (Block("a"),))], "got 'wikihow_0'"), ([], "at least one")):
        write_answers(tmp_path / "answers.json", answers)
        with pytest.raises(SystemExit) as stop:
            module.main()
        assert stop.value.code == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.startswith(str(tmp_path / "answers.json"))


@pytest.mark.parametrize("module", [interleaved, editing])
def test_pictures_of_another_size_and_ids_that_come_twice_are_refused(
    module, stories, edit, tmp_path, monkeypatch, capsys
):
    key = (stories[0] if module is interleaved else edit).key
    write_picture(tmp_path / "wide.png", render([edit.source])[0].repeat(2, axis=2))
    write_picture(tmp_path / "good.png", render([edit.source])[0])
    answers = {name: Answer(key, (Block("a text", f"{name}.png"),)) for name in ("wide", "good")}
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "answers.json")])
    for given, message in (
        ([answers["wide"]], f"{tmp_path / 'wide.png'}: expected a picture of 32 x 32 pixels, got 64 x 32"),
        ([answers["good"]] * 2, f"answers.json[1]: id: expected one answer per id, got '{key}' again"),
    ):
        write_answers(tmp_path / "answers.json", given)
        with pytest.raises(SystemExit) as stop:
            module.main()
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.jsonl"))


def test_turns_that_another_answer_has_are_not_left_out(edit, tmp_path):
    other = edits_by_type("test")["remove"][0]
    answers = [Answer(edit.key, (Block(None, "a.png"),) * 2), Answer(other.key, (Block(None, "a.png"),))]
    with pytest.raises(ValueError, match=f"{other.key}: expected 2 turns, as another answer has, got 1"):
        editing.score(answers, tmp_path)


def test_turns_without_a_picture_are_refused(edit, tmp_path):
    for blocks in ((), (Block("a plan"),), (Block(None, "a.png"),) * 4):
        with pytest.raises(ValueError, match="expected 1 to 3 blocks with a picture each"):
            editing.score([Answer(edit.key, blocks)], tmp_path)
