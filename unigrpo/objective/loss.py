"""The losses of one minibatch, put together from the chosen strategies (UniGRPO eq. 2, 6 and 7).

An *action* is a token or a denoising step.  The objectives give the negative of what is to be maximised, one value per
action, and :func:`joint_loss` makes one number of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unigrpo.checks import Reduction, check_mask, per_row, same_shape, upcast
from unigrpo.objective.aggregation import SequenceMean

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.objective.slots import (
        Aggregation,
        ImageRatio,
        Modalities,
        Regularizer,
        TextKl,
        TextRatio,
        TrustRegion,
    )


@dataclass(frozen=True)
class Surrogate:
    """The losses of actions: a row is an episode, a column a token or a denoising step.

    Attributes:
        values: [B, M], to be minimised.
        mask: [B, M] bool, which actions count.
        log_ratio: [B, M], detached.
        clipped: [B, M] bool, whether the trust region removed the gradient.
    """

    values: Tensor
    mask: Tensor
    log_ratio: Tensor
    clipped: Tensor

    def with_penalty(self, penalty: Tensor, weight: float) -> Surrogate:
        """With a penalty [B, M] added."""
        same_shape(values=self.values, penalty=penalty)
        return replace(self, values=self.values + weight * penalty)

    def diagnostics(self) -> dict[str, float]:
        """``ratio_mean``, ``ratio_std`` (population) and ``clip_frac``; empty if nothing counts.

        Through ``expm1`` in fp64: image ratios differ from 1 by about 1e-6.
        """
        if not self.mask.any():
            return {}
        excess = self.log_ratio[self.mask].double().expm1()
        return {
            "ratio_mean": 1 + excess.mean().item(),
            "ratio_std": excess.std(correction=0).item(),
            "clip_frac": self.clipped[self.mask].double().mean().item(),
        }

    def max_abs(self) -> float:
        """The largest |log-ratio|, 0 if nothing counts."""
        return self.log_ratio[self.mask].abs().max().item() if self.mask.any() else 0.0


def concat_actions(surrogates: Sequence[Surrogate]) -> Surrogate:
    """The actions of several segments of the same episodes as one."""
    import torch

    columns = [(s.values, s.mask, s.log_ratio, s.clipped) for s in surrogates]
    return Surrogate(*(torch.cat(tensors, 1) for tensors in zip(*columns, strict=True)))


def token_objective(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    ratio: TextRatio,
    trust_region: TrustRegion,
) -> Surrogate:
    """The loss of tokens, of texts or of images that are generated token by token (UniGRPO eq. 2, without the KL).

    Args:
        log_prob: of the sampled tokens, under the policy, [B, L].
        old_log_prob: under the policy that sampled them, [B, L].
        advantage: of the tokens, [B, L].
        mask: which tokens count, [B, L] bool.
        ratio: slot ``text_ratio``.
        trust_region: slot ``trust_region``.

    Raises:
        ShapeError: a shape that does not fit.
        TypeError: dtypes that are not floating or differ.
    """
    log_ratio = ratio(log_prob, old_log_prob, mask)
    same_shape(log_ratio=log_ratio, advantage=advantage)
    (advantage,) = upcast(advantage=advantage)
    detached = log_ratio.detach()
    return Surrogate(-trust_region(log_ratio, advantage), mask, detached, trust_region.clipped(detached, advantage))


def token_penalty(log_prob: Tensor, ref_log_prob: Tensor, mask: Tensor, *, kl: TextKl) -> Tensor:
    """The penalty of tokens, not yet weighted, [B, L].

    Args:
        log_prob: of the sampled tokens, under the policy, [B, L].
        ref_log_prob: under the reference, [B, L].
        mask: which tokens count, [B, L] bool.
        kl: slot ``text_kl``.
    """
    check_mask(mask, log_prob=log_prob, ref_log_prob=ref_log_prob)
    # Before the estimator: the derivative of exp at a masked NaN is NaN, and 0 times it too.
    return kl(log_prob.where(mask, 0.0), ref_log_prob.where(mask, 0.0))


def step_objective(
    log_prob: Tensor,
    old_log_prob: Tensor,
    mean: Tensor,
    old_mean: Tensor,
    std: Tensor,
    advantage: Tensor,
    mask: Tensor,
    weight: Tensor | float,
    *,
    reduction: Reduction,
    ratio: ImageRatio,
    trust_region: TrustRegion,
) -> Surrogate:
    """The loss of one trained denoising step, [B, 1] (UniGRPO eq. 6, without the regularizer).

    Args:
        log_prob: of the steps taken, under the policy, [B].
        old_log_prob: under the policy that took them, [B].
        mean: the policy's means, [B, ...].
        old_mean: those of the policy that took them, [B, ...].
        std: of the steps, 0-d or [B].
        advantage: of the image, [B].
        mask: which rows have the image, [B] bool.
        weight: gradient weight of the step (``image_ratio.step_weights``), a scalar or [B].
        reduction: how log-probabilities are reduced over a row's elements.
        ratio: slot ``image_ratio``.
        trust_region: slot ``trust_region``.

    Raises:
        ShapeError: a shape that does not fit.
        TypeError: dtypes that are not floating or differ.
    """
    log_prob, old_log_prob, mean, old_mean = _kept(mask, log_prob, old_log_prob, mean, old_mean)
    log_ratio = ratio(log_prob, old_log_prob, mean, old_mean, std, reduction)
    (advantage,) = upcast(advantage=advantage)
    values = -per_row(weight, log_ratio) * trust_region(log_ratio, advantage)
    detached = log_ratio.detach()
    clipped = trust_region.clipped(detached, advantage)
    return Surrogate(*(column.unsqueeze(1) for column in (values, mask, detached, clipped)))


def step_penalty(
    velocity: Tensor,
    ref_velocity: Tensor,
    mean: Tensor,
    ref_mean: Tensor,
    std: Tensor,
    dt: Tensor | float,
    mask: Tensor,
    *,
    regularizer: Regularizer,
) -> Tensor:
    """The penalty of one denoising step, not yet weighted, [B, 1].

    Args:
        velocity: the policy's velocities, [B, ...].
        ref_velocity: the reference's, [B, ...].
        mean: the policy's step means, [B, ...].
        ref_mean: the reference's, [B, ...].
        std: of the step, 0-d or [B].
        dt: size of the step, a scalar or [B].
        mask: which rows have the image, [B] bool.
        regularizer: slot ``regularizer``.
    """
    velocity, ref_velocity, mean, ref_mean = _kept(mask, velocity, ref_velocity, mean, ref_mean)
    return regularizer(velocity, ref_velocity, mean, ref_mean, std, dt).unsqueeze(1)


def joint_loss(
    modalities: Modalities, aggregation: Aggregation, *, text: Surrogate | None, image: Surrogate | None
) -> Tensor | None:
    """``w_text text + w_image image`` (UniGRPO eq. 7), or one mean over the weighted actions of both.

    The image actions are averaged over each episode, then over episodes, unless the aggregation is joint.  A modality
    of weight 0 is left out, not multiplied; so is one without actions (None), as when no episode has an image.

    Returns:
        0-d; None if nothing is left.
    """
    own_mean = ((modalities.text, text, aggregation), (modalities.image, image, SequenceMean()))
    weighted = [
        (mean, replace(actions, values=weight * actions.values))
        for weight, actions, mean in own_mean
        if weight and actions is not None
    ]
    if aggregation.joint and weighted:
        both = concat_actions([actions for _, actions in weighted])
        return aggregation(both.values, both.mask)
    losses = [mean(actions.values, actions.mask) for mean, actions in weighted]
    return sum(losses[1:], start=losses[0]) if losses else None


def _kept(mask: Tensor, *rows: Tensor) -> Iterator[Tensor]:
    """Rows [B, ...] with zeros where masked: selected, for those may be NaN and so would their gradients."""
    for values in rows:
        check_mask(mask, rows=values.reshape(len(values), -1)[:, 0])
        yield values.where(mask.reshape(-1, *(1,) * (values.dim() - 1)), 0.0)
