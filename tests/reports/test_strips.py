"""Film strips: what stands beside what."""

import dataclasses
from pathlib import Path

import pytest

from reports.collect import Arm, Cell, Picture, Piece, Sample, read
from reports.strips import reel

ASKED = Piece(0, given=True, text="add a red circle")
SOURCE = Piece(0, given=True, picture=Picture(Path("source.png")))
NEXT = Piece(1, given=True, text="remove the square")


def said(turn, text):
    return Piece(turn, given=False, text=text)


def painted(turn, picture="picture.png"):
    return Piece(turn, given=False, picture=Picture(Path(picture)))


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


def with_arms(sweep, **strips):
    """``sweep`` with one sample per arm; an arm's value is its strip, or its strips by seed."""
    arms = []
    for name, strip in strips.items():
        by_seed = strip if isinstance(strip, dict) else {0: strip}
        updates = int(name != "untouched")
        cells = [
            Cell(name, seed, f"{name}{seed}", "done", updates=updates, samples=(sample(pieces),))
            for seed, pieces in by_seed.items()
        ]
        arms.append(Arm(name, (), name == "untouched", tuple(cells)))
    return dataclasses.replace(sweep, arms=tuple(arms))


def sample(strip, key="0 add a red circle"):
    return Sample(key, "add a red circle", "add", {"SC": 3.0, "O": 4.0}, "", tuple(strip))


def test_what_all_arms_were_given_stands_once_and_the_prompt_in_the_title(sweep):
    mine = [SOURCE, ASKED, said(0, "plan"), painted(0), NEXT, said(1, "plan"), painted(1)]
    theirs = [SOURCE, ASKED, said(0, "other"), painted(0), NEXT, said(1, "other"), painted(1)]
    (film,) = reel(with_arms(sweep, a=mine, b=theirs)).films
    assert film.prompt == ASKED.text
    assert [frame.given for frame in film.frames] == [(SOURCE,), (NEXT,)]
    assert [frame.turn for frame in film.frames] == [0, 1]
    assert [piece.text for piece in film.frames[0].made[1]] == ["", "other"]


def test_words_stand_under_their_picture(sweep):
    (film,) = reel(with_arms(sweep, a=[ASKED, said(0, "before"), painted(0), said(0, "after")])).films
    assert [piece.text or piece.picture.png for piece in film.frames[0].made[0]] == [b"picture.png", "before", "after"]


def test_a_picture_is_what_it_shows_not_where_it_lies(sweep):
    Path("copy.png").write_bytes(Path("source.png").read_bytes())
    copy = Piece(0, given=True, picture=Picture(Path("copy.png")))
    (film,) = reel(with_arms(sweep, a=[SOURCE, painted(0)], b=[copy, painted(0)])).films
    assert film.frames[0].given == (SOURCE,)
    assert film.frames[0].made == ((painted(0),), (painted(0),))


def test_what_one_arm_alone_was_given_stays_with_it(sweep):
    other = Piece(0, given=True, picture=Picture(Path("another.png")))
    (film,) = reel(with_arms(sweep, a=[ASKED, SOURCE, painted(0)], b=[ASKED, other, painted(0)])).films
    assert film.frames[0].given == ()
    assert film.frames[0].made == ((SOURCE, painted(0)), (other, painted(0)))


def test_episodes_may_end_at_different_turns(sweep):
    short = [ASKED, said(0, "plan"), painted(0)]
    (film,) = reel(with_arms(sweep, a=short, b=[*short, NEXT, painted(1)], c=short)).films
    assert film.frames[1].made == ((), (painted(1),), ())
    assert film.frames[1].given == (NEXT,)


def test_the_seed_is_the_one_that_most_arms_have(sweep):
    films = reel(with_arms(sweep, a={0: [painted(0)], 1: [painted(0, "a1.png")]}, b={1: [painted(0, "b1.png")]}))
    assert films.seed == 1
    assert films.films[0].frames[0].made == ((painted(0, "a1.png"),), (painted(0, "b1.png"),))


def test_the_untouched_model_stands_beside_any_seed(sweep):
    films = reel(with_arms(sweep, untouched={0: [painted(0)]}, a={1: [painted(0)]}))
    assert (films.seed, films.arms) == (1, ("untouched", "a"))


def test_a_prompt_that_an_arm_lacks_leaves_a_gap(sweep):
    arms = with_arms(sweep, a=[painted(0)], b=[painted(0)]).arms
    lacking = dataclasses.replace(arms[1].cells[0], samples=(sample([painted(0)], "1 something else"),))
    films = reel(dataclasses.replace(sweep, arms=(arms[0], Arm("b", (), False, (lacking,))))).films
    assert [[found is not None for found in film.samples] for film in films] == [[True, False], [False, True]]
    assert films[0].frames[0].made == ((painted(0),), ())


@pytest.mark.parametrize(("primary", "scored"), [("editing/O", "O"), ("geneval/strict", "SC"), ("of/nobody/O", "SC")])
def test_the_score_shown_is_the_primary_metrics_or_the_first(sweep, primary, scored):
    sweep = dataclasses.replace(sweep, primary=primary)
    assert reel(with_arms(sweep, a=[painted(0)])).scored == scored


def test_no_samples_no_reel(sweep):
    assert reel(sweep) is None
