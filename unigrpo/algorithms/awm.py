"""Advantage-weighted matching: the loss of pretraining, weighted by advantages, instead of ratios of denoising steps.

Shuchen Xue and others, Advantage Weighted Matching (arXiv 2509.25050).  Taken from it: flow matching's error at a point
of the forward process stands for the log-likelihood of a finished image,

    log p(x_0) ~ -w(t) ||v(x_t, t) - (e - x_0)||^2,    x_t = (1 - t) x_0 + t e,

the ratio of two policies is that of the exponentials *at the same (t, e)*, and it goes into the clipped objective of
GRPO; w = 1, which its ablation finds best; the penalty to the reference is the distance of velocities at the same
points.  Not taken: the second penalty of its code, to a moving average of the policy (here the old policy is the one
that sampled), and times from the sampler's grid (here they are those of pretraining, logit-normal).

Nothing is asked of the rollout but finished images, so that any sampler does: dynamics=ode, for one.  As in its code
the conditional velocity is trained, guided or not as rollouts may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.algorithms.algorithm import LOSS_KEYS, Algorithm, Batch, MinibatchLoss, Scoring
from unigrpo.algorithms.tokens import (
    Tokens,
    ratio_metrics,
    text_surrogate,
    tokens_of,
    trained_segments,
    with_penalty,
)
from unigrpo.checks import check_mask, over_elements, per_row, same_shape, upcast
from unigrpo.flow.schedule import shifted
from unigrpo.objective.aggregation import SequenceMean, TokenMean
from unigrpo.objective.loss import Surrogate, concat_actions, joint_loss, step_penalty
from unigrpo.objective.regularizer import VelocityMse
from unigrpo.objective.slots import Regularizer, TrustRegion
from unigrpo.registry import name_of, register
from unigrpo.rollout.points import Point
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, TextSegment, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.noise import Draw


def log_likelihood(velocity: Tensor, clean: Tensor, point: Point, power: float = 0.0) -> Tensor:
    """``-t^p ||v - (e - x_0)||^2``, the mean over an image's elements: [B].

    Args:
        velocity: at the point, [B, ...].
        clean: the images x_0, [B, ...]; no gradient goes into them.
        point: times [B] and noise [B, ...].
        power: p, 0 or more.

    Raises:
        ShapeError: a shape that does not fit.
        TypeError: dtypes that are not floating or differ.
    """
    same_shape(velocity=velocity, clean=clean, noise=point.noise)
    velocity, clean, noise = upcast(velocity=velocity, clean=clean, noise=point.noise)
    error = over_elements((velocity - (noise - clean.detach())).square(), "mean")
    return -(per_row(point.t, error) ** power) * error


@dataclass(frozen=True)
class Matched:
    """The images of one segment at one point.

    Attributes:
        new: the trained policy's velocities, [B, ...].
        old: those of the policy that sampled the images.
        reference: those of the frozen reference, None where nothing asked for them.
        point: where.
        clean: the images, [B, ...].
        advantage: of the images, [B].
        mask: [B] bool, which rows have one; what the others hold may be NaN.
    """

    new: Tensor
    old: Tensor
    reference: Tensor | None
    point: Point
    clean: Tensor
    advantage: Tensor
    mask: Tensor

    def _kept(self, rows: Tensor) -> Tensor:
        check_mask(self.mask, rows=rows.flatten(1)[:, 0])
        return rows.where(self.mask.reshape(-1, *(1,) * (rows.dim() - 1)), 0.0)

    def surrogate(self, power: float, trust_region: TrustRegion) -> Surrogate:
        """The loss of these images, [B, 1]."""
        clean = self._kept(self.clean)
        new, old = (log_likelihood(self._kept(v), clean, self.point, power) for v in (self.new, self.old))
        log_ratio = new - old.detach()
        same_shape(log_ratio=log_ratio, advantage=self.advantage)
        (advantage,) = upcast(advantage=self.advantage)
        values, detached = -trust_region(log_ratio, advantage), log_ratio.detach()
        clipped = trust_region.clipped(detached, advantage)
        return Surrogate(*(column.unsqueeze(1) for column in (values, self.mask, detached, clipped)))

    def errors(self) -> Tensor:
        """The loss of pretraining, [B, 1]."""
        return -log_likelihood(self._kept(self.new), self._kept(self.clean), self.point).unsqueeze(1)

    def distance(self, regularizer: Regularizer) -> Tensor | None:
        """How far from the reference, [B, 1], unless that is missing."""
        if self.reference is None:
            return None
        new, reference, one = self.new, self.reference, self.new.new_ones(())
        # Of means and sizes of steps there are none; a regularizer that reads them is refused.
        return step_penalty(new, reference, new, reference, one, one, self.mask, regularizer=regularizer)


def _joined(columns: Iterable[Tensor | None]) -> Tensor | None:
    import torch

    found = [column for column in columns if column is not None]
    return torch.cat(found, 1) if found else None


@register("algorithm", "awm", source="AWM (2509.25050); its texts as policy_gradient")
@dataclass(frozen=True)
class Awm(Algorithm):
    """Advantage-weighted flow matching on finished images; texts by ratios, as ``policy_gradient``."""

    draws: int = 2
    """Points (t, noise) of every image."""
    power: float = 0.0
    """p of the weight ``w(t) = t^p``; 0 weighs all times alike."""

    reads: ClassVar[frozenset[str]] = LOSS_KEYS - {"image_ratio"}

    def __post_init__(self) -> None:
        if self.draws < 1 or self.power < 0:
            raise ValueError(f"expected draws >= 1 and power >= 0, got draws={self.draws}, power={self.power}")

    def prepare(
        self, config: RunConfig, trajectory: Trajectory, draw: Draw, old: Scoring, reference: Scoring | None
    ) -> Batch:
        """Fresh points on the images that are trained, and the velocities of both fixed policies there."""
        rows = len(trajectory.row_prompts)
        points = {
            number: [self._point(number, k, segment, draw, config.sampler.shift) for k in range(self.draws)]
            for number, segment in enumerate(trajectory.segments)
            if isinstance(segment, ImageSegment) and not segment.given and segment.rows == rows
        }
        theirs = None if reference is None else reference(trajectory, points)
        return Batch(trajectory, old(trajectory, points), theirs, points)

    @staticmethod
    def _point(number: int, k: int, segment: ImageSegment, draw: Draw, shift: float) -> Point:
        """Logit-normal times, as in pretraining, moved as the sampler's are."""
        latents = segment.latents
        t = draw.normal((number, "time", k), ()).to(latents.device).sigmoid()
        return Point(shifted(t, shift), draw.normal((number, "noise", k), latents.shape[1:]).to(latents))

    def loss(self, config: RunConfig, batch: Batch, advantage: Tensor, policy: Scoring) -> MinibatchLoss:
        """The joint loss of one minibatch: w_text of its tokens and w_image of its points."""
        out = MinibatchLoss(advantage.new_zeros((), requires_grad=True))
        scores = policy(batch.trajectory, batch.points)
        texts: list[Tokens] = []
        images: list[Matched] = []
        for scored in trained_segments(config, batch.trajectory, batch.old, scores, batch.reference, advantage):
            segment, old, new, ref = scored.segment, scored.old, scored.new, scored.reference
            if isinstance(segment, TextSegment):
                texts += filter(None, [tokens_of(scored)])
            elif isinstance(old, ImageScore) and isinstance(new, ImageScore):
                others = ref.velocities if isinstance(ref, ImageScore) else (None,) * len(new.velocities)
                columns = zip(new.velocities, old.velocities, others, batch.points[scored.number], strict=True)
                images += [Matched(*one, segment.latents, scored.advantage, segment.alive) for one in columns]
        text = text_surrogate(config, texts, out) if texts else None
        image = self._images(config, images, out) if images else None
        loss = joint_loss(config.modalities, config.aggregation, text=text, image=image)
        if loss is not None:
            out.loss = loss
        return out

    def _images(self, config: RunConfig, images: Sequence[Matched], out: MinibatchLoss) -> Surrogate:
        import torch

        region, regularizer = config.image_trust_region, config.regularizer
        surrogate = concat_actions([image.surrogate(self.power, region) for image in images])
        out.image_deviation = surrogate.max_abs()
        out.metrics |= ratio_metrics("image", surrogate)
        with torch.no_grad():
            measured = {
                "loss/matching": _joined(image.errors() for image in images),
                "drift/velocity_mse": _joined(image.distance(VelocityMse()) for image in images),
            }
        for name, values in measured.items():
            if values is not None:
                out.metrics[name] = TokenMean()(values, surrogate.mask).item()
        penalty = _joined(image.distance(regularizer) for image in images)
        return with_penalty(
            out, surrogate, SequenceMean(), "loss/image", penalty, regularizer.weight, "loss/regularizer"
        )

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say what it finds no velocities for, and what has no meaning without denoising steps."""
        yield from super().conflicts(config)
        if not config.modalities.image:
            return
        if not config.image_head.denoises:
            yield (
                f"image_head={config.image_head.name} has no velocity to match; use algorithm=policy_gradient or"
                " modalities=text_only"
            )
        if config.regularizer.of_steps:
            yield (
                f"regularizer={name_of(config.regularizer)} compares denoising steps, of which none is scored;"
                " use regularizer=velocity_mse or none"
            )
