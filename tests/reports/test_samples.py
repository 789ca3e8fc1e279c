"""Sample episodes: what is shown beside what."""

import base64
import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from reports.collect import read
from reports.records import Arm
from reports.runs import Cell, Picture, Sample, Segment
from reports.samples import sample_grid
from reports.thumbnails import thumbnail

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


def scored(sweep, **by_arm):
    """``sweep`` with one prompt for each score; None where an arm lacks it."""
    arms = []
    for name, scores in by_arm.items():
        found = [
            Sample(f"{i} {'abcdef'[i]}", "abcdef"[i], f"tag{i % 2}", {"O": x}, "why", (painted(0),))
            for i, x in enumerate(scores)
            if x is not None
        ]
        cell = Cell(name, 0, name, "done", updates=int(name != "untouched"), samples=tuple(found))
        arms.append(Arm(name, (), name == "untouched", (cell,), repeats="base" if name == "again" else None))
    return dataclasses.replace(sweep, arms=tuple(arms), baseline="base")


def test_the_worst_regressions_against_the_baseline_come_first(sweep):
    of = scored(sweep, base=[4, 4, 4, 4], one=[4, 3, 4, 5], two=[4, 4, 1, 5], again=[0, 0, 0, 0], untouched=[0] * 4)
    grid = sample_grid(of)
    assert grid.arms[:2] == ("untouched", "base")
    assert [row.prompt for row in grid.rows] == ["c", "b", "a", "d"]
    assert [row.worst for row in grid.rows] == [-3, -1, 0, 0]
    assert grid.change_options == [("change-all", "all", 4), ("change-worse", "got worse", 2),
                                   ("change-better", "got better", 1)]  # fmt: skip
    assert grid.tag_options == [("tag-all", "all", 4), ("tag-0", "tag0", 2), ("tag-1", "tag1", 2)]
    assert grid.passes is False


def test_where_less_is_better_more_is_a_regression(sweep):
    of = dataclasses.replace(scored(sweep, base=[1, 1], one=[0, 2]), higher_is_better=False)
    assert [row.prompt for row in sample_grid(of).rows] == ["b", "a"]


def test_nothing_is_ranked_by_another_score_than_the_primary(sweep):
    grid = sample_grid(dataclasses.replace(scored(sweep, base=[1, 1], one=[1, 0]), primary="of/nobody"))
    assert grid.baseline == ""
    assert [row.prompt for row in grid.rows] == ["a", "b"]


def test_episodes_pass_or_fail_where_no_score_lies_between(sweep):
    assert sample_grid(scored(sweep, base=[1, 0], one=[0, 1])).passes
    assert not sample_grid(scored(sweep, base=[1, 0], one=[0, 0.5])).passes


def test_a_prompt_that_the_baseline_lacks_is_no_regression(sweep):
    grid = sample_grid(scored(sweep, base=[None, 1], one=[0, 0]))
    assert [(row.prompt, row.worst) for row in grid.rows] == [("b", -1), ("a", 0)]


def test_rows_whose_pictures_do_not_fit_are_left_out_the_worst_kept(sweep):
    for name in ("b1.png", "a1.png"):
        Path(name).write_bytes(name.encode() * 1000)
    of = with_arms(sweep, a=[painted(0)])
    samples = [sample([painted(0, name)], f"{i} x") for i, name in enumerate(("picture.png", "a1.png", "b1.png"))]
    of = dataclasses.replace(
        of,
        arms=(
            dataclasses.replace(of.arms[0], cells=(dataclasses.replace(of.arms[0].cells[0], samples=tuple(samples)),)),
        ),
    )
    grid = sample_grid(of, room=10_000)
    assert (len(grid.rows), grid.left_out) == (2, 1)
    assert len(sample_grid(of, room=1).rows) == 1  # never none


def test_a_picture_that_is_shown_twice_is_held_once(sweep):
    grid = sample_grid(with_arms(sweep, a=[painted(0)], b=[painted(0)], c=[painted(0, "a1.png")]))
    assert [*grid.shared.values()] == ["picture-0"]
    assert next(iter(grid.shared)).png == b"picture.png"


def test_small_pictures_stay_as_they_are_and_large_ones_become_smaller():
    def png(width, height):
        file = io.BytesIO()
        Image.effect_noise((width, height), 60).convert("RGB").save(file, "png")
        return file.getvalue()

    small = png(32, 32)
    assert thumbnail(small).uri == "data:image/png;base64," + base64.b64encode(small).decode()
    assert thumbnail(small).coarse
    large = thumbnail(png(512, 1024))
    assert large.uri.startswith("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(large.uri.partition(",")[2]))) as shown:
        assert shown.size == (128, 256)
    assert not large.coarse
    broken = png(300, 300)[:60]
    assert thumbnail(broken).uri == "data:image/png;base64," + base64.b64encode(broken).decode()
