"""Which denoising steps are stochastic and trained; outside them a rollout follows the ODE and gets no gradient.

A window is called once per update with the number of steps, the update and a keyed ``random.Random``; it answers with
the sorted indices of its steps (0 is the first, noisiest step).  ``end`` is one past the last step that it can reach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from unigrpo.registry import Configuration, register


class Window(Protocol):
    """What a strategy of slot ``window`` offers."""

    def __call__(self, steps: int, update: int, rng: random.Random) -> tuple[int, ...]:
        """Sorted indices of the steps of one update."""
        ...

    def end(self, steps: int, updates: int) -> int:
        """One past the last step that it can reach in a run."""
        ...


@register("window", "all", source="Flow-GRPO (2505.05470)")
@dataclass(frozen=True)
class AllSteps:
    """Every step."""

    def __call__(self, steps: int, update: int, rng: random.Random) -> tuple[int, ...]:
        """All indices."""
        return tuple(range(steps))

    def end(self, steps: int, updates: int) -> int:
        """The number of steps."""
        return steps


@register("window", "random_window", source="Flow-GRPO-Fast; UniGRPO (2603.23500): size 3 in [0, 5]")
@dataclass(frozen=True)
class RandomWindow:
    """``size`` consecutive steps, their start drawn uniformly so that they lie in ``low .. high-1``."""

    size: int = 2
    low: int = 0
    high: int = 4

    def __post_init__(self) -> None:
        if self.low < 0 or not 1 <= self.size <= self.high - self.low:
            got = f"size={self.size}, low={self.low}, high={self.high}"
            raise ValueError(f"expected low >= 0 and 1 <= size <= high - low, got {got}")

    def __call__(self, steps: int, update: int, rng: random.Random) -> tuple[int, ...]:
        """``size`` consecutive indices."""
        start = rng.randint(self.low, self.high - self.size)
        return tuple(range(start, start + self.size))

    def end(self, steps: int, updates: int) -> int:
        """``high``."""
        return self.high

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why the window must lie within the sampler's steps."""
        if self.high > config.sampler.steps:
            yield f"high={self.high} lies beyond sampler.steps={config.sampler.steps}; lower it, or take more steps"


@register("window", "sliding", source="MixGRPO (2507.21802), progressive")
@dataclass(frozen=True)
class Sliding:
    """``size`` consecutive steps that move on by ``stride`` every ``every`` updates and stop at the end."""

    size: int = 4
    stride: int = 1
    every: int = 25

    def __post_init__(self) -> None:
        if min(self.size, self.stride, self.every) < 1:
            raise ValueError(f"expected 1 or more, got size={self.size}, stride={self.stride}, every={self.every}")

    def __call__(self, steps: int, update: int, rng: random.Random) -> tuple[int, ...]:
        """``size`` consecutive indices."""
        start = min(update // self.every * self.stride, steps - self.size)
        return tuple(range(start, start + self.size))

    def end(self, steps: int, updates: int) -> int:
        """One past the window of the last of ``updates`` updates."""
        return min((max(updates, 1) - 1) // self.every * self.stride + self.size, steps)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why the window must fit the sampler's steps."""
        if self.size > config.sampler.steps:
            yield f"size={self.size} is more than sampler.steps={config.sampler.steps}; lower it, or take more steps"


@register("window", "scattered", source="DanceGRPO (2505.07818): a random part of the steps")
@dataclass(frozen=True)
class Scattered:
    """``size`` steps drawn without replacement from all."""

    size: int = 4

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: expected 1 or more")

    def __call__(self, steps: int, update: int, rng: random.Random) -> tuple[int, ...]:
        """``size`` sorted indices."""
        return tuple(sorted(rng.sample(range(steps), self.size)))

    def end(self, steps: int, updates: int) -> int:
        """The number of steps."""
        return steps

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why there must be as many steps to draw from."""
        if self.size > config.sampler.steps:
            yield f"size={self.size} is more than sampler.steps={config.sampler.steps}; lower it, or take more steps"
