"""What every algorithm is: it keeps what it needs of a sampled batch, and turns it into a loss.

An algorithm knows no model and no dataset.  It sees policies only through a :class:`Scoring`: the scores of a recorded
batch's segments under the old policy, the reference, or the policy that is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.noise import Draw
    from unigrpo.rollout.points import Points
    from unigrpo.rollout.trajectory import Score, Trajectory

#: The keys of RunConfig that belong to losses: an algorithm names those that it reads, and the others are refused.
LOSS_KEYS = frozenset(
    {
        "aggregation",
        "image_ratio",
        "image_trust_region",
        "regularizer",
        "text_kl",
        "text_ratio",
        "text_trust_region",
    }
)


class Scoring(Protocol):
    """One policy, as an algorithm sees it."""

    def __call__(self, trajectory: Trajectory, points: Points | None = None) -> tuple[Score, ...]:
        """One score per segment, None for what is not scored; with gradients in training, without elsewhere.

        Args:
            trajectory: the recorded episodes.
            points: where images are scored by their velocities; None scores the recorded actions.
        """
        ...


@dataclass(frozen=True)
class Batch:
    """What an algorithm keeps of one minibatch for all of its optimiser steps.

    Attributes:
        trajectory: the recorded episodes.
        old: scores of their segments by the policy that sampled them.
        reference: by the frozen reference; None where nothing asks for it.
        points: where images are scored, if not at recorded actions.
    """

    trajectory: Trajectory
    old: Sequence[Score]
    reference: Sequence[Score] | None
    points: Points = field(default_factory=dict)


@dataclass
class MinibatchLoss:
    """A loss and what there is to log about it.

    Attributes:
        loss: 0-d, to be minimised.
        metrics: flat name -> value.
        text_deviation: largest |log-ratio| of a text's token, 0 without text.
        image_deviation: largest |log-ratio| of an image's action (a denoising step, a token, or whatever stands for
            them), 0 without images.
    """

    loss: Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    text_deviation: float = 0.0
    image_deviation: float = 0.0


class Algorithm:
    """The base of a strategy of slot ``algorithm``.

    Attributes:
        reads: those of :data:`LOSS_KEYS` that its loss reads.
        splits_steps: whether its loss of an image is the mean of losses of recorded denoising steps, so that a part of
            the steps gives a part of it.
    """

    slot: ClassVar[str]
    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = LOSS_KEYS
    splits_steps: ClassVar[bool] = False

    @property
    def unread(self) -> frozenset[str]:
        """The keys of losses that its own does not read."""
        return LOSS_KEYS - self.reads

    def prepare(
        self, config: RunConfig, trajectory: Trajectory, draw: Draw, old: Scoring, reference: Scoring | None
    ) -> Batch:
        """What is kept of a minibatch, before any step is made with it; called without gradients.

        Args:
            config: of the run.
            trajectory: the recorded episodes, with the scores that sampling left: of texts always, of images where
                steps were stochastic.
            draw: keyed randomness of this update.
            old: the policy that sampled them.
            reference: the frozen reference; None where neither a penalty nor the measure of drift asks for it.
        """
        return Batch(trajectory, trajectory.scores, None if reference is None else reference(trajectory))

    def loss(self, config: RunConfig, batch: Batch, advantage: Tensor, policy: Scoring) -> MinibatchLoss:
        """The loss of one minibatch.

        Args:
            config: of the run.
            batch: what :meth:`prepare` kept.
            advantage: [B, S], of every segment of every episode.
            policy: the one that is trained.
        """
        raise NotImplementedError

    def needs_reference(self, config: RunConfig) -> bool:
        """Whether a penalty with a weight asks for the reference in every update."""
        text, image = config.modalities.text, config.modalities.image
        # Images generated token by token are penalised like words.
        of_images = config.regularizer if config.image_head.denoises else config.text_kl
        return bool((text and config.text_kl.weight > 0) or (image and of_images.weight > 0))

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Name the settings without effect: arms that differ in them alone would be one run under two names."""
        default = type(config)()
        for key in sorted(self.unread):
            if (chosen := getattr(config, key)) != getattr(default, key):
                yield f"{key}={chosen.name}: is not read by this algorithm; leave {key} at its default"
