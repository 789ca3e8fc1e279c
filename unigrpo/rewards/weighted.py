"""Sums of rewards, and what every reward offers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from unigrpo.registry import ConfigError, find, register

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.worlds.shapes.prompts import Prompt


class Reward(Protocol):
    """What a strategy of slot ``reward`` offers."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the K components."""
        ...

    @property
    def component_weights(self) -> tuple[float, ...]:
        """Weights with which the components are added."""
        ...

    def __call__(self, pictures: Tensor, prompts: Sequence[Prompt], world: Any) -> Tensor:
        """Components [B, K] fp32 of pictures [B, 3, H, W] in [-1, 1], one prompt each."""
        ...


@register("reward", "weighted", source="weighted sum of rewards, components kept apart")
@dataclass(frozen=True)
class WeightedReward:
    """A weighted sum of other rewards in their default settings; the components stay apart for the advantage.

    Raises:
        ConfigError: no reward, an unknown one, itself, or a weight that is not a finite number.
    """

    weights: dict[str, float] = field(default_factory=lambda: {"geneval": 0.5, "proxy": 0.5})
    """Name of a reward -> its weight."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError("weights: expected at least one reward, got none")
        if "weighted" in self.weights:
            raise ConfigError("weights: a weighted sum cannot hold itself; list its parts instead")
        if odd := {name: weight for name, weight in self.weights.items() if not math.isfinite(weight)}:
            raise ConfigError(f"weights: expected finite numbers, got {odd}")
        self._parts()

    def _parts(self) -> list[tuple[str, Reward, float]]:
        return [(name, find("reward", name)(), weight) for name, weight in self.weights.items()]

    @property
    def component_names(self) -> tuple[str, ...]:
        """``reward/component`` of every part."""
        return tuple(f"{name}/{component}" for name, part, _ in self._parts() for component in part.component_names)

    @property
    def component_weights(self) -> tuple[float, ...]:
        """Each part's own weights times the weight given to it."""
        return tuple(weight * own for _, part, weight in self._parts() for own in part.component_weights)

    def __call__(self, pictures: Tensor, prompts: Sequence[Prompt], world: Any) -> Tensor:
        """Components [B, K] fp32 of all parts, side by side."""
        import torch

        return torch.cat([part(pictures, prompts, world) for _, part, _ in self._parts()], dim=1)
