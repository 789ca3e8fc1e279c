"""What can be measured of any episode, without a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from unigrpo.metrics.metric import Measured, Quantity, named
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes


@register("metric", "lengths", source="this project")
@dataclass(frozen=True)
class Lengths:
    """How long the texts are, and how many images there are."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("text/length", "length", "Text", "neither", row_field="length"),
        Quantity("text/cut", "cut off", "Text", "lower", row_field="cut"),
        Quantity("images", "images", "Form", "neither", row_field="images"),
    )

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """Means over episodes: tokens of all texts, whether one was cut off, and images generated."""
        rows = [
            named(batch, k, per_prompt)
            | {
                "length": sum(part.lengths[k] for _, part in batch.texts),
                "cut": int(any(part.ends[k] == "cut" for _, part in batch.texts)),
                "images": sum(part.alive[k] for _, part in batch.images),
            }
            for batch in episodes
            for k in range(len(batch.prompts))
        ]
        return Measured({q.name: fmean(row[q.row_field] for row in rows) for q in self.quantities}, rows)


@register("metric", "diversity", source="this project; guards against mode collapse")
@dataclass(frozen=True)
class Diversity:
    """How unlike each other the last images of one prompt are."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    quantities: ClassVar[tuple[Quantity, ...]] = (Quantity("heldout/diversity", "diversity", "Held out"),)

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """Mean root-mean-square distance over pixels between two images of a prompt; nothing where there is but one."""
        import torch

        shown = [batch.last_images() for batch in episodes if batch.images]
        if per_prompt < 2 or not shown:
            return Measured({})
        groups = torch.cat(shown).unflatten(0, (-1, per_prompt)).flatten(2)
        distance = torch.cdist(groups, groups) / groups.shape[-1] ** 0.5
        mean = (distance.sum((1, 2)) / (per_prompt * (per_prompt - 1))).mean().item()
        return Measured({"heldout/diversity": mean})
