"""What is said of edits, and its summary by hand."""

from __future__ import annotations

import json
import random

import pytest

from tests.episodes import said, shown
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds.shapes.dataset import edit_prompt
from unigrpo.worlds.shapes.edit_prompts import edits_by_type
from unigrpo.worlds.shapes.edits import apply_edit
from unigrpo.worlds.shapes.metrics import EditMetric, edits


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
        return DecodedEpisodes(list(map(edit_prompt, prompts)), tuple(parts))

    def test_one_row_for_every_turn_with_the_type_of_its_own_edit(self):
        decoded = self.edited()
        rows = EditMetric()([decoded], 1).rows
        assert [(row["turn"], row["image"]) for row in rows] == [(1, 0), (1, 0), (2, 0), (2, 0)]
        asked = [(prompt, turn) for turn in (0, 1) for prompt in decoded.prompts]
        assert [row["tag"] for row in rows] == [prompt.meta["edits"][turn].kind for prompt, turn in asked]
        assert [row["text"] for row in rows] == [prompt.turns[turn] for prompt, turn in asked]
        assert [row["SC"] for row in rows[::2]] == [row["O"] for row in rows[::2]] == [10, 10]
        for row in rows:
            assert row["SC"] == min(row["success"], row["preserved"])
            assert row["O"] == pytest.approx((row["SC"] * row["PQ"]) ** 0.5)
        assert rows[1]["preserved"] == 10
        assert rows[1]["O"] < 10
        assert rows[0].keys() > {q.row_field for q in EditMetric().quantities if q.row_field}
        json.dumps(rows, allow_nan=False)

    def test_overall_is_the_mean_of_the_types_of_all_turns(self):
        scores = [("add", 1, 10.0), ("move", 1, 4.0), ("move", 2, 6.0), ("move", 2, 2.0)]
        rows = [{"tag": tag, "turn": turn, "SC": o, "PQ": 10.0, "O": o} for tag, turn, o in scores]
        metrics = edits._summary(rows)
        assert metrics["editing/O/add"] == 10
        assert metrics["editing/O/move"] == 4
        assert metrics["editing/O"] == metrics["editing/SC"] == 7
        assert metrics["editing/turn/1/O"] == 7
        assert metrics["editing/turn/2/O"] == 4
        assert metrics["editing/PQ"] == metrics["editing/turn/2/PQ"] == 10
