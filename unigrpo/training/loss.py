"""From recorded and replayed scores to the loss of one minibatch, with its diagnostics.

Every segment that the policy made adds columns to a matrix of actions, one row per episode: tokens, or denoising steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unigrpo.checks import ShapeError
from unigrpo.config import RunConfig
from unigrpo.objective.aggregation import SequenceMean, TokenMean
from unigrpo.objective.loss import (
    Aggregation,
    Regularizer,
    Surrogate,
    TrustRegion,
    concat_actions,
    joint_loss,
    step_objective,
    step_penalty,
    token_objective,
    token_penalty,
)
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.rollout.trajectory import ImageScore, Score, StepScore, TextSegment, Trajectory


@dataclass
class MinibatchLoss:
    """A loss and what there is to log about it.

    Attributes:
        loss: 0-d, to be minimised.
        metrics: flat name -> value.
        text_deviation: largest |log-ratio| of a text's token, 0 without text.
        image_deviation: largest |log-ratio| of a denoising step or image token, 0 without images.
    """

    loss: Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    text_deviation: float = 0.0
    image_deviation: float = 0.0


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a segment; everything is [B, L]."""

    new: Tensor
    old: Tensor
    ref: Tensor | None
    advantage: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Step:
    """A denoising step of a picture; advantage and mask are [B], the weight of its gradient is 0-d."""

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

    Left out are segments without a score (given ones), those that a group's members share (fewer rows than episodes),
    and rows whose episode was over: what those hold may be NaN.

    Args:
        config: names the strategies.
        trajectory: the recorded episodes with the scores of the policy that sampled them.
        scores: of the same segments under the policy being trained.
        reference: under the frozen reference; needed where a penalty has a weight, and for drift to be logged.
        advantage: [B, S], of every segment of every episode; all tokens and steps of a segment share it.

    Raises:
        ShapeError: ``advantage`` has not one row per episode and one column per segment.
    """
    expected = [len(trajectory.row_prompts), len(trajectory.segments)]
    if list(advantage.shape) != expected:
        raise ShapeError(f"expected advantages [B, S] of shape {expected}, got {list(advantage.shape)}")
    references = (None,) * len(scores) if reference is None else reference
    texts, image_tokens, denoising_steps = _collect_actions(config, trajectory, scores, references, advantage)
    out = MinibatchLoss(advantage.new_zeros((), requires_grad=True))
    text = _text(config, texts, out) if texts else None
    image = _denoising_steps(config, denoising_steps, out) if denoising_steps else None
    if image_tokens:  # a run's pictures are all of one kind
        image = _image_tokens(config, image_tokens, out)
    loss = joint_loss(config.modalities, config.aggregation, text=text, image=image)
    if loss is not None:
        out.loss = loss
    return out


def _collect_actions(
    config: RunConfig,
    trajectory: Trajectory,
    scores: Sequence[Score],
    references: Sequence[Score],
    advantage: Tensor,
) -> tuple[list[_Tokens], list[_Tokens], list[_Step]]:
    """The actions of all trained segments: texts, pictures by tokens, pictures by denoising."""
    texts: list[_Tokens] = []
    image_tokens: list[_Tokens] = []
    denoising_steps: list[_Step] = []
    for segment, old, new, ref, own in zip(
        trajectory.segments, trajectory.scores, scores, references, advantage.unbind(1), strict=True
    ):
        is_text = isinstance(segment, TextSegment)
        trained = config.modalities.text if is_text else config.modalities.image
        if segment.rows != len(own) or not trained or old is None or new is None:
            continue
        if old.log_prob is not None and new.log_prob is not None:
            mask = segment.mask if isinstance(segment, TextSegment) else segment.alive[:, None].expand_as(new.log_prob)
            other = None if ref is None else ref.log_prob
            tokens = _Tokens(new.log_prob, old.log_prob, other, own[:, None].expand_as(mask), mask)
            (texts if is_text else image_tokens).append(tokens)
        elif isinstance(old, ImageScore) and isinstance(new, ImageScore):
            denoising_steps += _steps(config, old, new, ref, own, segment.alive)
    return texts, image_tokens, denoising_steps


def _steps(
    config: RunConfig, old: ImageScore, new: ImageScore, ref: Score, advantage: Tensor, mask: Tensor
) -> Iterator[_Step]:
    weights = config.image_ratio.step_weights(torch.tensor([step.dt for step in new.steps], dtype=torch.float64))
    others = ref.steps if isinstance(ref, ImageScore) else (None,) * len(new.steps)
    for one, before, other, weight in zip(new.steps, old.steps, others, weights, strict=True):
        yield _Step(one, before, other, advantage, mask, weight)


def _text(config: RunConfig, texts: Sequence[_Tokens], out: MinibatchLoss) -> Surrogate:
    surrogate, kl = _of_tokens(config, texts, config.text_trust_region)
    out.text_deviation = surrogate.max_abs()
    out.metrics |= _ratios("text", surrogate)
    return _with_penalty(out, surrogate, config.aggregation, "loss/text", kl, config.text_kl.weight, "loss/text_kl")


def _image_tokens(config: RunConfig, pictures: Sequence[_Tokens], out: MinibatchLoss) -> Surrogate:
    """Pictures by tokens: actions like those of a text, within the image policy's trust region."""
    surrogate, kl = _of_tokens(config, pictures, config.image_trust_region)
    out.image_deviation = surrogate.max_abs()
    out.metrics |= _ratios("image", surrogate)
    return _with_penalty(out, surrogate, SequenceMean(), "loss/image", kl, config.text_kl.weight, "loss/image_kl")


def _denoising_steps(config: RunConfig, steps: Sequence[_Step], out: MinibatchLoss) -> Surrogate:
    """Pictures by denoising."""
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
        out.metrics |= {f"{name}/{index}": value for name, value in _ratios("image", concat_actions(same)).items()}
    with torch.no_grad():
        for name, distance in (("latent_kl", LatentKl()), ("velocity_mse", VelocityMse())):
            drift = _distances(steps, distance)
            if drift is not None:
                out.metrics[f"drift/{name}"] = TokenMean()(drift, surrogate.mask).item()
    penalty, weight = _distances(steps, config.regularizer), config.regularizer.weight
    return _with_penalty(out, surrogate, SequenceMean(), "loss/image", penalty, weight, "loss/regularizer")


def _of_tokens(config: RunConfig, parts: Sequence[_Tokens], region: TrustRegion) -> tuple[Surrogate, Tensor | None]:
    """The actions of segments side by side, and the penalty of each, [B, L], unless the reference is missing.

    Each segment has ratios of its own: one over all of an episode's would mix segments of unlike advantages.
    """
    columns = [
        token_objective(part.new, part.old, part.advantage, part.mask, ratio=config.text_ratio, trust_region=region)
        for part in parts
    ]
    penalties = [
        token_penalty(part.new, part.ref, part.mask, kl=config.text_kl) for part in parts if part.ref is not None
    ]
    return concat_actions(columns), torch.cat(penalties, 1) if penalties else None


def _distances(steps: Sequence[_Step], regularizer: Regularizer) -> Tensor | None:
    """How far each step is from the reference, [B, M], unless that is missing."""
    columns = [
        step_penalty(
            step.new.velocity,
            step.ref.velocity,
            step.new.mean,
            step.ref.mean,
            step.new.std,
            step.new.dt,
            step.mask,
            regularizer=regularizer,
        )
        for step in steps
        if step.ref is not None
    ]
    return torch.cat(columns, 1) if columns else None


def _with_penalty(
    out: MinibatchLoss,
    surrogate: Surrogate,
    mean: Aggregation,
    loss_name: str,
    penalty: Tensor | None,
    weight: float,
    penalty_name: str,
) -> Surrogate:
    """The surrogate with its penalty, if there is one; logs the two apart, the penalty unweighted."""
    out.metrics[loss_name] = mean(surrogate.values, surrogate.mask).item()
    if penalty is None:
        return surrogate
    out.metrics[penalty_name] = mean(penalty, surrogate.mask).item()
    return surrogate.with_penalty(penalty, weight)


def _ratios(modality: str, surrogate: Surrogate) -> dict[str, float]:
    return {f"ratio/{modality}_{name.removeprefix('ratio_')}": v for name, v in surrogate.diagnostics().items()}
