"""What is said of single images, and its summary by hand."""

from __future__ import annotations

import json
import random
from statistics import fmean

import pytest

from tests.episodes import OVER, plan, said, shown
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds.shapes.dataset import image_prompt
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import Scene
from unigrpo.worlds.shapes.metrics import ImageMetric, images
from unigrpo.worlds.shapes.prompts import by_task

NOTHING = Scene(())


class TestImages:
    @staticmethod
    def reflected() -> DecodedEpisodes:
        """Right at once and stopped; right and spoilt; wrong and mended; wrong and left; wrong and still wrong."""
        prompt = by_task("test")["colors"][0]
        right = satisfying_scene(prompt, random.Random(0))
        seen = plan(right)
        stop, paint, thought = (f"see {seen} fine", "stop"), (f"see {seen} wrong {seen}", "image"), (seen, "stop")
        parts = (
            said(*[(prompt.prompt, "stop")] * 5, given=True),
            said(thought, thought, thought, thought, ("red", "cut")),
            shown(right, right, NOTHING, NOTHING, NOTHING),
            said(stop, paint, paint, stop, paint, turn=1),
            shown(OVER, NOTHING, right, OVER, NOTHING, turn=1),
        )
        return DecodedEpisodes([image_prompt(prompt)] * 5, parts)

    def test_the_last_picture_is_measured(self):
        rows = ImageMetric()([self.reflected()], 5).rows
        assert [row["strict"] for row in rows] == [1, 0, 1, 0, 0]
        assert [row["first"] for row in rows] == [1, 1, 0, 0, 0]
        assert [row["stopped"] for row in rows] == [1, 0, 0, 1, 0]
        assert [row["rounds"] for row in rows] == [1, 2, 2, 1, 2]
        assert [row["described"] == 1 for row in rows] == [True, True, False, False, False], (
            "all say they see the right one"
        )
        assert images._summary(rows)["reflect/described"] == pytest.approx(fmean(row["described"] for row in rows))
        assert [row["image"] for row in rows] == list(range(5))
        assert [row["faithful"] for row in rows] == [1, 1, 1, 1, 0]
        assert rows[4]["thinking"] == "red"
        assert rows[4]["length"] == 1
        json.dumps(rows, allow_nan=False)
        assert rows[0].keys() > {q.row_field for q in ImageMetric().quantities if q.row_field}

    def test_what_reflection_did(self):
        metrics = ImageMetric()([self.reflected()], 5).values
        expected = {"first_strict": 2 / 5, "verdict": 3 / 5, "kept": 1 / 2, "repaired": 1 / 3, "rounds": 8 / 5}
        assert {name: metrics[f"reflect/{name}"] for name in expected} == pytest.approx(expected)
        assert metrics["geneval/strict"] == pytest.approx(2 / 5)

    def test_a_reflection_that_was_cut_off_is_no_verdict(self):
        whole = self.reflected()
        cut = said(*[("see", "cut")] * 5, turn=1)
        decoded = DecodedEpisodes(whole.prompts, (*whole.parts[:3], cut, shown(*[OVER] * 5, turn=1)))
        assert ImageMetric()([decoded], 5).values["reflect/verdict"] == 0

    def test_shares_without_cases_are_left_out(self):
        rows = ImageMetric()([self.reflected()], 5).rows
        assert "reflect/kept" not in images._summary([row for row in rows if not row["first"]])
        assert "reflect/repaired" not in images._summary([row for row in rows if row["first"]])

    def test_a_single_round_has_no_rounds(self):
        whole = self.reflected()
        rows = ImageMetric()([DecodedEpisodes(whole.prompts, whole.parts[:3])], 1).rows
        assert "rounds" not in rows[0]
        assert [row["strict"] for row in rows] == [1, 1, 0, 0, 0]
        assert not any(name.startswith("reflect") for name in images._summary(rows))

    def test_if_nobody_paints_again_the_first_picture_is_the_last(self):
        whole = self.reflected()
        everyone_stops = (*whole.parts[:3], said(*[("see fine", "stop")] * 5, turn=1))
        rows = ImageMetric()([DecodedEpisodes(whole.prompts, everyone_stops)], 5).rows
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
        return images._summary([blank | row for row in rows])

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


def test_a_row_that_painted_nothing_is_judged_by_a_blank_picture():
    """Not by what its place in the batch happens to hold."""
    prompt = by_task("test")["colors"][0]
    right = satisfying_scene(prompt, random.Random(0))
    parts = (said(*[(prompt.prompt, "stop")] * 2, given=True), said(*[("x", "stop")] * 2), shown(right, OVER))
    parts[2].pixels[1] = parts[2].pixels[0]
    rows = ImageMetric()([DecodedEpisodes([image_prompt(prompt)] * 2, parts)], 2).rows
    assert [row["strict"] for row in rows] == [1, 0]
    assert rows[1]["proxy"] < 0.5 < rows[0]["proxy"]
