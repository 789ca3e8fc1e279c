"""The moving average of what an optimiser trains, kept in its state: there checkpoints and engines find it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from unigrpo.models.libraries import Foreign

#: Its name beside the moments of a parameter.
AVERAGE = "average"


def follow(optimizer: Optimizer, decay: float, every: int) -> None:
    """Let each step of an optimiser that counts its steps (``step``, as AdamW) move the average.

    A parameter that has had no gradient yet has not moved either: it is its own average, and none is kept.
    """
    starts: dict[Tensor, Tensor] = {}

    def before(optimizer: Optimizer, *_: Foreign) -> None:
        """Keep where parameters start; their state must stay empty, or AdamW would not make its own."""
        moving = (one for group in optimizer.param_groups for one in group["params"] if one.grad is not None)
        starts.update({one: one.detach().clone() for one in moving if one not in optimizer.state})

    def after(optimizer: Optimizer, *_: Foreign) -> None:
        steps = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        for parameter, state in optimizer.state.items():
            if AVERAGE not in state:
                state[AVERAGE] = starts[parameter]
            if steps % every == 0:
                state[AVERAGE].lerp_(parameter.detach(), 1 - min(steps / (steps + 9), decay))
        starts.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


@contextmanager
def in_place(optimizer: Optimizer) -> Iterator[None]:
    """Parameters are their averages, and as they were again."""
    _exchange(optimizer)
    try:
        yield
    finally:
        _exchange(optimizer)


@torch.no_grad()
def _exchange(optimizer: Optimizer) -> None:
    """By copies into the memory that is there: of sharded parameters another memory would go unseen."""
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            kept = parameter.clone()
            parameter.copy_(state[AVERAGE])
            state[AVERAGE].copy_(kept)
