"""Short rollouts over tiny models: what the tests of the rollout and of training share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unigrpo.flow.dynamics import FlowSde
from unigrpo.flow.guidance import CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.policy import Context, Policy
from unigrpo.noise import Draw, EpisodeDraws, generator
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.heads import Flow
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, Segment, TextScore, TextSegment, Trajectory

PAD, BOS, EOS, IMAGE = 0, 1, 2, 3


class Protocol:
    """A policy that offers nothing but the protocol, and notes what it was asked."""

    def __init__(self, inner: Policy):
        self._inner = inner
        self.device = inner.device
        self.texts: list[tuple[int, int]] = []
        self.looks: list[int] = []
        self.times: list[float] = []

    def start(self, batch: int) -> Context:
        return self._inner.start(batch)

    def extend_text(
        self, context: Context, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, Context]:
        self.texts.append((tokens.shape[0], tokens.shape[1]))
        return self._inner.extend_text(context, tokens, mask, logits=logits)

    def extend_image(self, context: Context, latents: Tensor, alive: Tensor) -> Context:
        self.looks.append(int(alive.sum()))
        return self._inner.extend_image(context, latents, alive)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t))
        return self._inner.velocity(context, x, t)


class Dice:
    """A policy whose next word has fixed probabilities, and whose pictures stay noise."""

    device = torch.device("cpu")

    def __init__(self, *probabilities: float):
        self.logits = torch.tensor(probabilities).log()

    def start(self, batch: int) -> Context:
        nothing = torch.zeros(batch, 0, dtype=torch.bool)
        return MoTContext((), (), nothing, torch.zeros(batch, dtype=torch.long))

    def extend_text(
        self, context: Context, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, Context]:
        return self.logits.expand(*tokens.shape, -1), context

    def extend_image(self, context: Context, latents: Tensor, alive: Tensor) -> Context:
        return context

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def spec(**changes: Any) -> RolloutSpec:
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
        "image": IMAGE,
        "head": Flow(),
        "latent_shape": (3, 2, 2),
    }
    return RolloutSpec(**chosen | changes)


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


def pictures_of(keys: Sequence[str], shape: Sequence[int]) -> ImageSegment:
    """Random source pictures that depend on each key alone."""
    latents = torch.stack([torch.randn(tuple(shape), generator=generator(("source", key))).tanh() for key in keys])
    return ImageSegment((), latents, torch.ones(len(keys), dtype=torch.bool), given=True)


def given_in(episode: Any, keys: Sequence[str], shape: Sequence[int]) -> tuple[Segment, ...]:
    """What the prompts named ``keys`` give in ``episode``: for edits a source picture and three instructions."""
    if "images" not in getattr(episode, "needs", ()):
        return (prompts_of(keys),)
    return (pictures_of(keys, shape), *(prompts_of([f"{key}{turn}" for key in keys]) for turn in range(3)))


@dataclass(frozen=True)
class Altered:
    """Draws that ``alter`` changes."""

    draws: Draw
    alter: Callable[[tuple[int | str, ...], Tensor], Tensor]

    def uniform(self, what: tuple[int | str, ...], shape: Sequence[int]) -> Tensor:
        return self.alter(what, self.draws.uniform(what, shape))

    def normal(self, what: tuple[int | str, ...], shape: Sequence[int], *, shareable: bool = False) -> Tensor:
        return self.alter(what, self.draws.normal(what, shape, shareable=shareable))


@dataclass(frozen=True)
class Constant:
    """Draws that are all the same, for so many rows."""

    rows: int
    value: float

    def uniform(self, what: tuple[int | str, ...], shape: Sequence[int]) -> Tensor:
        return torch.full((self.rows, *shape), self.value)

    def normal(self, what: tuple[int | str, ...], shape: Sequence[int], *, shareable: bool = False) -> Tensor:
        return torch.full((self.rows, *shape), self.value)


def shape_of(policy: Any) -> tuple[int, int, int]:
    """Of the latents that a tiny policy generates."""
    inner = getattr(policy, "_inner", policy)
    shape: tuple[int, int, int] = inner.latent_shape
    return shape


def roll(
    policy: Any,
    given: RolloutSpec,
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
    rollout = Rollout(policy, replace(given, latent_shape=shape_of(policy)), len(keys))
    with torch.no_grad():
        episode = episode or SingleRound(max_thinking=6)
        episode(rollout, given_in(episode, keys, shape_of(policy)), group, Altered(draws, alter))
    return Trajectory(tuple(keys), group, tuple(rollout.segments), tuple(rollout.scores), rollout.cost)


def scores_of(walked: Trajectory | Rollout) -> list[Tensor]:
    """All that is scored, in order, of the rows whose episode was not over."""
    found = []
    for segment, score in zip(walked.segments, walked.scores, strict=True):
        if isinstance(score, TextScore):
            found.append(score.log_prob)
        if isinstance(score, ImageScore):
            for step in score.steps:
                found += [tensor[segment.alive] for tensor in (step.log_prob, step.mean, step.velocity)]
                found.append(step.std)
    return found
