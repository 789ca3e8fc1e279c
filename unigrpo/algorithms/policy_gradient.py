"""Policy gradient with ratios: from recorded and replayed scores to the loss of one minibatch, with its diagnostics.

Every segment that the policy made adds columns to a matrix of actions, one row per episode: tokens, or denoising steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.algorithms.algorithm import Algorithm, Batch, MinibatchLoss, Scoring
from unigrpo.algorithms.tokens import (
    Tokens,
    image_token_surrogate,
    ratio_metrics,
    text_surrogate,
    tokens_of,
    trained_segments,
    with_penalty,
)
from unigrpo.objective.aggregation import SequenceMean, TokenMean
from unigrpo.objective.loss import Surrogate, concat_actions, joint_loss, step_objective, step_penalty
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.objective.slots import Regularizer
from unigrpo.registry import name_of, register
from unigrpo.rollout.trajectory import ImageScore, Score, StepScore, TextSegment, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig


@register(
    "algorithm", "policy_gradient", source="GRPO (2402.03300); Flow-GRPO (2505.05470); UniGRPO (2603.23500) eq. 7"
)
@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """Ratios of the sampled actions, tokens and stochastic denoising steps, within a trust region."""

    splits_steps: ClassVar[bool] = True

    def loss(self, config: RunConfig, batch: Batch, advantage: Tensor, policy: Scoring) -> MinibatchLoss:
        """The joint loss of one minibatch, as :func:`minibatch_loss`."""
        scores = policy(batch.trajectory)
        return minibatch_loss(config, batch.trajectory, scores, batch.reference, advantage)

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say why steps need noise."""
        if config.image_head.denoises and config.modalities.image and not config.dynamics.stochastic:
            yield (
                f"dynamics={name_of(config.dynamics)} has no log-probability; use dynamics=flow_sde,"
                " modalities=text_only, or an algorithm that needs none"
            )


@dataclass(frozen=True)
class _Step:
    """A denoising step of an image; advantage and mask are [B], the weight of its gradient is 0-d."""

    new: StepScore
    old: StepScore
    ref: StepScore | None
    advantage: Tensor
    mask: Tensor
    weight: Tensor


def minibatch_loss(
    config: RunConfig,
    trajectory: Trajectory,
    scores: Sequence[Score],
    reference: Sequence[Score] | None,
    advantage: Tensor,
) -> MinibatchLoss:
    """The joint loss (UniGRPO eq. 7) of one minibatch.

    Rows whose episode was over are left out: what those hold may be NaN.

    Args:
        config: names the strategies.
        trajectory: the recorded episodes with the scores of the policy that sampled them.
        scores: of the same segments under the policy being trained.
        reference: under the frozen reference; needed where a penalty has a weight, and for drift to be logged.
        advantage: [B, S], of every segment of every episode; all tokens and steps of a segment share it.

    Raises:
        ShapeError: ``advantage`` has not one row per episode and one column per segment.
    """
    texts: list[Tokens] = []
    image_tokens: list[Tokens] = []
    steps: list[_Step] = []
    for scored in trained_segments(config, trajectory, trajectory.scores, scores, reference, advantage):
        if (tokens := tokens_of(scored)) is not None:
            (texts if isinstance(scored.segment, TextSegment) else image_tokens).append(tokens)
        elif isinstance(scored.old, ImageScore) and isinstance(scored.new, ImageScore):
            mask = scored.segment.alive
            steps += _steps(config, scored.old, scored.new, scored.reference, scored.advantage, mask)
    out = MinibatchLoss(advantage.new_zeros((), requires_grad=True))
    text = text_surrogate(config, texts, out) if texts else None
    image = _denoising_steps(config, steps, out) if steps else None
    if image_tokens:  # a run's images are all of one kind
        image = image_token_surrogate(config, image_tokens, out)
    loss = joint_loss(config.modalities, config.aggregation, text=text, image=image)
    if loss is not None:
        out.loss = loss
    return out


def _steps(
    config: RunConfig, old: ImageScore, new: ImageScore, ref: Score, advantage: Tensor, mask: Tensor
) -> Iterator[_Step]:
    import torch

    weights = config.image_ratio.step_weights(torch.tensor([step.dt for step in new.steps], dtype=torch.float64))
    others = ref.steps if isinstance(ref, ImageScore) else (None,) * len(new.steps)
    for one, before, other, weight in zip(new.steps, old.steps, others, weights, strict=True):
        yield _Step(one, before, other, advantage, mask, weight)


def _denoising_steps(config: RunConfig, steps: Sequence[_Step], out: MinibatchLoss) -> Surrogate:
    """Images by denoising."""
    import torch

    columns = [
        step_objective(
            step.new.log_prob,
            step.old.log_prob,
            step.new.mean,
            step.old.mean,
            step.new.std,
            step.advantage,
            step.mask,
            step.weight,
            reduction=config.dynamics.reduction,
            ratio=config.image_ratio,
            trust_region=config.image_trust_region,
        )
        for step in steps
    ]
    surrogate = concat_actions(columns)
    out.image_deviation = surrogate.max_abs()
    for index in sorted({step.new.index for step in steps}):
        same = [column for column, step in zip(columns, steps, strict=True) if step.new.index == index]
        out.metrics |= {
            f"{name}/{index}": value for name, value in ratio_metrics("image", concat_actions(same)).items()
        }
    with torch.no_grad():
        for name, distance in (("latent_kl", LatentKl()), ("velocity_mse", VelocityMse())):
            drift = _distances(steps, distance)
            if drift is not None:
                out.metrics[f"drift/{name}"] = TokenMean()(drift, surrogate.mask).item()
    penalty, weight = _distances(steps, config.regularizer), config.regularizer.weight
    return with_penalty(out, surrogate, SequenceMean(), "loss/image", penalty, weight, "loss/regularizer")


def _distances(steps: Sequence[_Step], regularizer: Regularizer) -> Tensor | None:
    """How far each step is from the reference, [B, M], unless that is missing."""
    import torch

    columns = []
    for step in steps:
        if step.ref is not None:
            (velocity, mean), (ref_velocity, ref_mean) = step.new.held, step.ref.held
            pairs = (velocity, ref_velocity, mean, ref_mean)
            columns.append(step_penalty(*pairs, step.new.std, step.new.dt, step.mask, regularizer=regularizer))
    return torch.cat(columns, 1) if columns else None
