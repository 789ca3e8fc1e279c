"""From recorded and replayed scores to the loss of one minibatch, with its diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.objective.loss import Surrogate, image_objective, joint_loss, text_objective, text_penalty
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.trajectory import ImageScore, Score, StepScore, TextScore, TextSegment, Trajectory


@dataclass
class MinibatchLoss:
    """A loss and what there is to log about it.

    Attributes:
        loss: 0-d, to be minimised.
        metrics: flat name -> value.
        text_deviation: largest |log-ratio| of a token, 0 without text.
        image_deviation: largest |log-ratio| of a denoising step, 0 without images.
    """

    loss: Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    text_deviation: float = 0.0
    image_deviation: float = 0.0


def minibatch_loss(
    config: RunConfig,
    trajectory: Trajectory,
    scores: Sequence[Score],
    reference: Sequence[Score] | None,
    advantage: Tensor,
) -> MinibatchLoss:
    """The joint loss (UniGRPO eq. 7) of one minibatch.

    Args:
        config: names the strategies.
        trajectory: the recorded episodes with the scores of the policy that sampled them.
        scores: of the same segments under the policy being trained.
        reference: under the frozen reference; needed where a penalty has a weight, and for drift to be logged.
        advantage: [B], shared by all tokens and steps of an episode.
    """
    out = MinibatchLoss(torch.zeros(()))
    texts, images = [], []
    for k, (segment, old, new) in enumerate(zip(trajectory.segments, trajectory.scores, scores, strict=True)):
        other = None if reference is None else reference[k]
        if isinstance(segment, TextSegment) and isinstance(old, TextScore) and isinstance(new, TextScore):
            if config.modalities.text:
                texts.append(_text(config, segment, old, new, other, advantage, out))
        elif isinstance(old, ImageScore) and isinstance(new, ImageScore) and config.modalities.image:
            images.append(_image(config, old, new, other, advantage, out))
    out.loss = joint_loss(
        config.modalities,
        text=torch.stack(texts).mean() if texts else None,
        image=torch.stack(images).mean() if images else None,
    )
    return out


def _text(
    config: RunConfig,
    segment: TextSegment,
    old: TextScore,
    new: TextScore,
    reference: Score,
    advantage: Tensor,
    out: MinibatchLoss,
) -> Tensor:
    surrogate = text_objective(
        new.log_prob,
        old.log_prob,
        advantage,
        segment.mask,
        ratio=config.text_ratio,
        trust_region=config.text_trust_region,
        aggregation=config.aggregation,
    )
    out.text_deviation = max(out.text_deviation, _largest(surrogate))
    out.metrics["loss/text"] = surrogate.loss.item()
    out.metrics |= {f"ratio/text_{name}": value for name, value in _short(surrogate).items()}
    if not isinstance(reference, TextScore):
        return surrogate.loss
    penalty = text_penalty(
        new.log_prob, reference.log_prob, segment.mask, kl=config.text_kl, aggregation=config.aggregation
    )
    out.metrics["loss/text_kl"] = penalty.item()
    return surrogate.loss + config.text_kl.weight * penalty


def _image(
    config: RunConfig, old: ImageScore, new: ImageScore, reference: Score, advantage: Tensor, out: MinibatchLoss
) -> Tensor:
    weights = config.image_ratio.step_weights(torch.tensor([step.dt for step in new.steps], dtype=torch.float64))
    others = reference.steps if isinstance(reference, ImageScore) else (None,) * len(new.steps)
    losses, penalties, drifts = [], [], []
    for was, now, other, weight in zip(old.steps, new.steps, others, weights, strict=True):
        surrogate = image_objective(
            now.log_prob,
            was.log_prob,
            now.mean,
            was.mean,
            now.std,
            advantage,
            weight,
            reduction=config.dynamics.reduction,
            ratio=config.image_ratio,
            trust_region=config.image_trust_region,
        )
        losses.append(surrogate.loss)
        out.image_deviation = max(out.image_deviation, _largest(surrogate))
        out.metrics |= {f"ratio/image_{name}/{now.index}": value for name, value in _short(surrogate).items()}
        if other is not None:
            penalties.append(config.regularizer(*_pair(now, other)).mean())
            drifts.append(_drift(now, other))
    loss = torch.stack(losses).mean()
    out.metrics["loss/image"] = loss.item()
    if penalties:
        penalty = torch.stack(penalties).mean()
        out.metrics["loss/regularizer"] = penalty.item()
        for name in drifts[0]:
            out.metrics[name] = sum(drift[name] for drift in drifts) / len(drifts)
        loss = loss + config.regularizer.weight * penalty
    return loss


def _pair(now: StepScore, other: StepScore) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    return now.velocity, other.velocity, now.mean, other.mean, now.std, now.dt


@torch.no_grad()
def _drift(now: StepScore, other: StepScore) -> dict[str, float]:
    """Both distances from the reference, whichever of them is trained on."""
    return {
        "drift/latent_kl": LatentKl()(*_pair(now, other)).mean().item(),
        "drift/velocity_mse": VelocityMse()(*_pair(now, other)).mean().item(),
    }


def _largest(surrogate: Surrogate) -> float:
    return surrogate.log_ratio.abs().max().item() if surrogate.log_ratio.numel() else 0.0


def _short(surrogate: Surrogate) -> dict[str, float]:
    return {name.removeprefix("ratio_"): value for name, value in surrogate.diagnostics().items()}
