"""Measures: what is said of each episode, and their summaries by hand."""

from __future__ import annotations

import json
import random
from statistics import fmean

import pytest

from tests.episodes import OVER, plan, said, shown
from unigrpo.metrics import MEASURES, EditMeasure, ImageMeasure, StoryMeasure
from unigrpo.metrics.metric import by_tag
from unigrpo.metrics.stories import ASPECTS
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds import Shapes
from unigrpo.worlds.shapes.edit_prompts import edits_by_type
from unigrpo.worlds.shapes.edits import apply_edit
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import Scene
from unigrpo.worlds.shapes.prompts import by_task
from unigrpo.worlds.shapes.stories import random_story

WORLD = Shapes()
NOTHING = Scene(())


def test_every_family_has_its_measure():
    assert {"images": ImageMeasure, "stories": StoryMeasure, "edits": EditMeasure} == MEASURES


def test_what_says_most_is_in_the_summary():
    for decoded, family in (
        (TestImages.reflected(), "images"), (TestStories.told(), "stories"), (TestEdits.edited(), "edits"),
    ):  # fmt: skip
        measure = MEASURES[family](WORLD)
        assert measure.summary(measure.rows(decoded, 1)).keys() > set(measure.headline)


def test_means_by_tag_keep_the_order_of_appearance():
    rows = [{"tag": "b", "x": 1}, {"tag": "a", "x": 2}, {"tag": "b", "x": 5}]
    assert list(by_tag(rows, "x").items()) == [("b", 3), ("a", 2)]


class TestImages:
    @staticmethod
    def reflected() -> DecodedEpisodes:
        """Right at once and stopped; right and spoilt; wrong and mended; wrong and left; wrong and still wrong."""
        prompt = by_task("test")["colors"][0]
        right = satisfying_scene(prompt, random.Random(0))
        seen = plan(right)
        stop, paint, thought = (f"see {seen} fine", "stop"), (f"see {seen} wrong {seen}", "paint"), (seen, "stop")
        parts = (
            said(*[(prompt.prompt, "stop")] * 5, given=True),
            said(thought, thought, thought, thought, ("red", "cut")),
            shown(right, right, NOTHING, NOTHING, NOTHING),
            said(stop, paint, paint, stop, paint, turn=1),
            shown(OVER, NOTHING, right, OVER, NOTHING, turn=1),
        )
        return DecodedEpisodes([prompt] * 5, parts)

    def test_the_last_picture_is_measured(self):
        measure = ImageMeasure(WORLD)
        rows = measure.rows(self.reflected(), 5)
        assert [row["strict"] for row in rows] == [1, 0, 1, 0, 0]
        assert [row["first"] for row in rows] == [1, 1, 0, 0, 0]
        assert [row["stopped"] for row in rows] == [1, 0, 0, 1, 0]
        assert [row["rounds"] for row in rows] == [1, 2, 2, 1, 2]
        assert [row["described"] == 1 for row in rows] == [True, True, False, False, False], (
            "all say they see the right one"
        )
        assert measure.summary(rows)["reflect/described"] == pytest.approx(fmean(row["described"] for row in rows))
        assert [row["image"] for row in rows] == list(range(5))
        assert [row["faithful"] for row in rows] == [1, 1, 1, 1, 0]
        assert rows[4]["thinking"] == "red"
        assert rows[4]["length"] == 1
        json.dumps(rows, allow_nan=False)
        assert rows[0].keys() > set(measure.train_metrics)

    def test_what_reflection_did(self):
        measure = ImageMeasure(WORLD)
        metrics = measure.summary(measure.rows(self.reflected(), 5))
        expected = {"first_strict": 2 / 5, "verdict": 3 / 5, "kept": 1 / 2, "repaired": 1 / 3, "rounds": 8 / 5}
        assert {name: metrics[f"reflect/{name}"] for name in expected} == pytest.approx(expected)
        assert metrics["geneval/strict"] == pytest.approx(2 / 5)

    def test_a_reflection_that_was_cut_off_is_no_verdict(self):
        whole = self.reflected()
        cut = said(*[("see", "cut")] * 5, turn=1)
        decoded = DecodedEpisodes(whole.prompts, (*whole.parts[:3], cut, shown(*[OVER] * 5, turn=1)))
        measure = ImageMeasure(WORLD)
        assert measure.summary(measure.rows(decoded, 5))["reflect/verdict"] == 0

    def test_shares_without_cases_are_left_out(self):
        measure = ImageMeasure(WORLD)
        rows = measure.rows(self.reflected(), 5)
        assert "reflect/kept" not in measure.summary([row for row in rows if not row["first"]])
        assert "reflect/repaired" not in measure.summary([row for row in rows if row["first"]])

    def test_a_single_round_has_no_rounds(self):
        whole = self.reflected()
        measure = ImageMeasure(WORLD)
        rows = measure.rows(DecodedEpisodes(whole.prompts, whole.parts[:3]), 1)
        assert "rounds" not in rows[0]
        assert [row["strict"] for row in rows] == [1, 1, 0, 0, 0]
        assert not any(name.startswith("reflect") for name in measure.summary(rows))

    def test_if_nobody_paints_again_the_first_picture_is_the_last(self):
        whole = self.reflected()
        everyone_stops = (*whole.parts[:3], said(*[("see fine", "stop")] * 5, turn=1))
        rows = ImageMeasure(WORLD).rows(DecodedEpisodes(whole.prompts, everyone_stops), 5)
        assert [row["first"] for row in rows] == [row["strict"] for row in rows] == [1, 1, 0, 0, 0]
        assert {row["rounds"] for row in rows} == {1}

    @staticmethod
    def metrics_of(*rows: dict) -> dict[str, float]:
        blank = {
            "strict": 0,
            "official": 0,
            "strict_soft": 0.0,
            "official_soft": 0.0,
            "distance_to_clean": 0.0,
            "proxy": 0.0,
        }
        blank |= {"extra": 0, "faithful": 0, "length": 0}
        return ImageMeasure(WORLD).summary([blank | row for row in rows])

    def test_overall_is_the_unweighted_mean_of_the_tasks(self):
        tasks = [{"tag": "b", "strict": k == 0, "official": 1} for k in range(4)]
        found = self.metrics_of({"tag": "a", "strict": 1, "official": 1}, *tasks)
        assert found["geneval/strict/a"] == 1.0
        assert found["geneval/strict/b"] == 0.25
        assert found["geneval/strict"] == 0.625
        assert found["geneval/official"] == 1.0

    def test_other_measures_are_means_over_pictures(self):
        found = self.metrics_of(*(
            {"tag": "a", "distance_to_clean": k, "proxy": 2 * k, "extra": 3 * k, "faithful": k == 3, "length": 4 * k}
            for k in range(4)
        ))  # fmt: skip
        names = (
            "heldout/distance_to_clean",
            "heldout/proxy",
            "heldout/extra_objects",
            "thinking/faithful",
            "thinking/length",
        )
        assert [found[name] for name in names] == [1.5, 3.0, 4.5, 0.25, 6.0]


class TestStories:
    @staticmethod
    def told() -> DecodedEpisodes:
        """A story of two pictures, told right, and one of three, of which only the first is told."""
        (short, scenes), (long, others) = (random_story("test", steps, random.Random(1)) for steps in (2, 3))
        first, second, end = (plan(scenes[0]), "paint"), (plan(scenes[1]), "paint"), ("", "stop")
        parts = (
            said((short.prompt, "stop"), (long.prompt, "stop"), given=True),
            said(first, (plan(others[0]), "paint")),
            shown(scenes[0], others[0]),
            said(second, end, turn=1),
            shown(scenes[1], OVER, turn=1),
            said(end, OVER, turn=2),
        )
        return DecodedEpisodes([short, long], parts)

    def test_rows_are_what_the_judge_says(self):
        measure, decoded = StoryMeasure(WORLD), self.told()
        rows = measure.rows(decoded, 1)
        for row, verdict in zip(rows, WORLD.judge_stories(decoded), strict=True):
            assert [row[aspect] for aspect in ASPECTS] == [getattr(verdict, aspect) for aspect in ASPECTS]
            assert row["mean"] == pytest.approx(fmean(row[aspect] for aspect in ASPECTS))
        assert [row["structure"] for row in rows] == [1, 1 / 4]
        assert [row["pictures"] for row in rows] == [2, 1]
        assert [len(row["steps"]) for row in rows] == [2, 3]
        assert [row["tag"] for row in rows] == ["steps-2", "steps-3"]
        assert rows[0]["steps"][1] == {"text": 1, "faithful": 1, "asked": 1, "coherence": 1}
        assert rows[1]["steps"][1] == {"text": 0, "faithful": 0, "asked": 0, "coherence": 0}
        assert rows[0].keys() > set(measure.train_metrics)
        json.dumps(rows, allow_nan=False)

    def test_steps_are_means_over_the_stories_that_ask_for_them(self):
        measure = StoryMeasure(WORLD)
        metrics = measure.summary(measure.rows(self.told(), 1))
        assert metrics["interleaved/step/1/asked"] == 1
        assert metrics["interleaved/step/2/asked"] == 1 / 2
        assert metrics["interleaved/step/3/asked"] == 0
        assert metrics["interleaved/structure"] == 5 / 8
        assert metrics["interleaved/helpfulness"] == pytest.approx(5 * (1 + 1 / 3) / 2)
        assert metrics["interleaved/pictures"] == 1.5


class TestEdits:
    @staticmethod
    def edited() -> DecodedEpisodes:
        """Two prompts of two turns: both edits done; only a copy of the source."""
        prompts = [edits_by_type("test")[kind][0] for kind in ("recolour", "move")]
        rng = random.Random(0)
        first = apply_edit(prompts[0].edits[0], prompts[0].source, rng)
        second = apply_edit(prompts[0].edits[1], first, rng)
        other = prompts[1].source
        thought = [("", "stop")] * 2
        parts = [shown(prompts[0].source, other, given=True)]
        for turn, scene in enumerate((first, second)):
            parts.append(said(*((prompt.instructions[turn], "stop") for prompt in prompts), given=True, turn=turn))
            parts += [said(*thought, turn=turn), shown(scene, other, turn=turn)]
        return DecodedEpisodes(prompts, tuple(parts))

    def test_one_row_for_every_turn_with_the_type_of_its_own_edit(self):
        measure, decoded = EditMeasure(WORLD), self.edited()
        rows = measure.rows(decoded, 1)
        assert [(row["turn"], row["image"]) for row in rows] == [(1, 0), (1, 0), (2, 0), (2, 0)]
        asked = [(prompt, turn) for turn in (0, 1) for prompt in decoded.prompts]
        assert [row["tag"] for row in rows] == [prompt.edits[turn].kind for prompt, turn in asked]
        assert [row["text"] for row in rows] == [prompt.instructions[turn] for prompt, turn in asked]
        assert [row["SC"] for row in rows[::2]] == [row["O"] for row in rows[::2]] == [10, 10]
        for row in rows:
            assert row["SC"] == min(row["success"], row["preserved"])
            assert row["O"] == pytest.approx((row["SC"] * row["PQ"]) ** 0.5)
        assert rows[1]["preserved"] == 10
        assert rows[1]["O"] < 10
        assert rows[0].keys() > set(measure.train_metrics)
        json.dumps(rows, allow_nan=False)

    def test_overall_is_the_mean_of_the_types_of_all_turns(self):
        scores = [("add", 1, 10.0), ("move", 1, 4.0), ("move", 2, 6.0), ("move", 2, 2.0)]
        rows = [{"tag": tag, "turn": turn, "SC": o, "PQ": 10.0, "O": o} for tag, turn, o in scores]
        metrics = EditMeasure(WORLD).summary(rows)
        assert metrics["editing/O/add"] == 10
        assert metrics["editing/O/move"] == 4
        assert metrics["editing/O"] == metrics["editing/SC"] == 7
        assert metrics["editing/turn/1/O"] == 7
        assert metrics["editing/turn/2/O"] == 4
        assert metrics["editing/PQ"] == metrics["editing/turn/2/PQ"] == 10


def test_a_row_that_painted_nothing_is_judged_by_a_blank_picture():
    """Not by what its place in the batch happens to hold."""
    prompt = by_task("test")["colors"][0]
    right = satisfying_scene(prompt, random.Random(0))
    parts = (said(*[(prompt.prompt, "stop")] * 2, given=True), said(*[("x", "stop")] * 2), shown(right, OVER))
    parts[2].pixels[1] = parts[2].pixels[0]
    rows = ImageMeasure(WORLD).rows(DecodedEpisodes([prompt] * 2, parts), 2)
    assert [row["strict"] for row in rows] == [1, 0]
    assert rows[1]["proxy"] < 0.5 < rows[0]["proxy"]
