"""What is measured and left is an exponential moving average of what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.models.adapters.adapter import Adapter
from unigrpo.models.adapters.full import Full
from unigrpo.registry import name_of, register

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from unigrpo.config import RunConfig
    from unigrpo.models.model import LoadedModel, Model
    from unigrpo.models.policy import Policy
    from unigrpo.noise import Key


@register("adapter", "ema", source="code of Flow-GRPO (arXiv 2505.05470): 0.9 every 8 steps, evaluated and saved")
@dataclass(frozen=True)
class Ema(Adapter):
    """``avg <- d avg + (1-d) w`` at every k-th optimiser step n, ``d = min(n/(n+9), decay)``; avg starts as the start.

    Rollouts and losses have the weights w, evaluations and what a run leaves the average.  Of LoRA its A and B are
    averaged each by itself, as in Flow-GRPO's code: their product is not the average of products.
    """

    inner: Adapter = field(default_factory=Full, metadata={"slot": "adapter"})
    """What is trained: ``full``, ``lora`` or one of your own."""
    decay: float = 0.9
    """Largest share of the average that stays when it moves."""
    every: int = 8
    """Optimiser steps from one move to the next."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay}: expected a share of at least 0 and less than 1")
        if self.every < 1:
            raise ValueError(f"every={self.every}: expected 1 optimiser step or more")
        if isinstance(self.inner, Ema):
            raise ValueError("inner=ema: an average of an average is not offered; use full or lora")

    @property
    def start(self) -> str:
        """As what is averaged."""
        return self.inner.start

    @property
    def trains_all(self) -> bool:
        """As what is averaged."""
        return self.inner.trains_all

    def attach(self, loaded: LoadedModel, key: Key) -> LoadedModel:
        """The model as what is averaged trains it."""
        return self.inner.attach(loaded, key)

    def state(self, policy: Policy) -> Mapping[str, Tensor]:
        """Of what is averaged; the average is a part of the optimiser's state."""
        return self.inner.state(policy)

    def restore(self, policy: Policy, tensors: Mapping[str, Tensor]) -> None:
        """Of what is averaged."""
        self.inner.restore(policy, tensors)

    def follow(self, optimizer: Optimizer) -> None:
        """Keep the average beside the optimiser's moments."""
        from unigrpo.models.adapters import average

        average.follow(optimizer, self.decay, self.every)

    def measured(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        """The average in the place of the weights."""
        from unigrpo.models.adapters import average

        return average.in_place(optimizer)

    def save(self, folder: Path, model: Model, loaded: LoadedModel) -> None:
        """As what is averaged."""
        self.inner.save(folder, model, loaded)

    def digest(self) -> str:
        """As what is averaged."""
        return self.inner.digest()

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Those of what is averaged."""
        yield from (f"inner={name_of(self.inner)}: {reason}" for reason in self.inner.conflicts(config))
