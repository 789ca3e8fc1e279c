"""Edited images: success, preservation and quality, 0 to 10, as VIEScore and GEdit-Bench put them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from unigrpo.metrics.metric import Measured, Quantity, Row, by_tag, named
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes

_SCORES = ("O", "SC", "PQ")
_FIELDS = (*_SCORES, "success", "preserved")
_TYPES = ("add", "remove", "replace", "recolour", "move", "count")
_TURNS = (1, 2, 3)
_GROUP = "Editing, 0–10"


@register("metric", "shapes_edit", source="VIEScore (arXiv 2312.14867), by the exact judge")
@dataclass(frozen=True)
class EditMetric:
    """Scores of edited images by the exact judge, called shapes-edit: not GEdit-Bench's."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"edits"})
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("editing/O", "O", _GROUP, headline=True, row_field="O", phrase="editing score O", bounds=(0, 10)),
        Quantity("editing/SC", "SC", _GROUP, row_field="SC", phrase="SC (edit made, the rest kept)", bounds=(0, 10)),
        Quantity("editing/PQ", "PQ", _GROUP, row_field="PQ", phrase="PQ (perceptual quality)", bounds=(0, 10)),
        *(
            Quantity(f"editing/O/{kind}", kind, "Editing O by type", row_field="O", rows=(("tag", kind),))
            for kind in _TYPES
        ),
        *(
            Quantity(
                f"editing/turn/{turn}/O", f"turn {turn}", "Editing O by turn", row_field="O", rows=(("turn", turn),)
            )
            for turn in _TURNS
        ),
        *(
            Quantity(f"editing/turn/{turn}/{name}", f"{name}, turn {turn}", "", row_field=name, rows=(("turn", turn),))
            for name in ("SC", "PQ")
            for turn in _TURNS
        ),
    )

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """Means of the types' means; overall over all turns, and turn by turn."""
        rows = [row for batch in episodes for row in edit_rows(batch, per_prompt)]
        return Measured(_summary(rows), rows)


def edit_rows(episodes: DecodedEpisodes, per_prompt: int) -> Iterator[Row]:
    """One row per turn of an episode, ``turn`` counted from 1; the tag is the type of its own edit."""
    from unigrpo.worlds.shapes.edit_judge import judge_edits

    for turn, verdicts in enumerate(episodes.judged(judge_edits)):
        for k, verdict in enumerate(verdicts):
            prompt = episodes.prompts[k]
            scores = {name: getattr(verdict, name) for name in _FIELDS}
            of = {"tag": prompt.meta["edits"][turn].kind, "text": prompt.turns[turn], "turn": turn + 1}
            yield named(episodes, k, per_prompt) | of | scores | {"reason": verdict.reason}


def _summary(rows: Sequence[Row]) -> dict[str, float]:
    values = {f"editing/{name}": fmean(by_tag(rows, name).values()) for name in _SCORES}
    values |= {f"editing/O/{tag}": score for tag, score in by_tag(rows, "O").items()}
    for turn in sorted({row["turn"] for row in rows}):
        of = [row for row in rows if row["turn"] == turn]
        values |= {f"editing/turn/{turn}/{name}": fmean(by_tag(of, name).values()) for name in _SCORES}
    return values
