"""Edited pictures: success, preservation and quality, 0 to 10, as VIEScore and GEdit-Bench put them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from unigrpo.metrics.metric import Row, by_tag, named
from unigrpo.rollout.decoded import DecodedEpisodes

_SCORES = ("SC", "PQ", "O")


class EditMeasure:
    """The judge called shapes-edit."""

    version = 1
    train_metrics = ("O", "SC", "PQ", "success", "preserved")
    headline = ("editing/O", "editing/SC", "editing/PQ")

    def __init__(self, world: Any):
        self.world = world

    def rows(self, decoded: DecodedEpisodes, per_prompt: int) -> list[Row]:
        """One row per turn of an episode, ``turn`` counted from 1; the tag is the type of its own edit."""
        rows = []
        for turn, verdicts in enumerate(decoded.judged(self.world.judge_edits)):
            for k, verdict in enumerate(verdicts):
                prompt = decoded.prompts[k]
                scores = {name: getattr(verdict, name) for name in self.train_metrics}
                of = {"tag": prompt.edits[turn].kind, "text": prompt.instructions[turn], "turn": turn + 1}
                rows.append(named(decoded, k, per_prompt) | of | scores | {"reason": verdict.reason})
        return rows

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means of the types' means; overall over all turns, and turn by turn."""
        metrics = {f"editing/{name}": fmean(by_tag(rows, name).values()) for name in _SCORES}
        metrics |= {f"editing/O/{tag}": score for tag, score in by_tag(rows, "O").items()}
        for turn in sorted({row["turn"] for row in rows}):
            of = [row for row in rows if row["turn"] == turn]
            metrics |= {f"editing/turn/{turn}/{name}": fmean(by_tag(of, name).values()) for name in _SCORES}
        return metrics
