"""Short walks over tiny models: what the tests of the walker and of training share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unigrpo.episodes import SingleRound
from unigrpo.flow.dynamics import FlowSde
from unigrpo.flow.guidance import CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.models.policy import Context, Policy
from unigrpo.noise import EpisodeDraws, generator
from unigrpo.trajectory import TextSegment, Trajectory
from unigrpo.walk import Rules, Walk

PAD, BOS, EOS = 0, 1, 2


class Protocol:
    """A policy that offers nothing but the protocol, and notes what it was asked."""

    def __init__(self, inner: Policy):
        self._inner = inner
        self.latent_shape = inner.latent_shape
        self.texts: list[tuple[int, int]] = []
        self.times: list[float] = []

    def start(self, batch: int) -> Context:
        return self._inner.start(batch)

    def extend_text(self, context: Context, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Context]:
        self.texts.append((tokens.shape[0], tokens.shape[1]))
        return self._inner.extend_text(context, tokens, mask)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t))
        return self._inner.velocity(context, x, t)


def rules(**changes: Any) -> Rules:
    """Four steps, the first two of them stochastic."""
    chosen = {
        "points": time_points(4),
        "dynamics": FlowSde(),
        "stochastic": (0, 1),
        "guidance": CfgFree(),
        "temperature": 1.0,
        "bos": BOS,
        "eos": EOS,
        "pad": PAD,
    }
    return Rules(**chosen | changes)


def prompts_of(keys: Sequence[str], vocabulary: int = 13) -> TextSegment:
    """Random words that depend on each key alone; rows of unequal length."""
    rows = []
    for key in keys:
        drawn = generator(("prompt", key))
        length = int(torch.randint(2, 6, (), generator=drawn))
        rows.append(torch.randint(5, vocabulary, (length,), generator=drawn))
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in rows])
    return TextSegment(tokens, torch.arange(tokens.shape[1]) < lengths[:, None], given=True)


def roll(
    policy: Any,
    given: Rules,
    keys: Sequence[str] = ("a", "b"),
    group: int = 3,
    *,
    seed: int = 0,
    shared: bool = True,
    episode: Any = None,
    alter: Callable[[tuple[int | str, ...], Tensor], Tensor] = lambda what, drawn: drawn,
) -> Trajectory:
    """Sample a batch of episodes as the trainer does; ``alter`` changes draws."""
    draws = EpisodeDraws((seed, "rollout", 0), tuple(keys), group, shared)
    walk = Walk(policy, given, len(keys))
    with torch.no_grad():
        episode = episode or SingleRound(max_thinking=6)
        episode(walk, prompts_of(keys), group, lambda what, shape: alter(what, draws(what, shape)))
    return Trajectory(tuple(keys), group, tuple(walk.segments), tuple(walk.scores), walk.cost)
