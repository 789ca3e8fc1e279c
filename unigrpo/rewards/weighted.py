"""Sums of rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unigrpo.errors import ConfigError
from unigrpo.registry import find, register
from unigrpo.rewards.reward import Reward, RewardOutput

if TYPE_CHECKING:
    from unigrpo.config import RunConfig
    from unigrpo.rollout.decoded import DecodedEpisodes


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
    def parts(self) -> tuple[Reward, ...]:
        """The rewards that it sums."""
        return tuple(part for _, part, _ in self._parts())

    @property
    def component_names(self) -> tuple[str, ...]:
        """``reward/component`` of every part."""
        return tuple(f"{name}/{component}" for name, part, _ in self._parts() for component in part.component_names)

    @property
    def component_weights(self) -> tuple[float, ...]:
        """Each part's own weights times the weight given to it."""
        return tuple(weight * own for _, part, weight in self._parts() for own in part.component_weights)

    @property
    def needs(self) -> frozenset[str]:
        """What all parts read of a prompt."""
        return frozenset().union(*(part.needs for part in self.parts))

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """What any part cannot live with."""
        for name, part, _ in self._parts():
            declared = getattr(part, "conflicts", None)
            if declared is not None:
                yield from (f"{name}: {reason}" for reason in declared(config))

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        """The components of all parts, side by side."""
        import torch

        parts = [part(decoded) for _, part, _ in self._parts()]
        return RewardOutput(
            torch.cat([part.outcome for part in parts], -1),
            torch.cat([part.steps for part in parts], -1),
            torch.stack([part.has_reward for part in parts]).any(0),
        )
