"""Sample episodes: what is shown beside what."""

import dataclasses
from pathlib import Path

import pytest

from reports.collect import Arm, Cell, Picture, Sample, Segment, read
from reports.samples import sample_grid

ASKED = Segment(0, given=True, text="add a red circle")
SOURCE = Segment(0, given=True, picture=Picture(Path("source.png")))
NEXT = Segment(1, given=True, text="remove the square")


def said(turn, text):
    return Segment(turn, given=False, text=text)


def painted(turn, picture="picture.png"):
    return Segment(turn, given=False, picture=Picture(Path(picture)))


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """The files of the pictures that these tests speak of, each with other bytes."""
    monkeypatch.chdir(tmp_path)
    for name in ("source.png", "picture.png", "another.png", "a1.png", "b1.png"):
        Path(name).write_bytes(name.encode())


@pytest.fixture
def sweep(edits):
    """A sweep's record whose arms can be given episodes of one's own."""
    return dataclasses.replace(read(edits), primary="editing/O", seeds=(0, 1), arms=())


def with_arms(sweep, **episodes):
    """``sweep`` with one sample per arm; an arm's value is its segments, or those by seed."""
    arms = []
    for name, given in episodes.items():
        by_seed = given if isinstance(given, dict) else {0: given}
        updates = int(name != "untouched")
        cells = [
            Cell(name, seed, f"{name}{seed}", "done", updates=updates, samples=(sample(segments),))
            for seed, segments in by_seed.items()
        ]
        arms.append(Arm(name, (), name == "untouched", tuple(cells)))
    return dataclasses.replace(sweep, arms=tuple(arms))


def sample(segments, key="0 add a red circle"):
    return Sample(key, "add a red circle", "add", {"SC": 3.0, "O": 4.0}, "", tuple(segments))


def test_what_all_arms_were_given_stands_once_and_the_prompt_in_the_title(sweep):
    mine = [SOURCE, ASKED, said(0, "plan"), painted(0), NEXT, said(1, "plan"), painted(1)]
    theirs = [SOURCE, ASKED, said(0, "other"), painted(0), NEXT, said(1, "other"), painted(1)]
    (row,) = sample_grid(with_arms(sweep, a=mine, b=theirs)).rows
    assert row.prompt == ASKED.text
    assert [turn.given for turn in row.turns] == [(SOURCE,), (NEXT,)]
    assert [turn.number for turn in row.turns] == [0, 1]
    assert [segment.text for segment in row.turns[0].generated[1]] == ["", "other"]


def test_words_stand_under_their_picture(sweep):
    (row,) = sample_grid(with_arms(sweep, a=[ASKED, said(0, "before"), painted(0), said(0, "after")])).rows
    assert [segment.text or segment.picture.png for segment in row.turns[0].generated[0]] == [
        b"picture.png",
        "before",
        "after",
    ]


def test_a_picture_is_what_it_shows_not_where_it_lies(sweep):
    Path("copy.png").write_bytes(Path("source.png").read_bytes())
    copy = Segment(0, given=True, picture=Picture(Path("copy.png")))
    (row,) = sample_grid(with_arms(sweep, a=[SOURCE, painted(0)], b=[copy, painted(0)])).rows
    assert row.turns[0].given == (SOURCE,)
    assert row.turns[0].generated == ((painted(0),), (painted(0),))


def test_what_one_arm_alone_was_given_stays_with_it(sweep):
    other = Segment(0, given=True, picture=Picture(Path("another.png")))
    (row,) = sample_grid(with_arms(sweep, a=[ASKED, SOURCE, painted(0)], b=[ASKED, other, painted(0)])).rows
    assert row.turns[0].given == ()
    assert row.turns[0].generated == ((SOURCE, painted(0)), (other, painted(0)))


def test_episodes_may_end_at_different_turns(sweep):
    short = [ASKED, said(0, "plan"), painted(0)]
    (row,) = sample_grid(with_arms(sweep, a=short, b=[*short, NEXT, painted(1)], c=short)).rows
    assert row.turns[1].generated == ((), (painted(1),), ())
    assert row.turns[1].given == (NEXT,)


def test_the_seed_is_the_one_that_most_arms_have(sweep):
    grid = sample_grid(with_arms(sweep, a={0: [painted(0)], 1: [painted(0, "a1.png")]}, b={1: [painted(0, "b1.png")]}))
    assert grid.seed == 1
    assert grid.rows[0].turns[0].generated == ((painted(0, "a1.png"),), (painted(0, "b1.png"),))


def test_the_untouched_model_stands_beside_any_seed(sweep):
    grid = sample_grid(with_arms(sweep, untouched={0: [painted(0)]}, a={1: [painted(0)]}))
    assert (grid.seed, grid.arms) == (1, ("untouched", "a"))


def test_a_prompt_that_an_arm_lacks_leaves_a_gap(sweep):
    arms = with_arms(sweep, a=[painted(0)], b=[painted(0)]).arms
    lacking = dataclasses.replace(arms[1].cells[0], samples=(sample([painted(0)], "1 something else"),))
    rows = sample_grid(dataclasses.replace(sweep, arms=(arms[0], Arm("b", (), False, (lacking,))))).rows
    assert [[found is not None for found in row.samples] for row in rows] == [[True, False], [False, True]]
    assert rows[0].turns[0].generated == ((painted(0),), ())


@pytest.mark.parametrize(("primary", "scored"), [("editing/O", "O"), ("geneval/strict", "SC"), ("of/nobody/O", "SC")])
def test_the_score_shown_is_the_primary_metrics_or_the_first(sweep, primary, scored):
    sweep = dataclasses.replace(sweep, primary=primary)
    assert sample_grid(with_arms(sweep, a=[painted(0)])).scored == scored


def test_no_samples_no_grid(sweep):
    assert sample_grid(sweep) is None
