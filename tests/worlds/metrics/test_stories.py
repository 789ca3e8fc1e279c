"""What is said of stories, and its summary by hand."""

from __future__ import annotations

import json
import random
from statistics import fmean

import pytest

from tests.episodes import OVER, plan, said, shown
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds.shapes.dataset import story_prompt
from unigrpo.worlds.shapes.metrics import StoryMetric
from unigrpo.worlds.shapes.metrics.stories import ASPECTS
from unigrpo.worlds.shapes.stories import random_story
from unigrpo.worlds.shapes.story_judge import judge_stories


class TestStories:
    @staticmethod
    def told() -> DecodedEpisodes:
        """A story of two pictures, told right, and one of three, of which only the first is told."""
        (short, scenes), (long, others) = (random_story("test", steps, random.Random(1)) for steps in (2, 3))
        first, second, end = (plan(scenes[0]), "image"), (plan(scenes[1]), "image"), ("", "stop")
        parts = (
            said((short.prompt, "stop"), (long.prompt, "stop"), given=True),
            said(first, (plan(others[0]), "image")),
            shown(scenes[0], others[0]),
            said(second, end, turn=1),
            shown(scenes[1], OVER, turn=1),
            said(end, OVER, turn=2),
        )
        return DecodedEpisodes([story_prompt(short), story_prompt(long)], parts)

    def test_rows_are_what_the_judge_says(self):
        decoded = self.told()
        rows = StoryMetric()([decoded], 1).rows
        for row, verdict in zip(rows, judge_stories(decoded), strict=True):
            assert [row[aspect] for aspect in ASPECTS] == [getattr(verdict, aspect) for aspect in ASPECTS]
            assert row["mean"] == pytest.approx(fmean(row[aspect] for aspect in ASPECTS))
        assert [row["structure"] for row in rows] == [1, 1 / 4]
        assert [row["pictures"] for row in rows] == [2, 1]
        assert [[name for name in row if name.endswith("/asked")] for row in rows] == [
            ["step/1/asked", "step/2/asked"], ["step/1/asked", "step/2/asked", "step/3/asked"],
        ]  # fmt: skip
        assert [row["tag"] for row in rows] == ["steps-2", "steps-3"]
        for row, value in zip(rows, (1, 0), strict=True):
            assert [row[f"step/2/{name}"] for name in ("text", "faithful", "asked", "coherence")] == [value] * 4
        assert rows[1].keys() > {q.row_field for q in StoryMetric().quantities if q.row_field}
        json.dumps(rows, allow_nan=False)

    def test_steps_are_means_over_the_stories_that_ask_for_them(self):
        metrics = StoryMetric()([self.told()], 1).values
        assert metrics["interleaved/step/1/asked"] == 1
        assert metrics["interleaved/step/2/asked"] == 1 / 2
        assert metrics["interleaved/step/3/asked"] == 0
        assert metrics["interleaved/structure"] == 5 / 8
        assert metrics["interleaved/helpfulness"] == pytest.approx(5 * (1 + 1 / 3) / 2)
        assert metrics["interleaved/pictures"] == 1.5
