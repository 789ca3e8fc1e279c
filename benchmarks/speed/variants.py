"""The variants that are compared, and the naive ones among them; all through the policy protocol alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unigrpo.models.policy import Context, Policy
from unigrpo.noise import EpisodeDraws
from unigrpo.rollout.rollout import Rollout, RolloutSpec, replay
from unigrpo.rollout.trajectory import TextSegment, Trajectory
from unigrpo.training.trainer import Trainer

#: A block of text as a policy reads it: tokens [B, L] with the leading bos, and their mask.
Block = tuple[Tensor, Tensor]


def read(policy: Policy, blocks: Sequence[Block]) -> Context:
    """The context of a few blocks of text."""
    context = policy.start(len(blocks[0][0]))
    for tokens, mask in blocks:
        _, context = policy.extend_text(context, tokens, mask)
    return context


def flow(policy: Policy, points: Tensor, noise: Tensor, context: Callable[[], Context]) -> Tensor:
    """Latents after the Euler steps of ``points``, with the context asked for at every step."""
    x = noise
    for t, t_next in pairwise(points):
        x = x - float(t - t_next) * policy.velocity(context(), x, t)
    return x


def framed(segment: TextSegment, bos: int) -> Block:
    """A segment as the rollout gives it to the policy."""
    first = torch.full_like(segment.tokens[:, :1], bos)
    return torch.cat((first, segment.tokens), 1), torch.cat((torch.ones_like(first, dtype=torch.bool), segment.mask), 1)


@dataclass(frozen=True)
class Bench:
    """One rollout's worth of work on a trainer's policy, in the variants to compare.

    Attributes:
        trainer: holds the policy and the configuration.
        update: which update's prompts and noise.
        trajectories: what the policy's rollout of that update recorded.
    """

    trainer: Trainer
    update: int
    trajectories: Sequence[Trajectory]

    @classmethod
    def prepare(cls, trainer: Trainer, update: int = 0) -> Bench:
        """Roll out once, for the segments that the variants go over."""
        return cls(trainer, update, trainer.rollout(update, trainer.rollout_spec(update)))

    @property
    def spec(self) -> RolloutSpec:
        """What the rollouts of the update share."""
        return self.trainer.rollout_spec(self.update)

    def rollout(self) -> list[Trajectory]:
        """Sample the update's episodes."""
        return self.trainer.rollout(self.update, self.spec)

    def blocks(self, trajectory: Trajectory) -> list[Block]:
        """All texts of a trajectory, one row per episode."""
        rows = len(trajectory.row_prompts)
        texts = [segment for segment in trajectory.segments if isinstance(segment, TextSegment)]
        framed_texts = [framed(text, self.spec.bos) for text in texts]
        return [tuple(part.repeat_interleave(rows // len(part), 0) for part in block) for block in framed_texts]  # type: ignore[misc]

    def draws(self, trajectory: Trajectory) -> EpisodeDraws:
        """The noise of a trajectory's episodes."""
        seed, rollout = self.trainer.config.seed, self.trainer.config.rollout
        keys = [prompt.key for prompt in trajectory.prompts]
        return EpisodeDraws((seed, "rollout", self.update), keys, trajectory.group_size, rollout.shared_noise)

    @torch.no_grad()
    def paint_from_cache(self) -> list[Tensor]:
        """Read each context once and paint from it."""
        return [self._paint(trajectory, cached=True) for trajectory in self.trajectories]

    @torch.no_grad()
    def paint_reading_again(self) -> list[Tensor]:
        """Read the whole context again at every denoising step, as a model without a cache would."""
        return [self._paint(trajectory, cached=False) for trajectory in self.trajectories]

    def _paint(self, trajectory: Trajectory, *, cached: bool) -> Tensor:
        policy, blocks = self.trainer.policy, self.blocks(trajectory)
        noise = self.draws(trajectory).normal((len(blocks), "initial"), self.spec.latent_shape, shareable=True)
        noise = noise.to(policy.device)
        if not cached:
            return flow(policy, self.spec.points, noise, lambda: read(policy, blocks))
        context = read(policy, blocks)
        return flow(policy, self.spec.points, noise, lambda: context)

    @torch.no_grad()
    def read_shared(self) -> list[Context]:
        """Read each prompt once for its whole group."""
        return [
            read(self.trainer.policy, [self._prompt(trajectory)]).repeat(trajectory.group_size)
            for trajectory in self.trajectories
        ]

    @torch.no_grad()
    def read_apart(self) -> list[Context]:
        """Read the prompt of every episode."""
        return [read(self.trainer.policy, self.blocks(trajectory)[:1]) for trajectory in self.trajectories]

    @torch.no_grad()
    def rollout_apart(self) -> list[Tensor]:
        """Sample the update's episodes with nothing shared between the members of a group; their latents."""
        config, found = self.trainer.config, []
        for trajectory in self.trajectories:
            rollout = Rollout(self.trainer.policy, self.spec, len(trajectory.row_prompts))
            given = self.trainer.evaluator.processor.encode(trajectory.row_prompts)
            config.episode(rollout, given, 1, self.draws(trajectory))
            found.append(Trajectory(trajectory.row_prompts, 1, tuple(rollout.segments), ()).image.latents)
        return found

    def replay(self) -> None:
        """Score the recorded episodes, with the graph for a backward pass."""
        for trajectory in self.trajectories:
            replay(self.trainer.policy, self.spec, trajectory)

    def _prompt(self, trajectory: Trajectory) -> Block:
        prompt = trajectory.segments[0]
        assert isinstance(prompt, TextSegment)
        return framed(prompt, self.spec.bos)
