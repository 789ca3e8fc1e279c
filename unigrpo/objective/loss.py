"""The losses of one minibatch, put together from the chosen strategies (UniGRPO eq. 2, 6 and 7).

Each function minimises the negative of its objective.  Rows may be cut into micro-batches: the loss of the whole is the
mean of the parts weighted by rows (by tokens under ``token_mean``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unigrpo.tensors import Reduction, check_mask, per_row, same_shape, upcast

if TYPE_CHECKING:
    from torch import Tensor

    TextRatio = Callable[[Tensor, Tensor, Tensor], Tensor]
    ImageRatio = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Reduction], Tensor]
    Aggregation = Callable[[Tensor, Tensor], Tensor]
    TextKl = Callable[[Tensor, Tensor], Tensor]


class TrustRegion(Protocol):
    """Slot ``trust_region``."""

    def __call__(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Objective to maximise."""

    def clipped(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Where its gradient is removed."""


class Modalities(Protocol):
    """Slot ``modalities``."""

    @property
    def text(self) -> float:
        """Weight of the text loss."""

    @property
    def image(self) -> float:
        """Weight of the image loss."""


@dataclass(frozen=True)
class Surrogate:
    """A loss and what there is to know about it.

    Attributes:
        loss: 0-d, to be minimised.
        log_ratio: [M], detached: one per token or denoising step that counts.
        clipped: [M] bool: whether the trust region removed its gradient.
    """

    loss: Tensor
    log_ratio: Tensor
    clipped: Tensor

    def diagnostics(self) -> dict[str, float]:
        """``ratio_mean``, ``ratio_std`` (population) and ``clip_frac``; empty if nothing counted.

        Through ``expm1`` in fp64: image ratios differ from 1 by about 1e-6.
        """
        if self.log_ratio.numel() == 0:
            return {}
        excess = self.log_ratio.double().expm1()
        return {
            "ratio_mean": 1 + excess.mean().item(),
            "ratio_std": excess.std(correction=0).item(),
            "clip_frac": self.clipped.double().mean().item(),
        }


def text_objective(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    ratio: TextRatio,
    trust_region: TrustRegion,
    aggregation: Aggregation,
) -> Surrogate:
    """The text policy's loss (UniGRPO eq. 2, without the KL).

    Args:
        log_prob: of the sampled tokens, under the policy, [B, L].
        old_log_prob: under the policy that sampled them, [B, L].
        advantage: of the episodes, [B]; all tokens of one share it.
        mask: which tokens count, [B, L] bool.
        ratio: slot ``text_ratio``.
        trust_region: slot ``trust_region``.
        aggregation: slot ``aggregation``.

    Raises:
        ShapeError: shapes that do not fit.
        TypeError: dtypes that are not floating or differ.
    """
    log_ratio = ratio(log_prob, old_log_prob, mask)
    same_shape(advantage=advantage, rows=log_ratio[:, 0])
    per_token = advantage.unsqueeze(1).expand_as(log_ratio)
    (per_token,) = upcast(advantage=per_token)
    loss = -aggregation(trust_region(log_ratio, per_token), mask)
    detached = log_ratio.detach()
    return Surrogate(loss, detached[mask], trust_region.clipped(detached, per_token)[mask])


def text_penalty(
    log_prob: Tensor, ref_log_prob: Tensor, mask: Tensor, *, kl: TextKl, aggregation: Aggregation
) -> Tensor:
    """The text policy's penalty, not yet weighted: 0-d.

    Args:
        log_prob: of the sampled tokens, under the policy, [B, L].
        ref_log_prob: under the reference, [B, L].
        mask: which tokens count, [B, L] bool.
        kl: slot ``text_kl``.
        aggregation: slot ``aggregation``.
    """
    check_mask(mask, log_prob=log_prob, ref_log_prob=ref_log_prob)
    # Before the estimator, not after: the derivative of exp at a masked NaN is NaN, and 0 times it too.
    return aggregation(kl(log_prob.where(mask, 0.0), ref_log_prob.where(mask, 0.0)), mask)


def image_objective(
    log_prob: Tensor,
    old_log_prob: Tensor,
    mean: Tensor,
    old_mean: Tensor,
    std: Tensor,
    advantage: Tensor,
    weight: Tensor | float,
    *,
    reduction: Reduction,
    ratio: ImageRatio,
    trust_region: TrustRegion,
) -> Surrogate:
    """The image policy's loss over trained denoising steps (UniGRPO eq. 6, without the regularizer).

    A row is one step of one episode: one step of a batch, or several steps stacked.

    Args:
        log_prob: of the steps taken, under the policy, [B].
        old_log_prob: under the policy that took them, [B].
        mean: the policy's means, [B, ...].
        old_mean: those of the policy that took them, [B, ...].
        std: of the steps, 0-d or [B].
        advantage: of the episodes, [B].
        weight: gradient weights of the steps (``image_ratio.step_weights``), a scalar or [B].
        reduction: how log-probabilities are reduced over a row's elements.
        ratio: slot ``image_ratio``.
        trust_region: slot ``trust_region``.

    Raises:
        ShapeError: shapes that do not fit.
        TypeError: dtypes that are not floating or differ.
    """
    log_ratio = ratio(log_prob, old_log_prob, mean, old_mean, std, reduction)
    (advantage,) = upcast(advantage=advantage)
    loss = -(per_row(weight, log_ratio) * trust_region(log_ratio, advantage)).mean()
    detached = log_ratio.detach()
    return Surrogate(loss, detached, trust_region.clipped(detached, advantage))


def joint_loss(modalities: Modalities, *, text: Tensor | None, image: Tensor | None) -> Tensor:
    """``w_text text + w_image image`` (UniGRPO eq. 7); a modality of weight 0 is left out, so its loss may be None.

    Raises:
        ValueError: a loss with a weight is missing.
    """
    weighted = []
    for name, weight, loss in (("text", modalities.text, text), ("image", modalities.image, image)):
        if weight and loss is None:
            raise ValueError(f"modalities give {name} the weight {weight}, but there is no {name} loss")
        if weight and loss is not None:
            weighted.append(weight * loss)
    return sum(weighted[1:], start=weighted[0])
