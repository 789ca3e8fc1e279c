"""What algorithms share: the segments that are trained, and the losses of tokens with their diagnostics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from unigrpo.algorithms.algorithm import MinibatchLoss
from unigrpo.checks import ShapeError
from unigrpo.objective.aggregation import SequenceMean
from unigrpo.objective.loss import (
    Surrogate,
    concat_actions,
    token_objective,
    token_penalty,
)
from unigrpo.objective.slots import Aggregation, TrustRegion
from unigrpo.rollout.trajectory import ImageScore, Score, Segment, TextScore, TextSegment, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig


class Scored(NamedTuple):
    """A segment that is trained, scored by the old policy, the trained one and the reference; advantages are [B]."""

    number: int
    segment: Segment
    old: TextScore | ImageScore
    new: TextScore | ImageScore
    reference: Score
    advantage: Tensor


@dataclass(frozen=True)
class Tokens:
    """The tokens of a segment; everything is [B, L]."""

    new: Tensor
    old: Tensor
    ref: Tensor | None
    advantage: Tensor
    mask: Tensor


def trained_segments(
    config: RunConfig,
    trajectory: Trajectory,
    old: Sequence[Score],
    new: Sequence[Score],
    reference: Sequence[Score] | None,
    advantage: Tensor,
) -> Iterator[Scored]:
    """The segments that are in the loss.

    Left out are segments without a score (given ones), those that a group's members share (fewer rows than episodes),
    and those of a modality of weight 0.

    Raises:
        ShapeError: ``advantage`` has not one row per episode and one column per segment.
    """
    expected = [len(trajectory.row_prompts), len(trajectory.segments)]
    if list(advantage.shape) != expected:
        raise ShapeError(f"expected advantages [B, S] of shape {expected}, got {list(advantage.shape)}")
    references = (None,) * len(new) if reference is None else reference
    columns = zip(trajectory.segments, old, new, references, advantage.unbind(1), strict=True)
    for number, (segment, before, now, ref, own) in enumerate(columns):
        trained = config.modalities.text if isinstance(segment, TextSegment) else config.modalities.image
        if segment.rows == len(own) and trained and before is not None and now is not None:
            yield Scored(number, segment, before, now, ref, own)


def tokens_of(scored: Scored) -> Tokens | None:
    """The tokens of a text, or of an image that was generated token by token; None if it was denoised."""
    segment, old, new = scored.segment, scored.old.log_prob, scored.new.log_prob
    if old is None or new is None:
        return None
    mask = segment.mask if isinstance(segment, TextSegment) else segment.alive[:, None].expand_as(new)
    other = None if scored.reference is None else scored.reference.log_prob
    return Tokens(new, old, other, scored.advantage[:, None].expand_as(mask), mask)


def text_surrogate(config: RunConfig, texts: Sequence[Tokens], out: MinibatchLoss) -> Surrogate:
    """The losses of the texts' tokens with their penalty, logged in ``out``."""
    surrogate, kl = _of_tokens(config, texts, config.text_trust_region)
    out.text_deviation = surrogate.max_abs()
    out.metrics |= ratio_metrics("text", surrogate)
    return with_penalty(out, surrogate, config.aggregation, "loss/text", kl, config.text_kl.weight, "loss/text_kl")


def image_token_surrogate(config: RunConfig, images: Sequence[Tokens], out: MinibatchLoss) -> Surrogate:
    """Images by tokens: actions like those of a text, within the image policy's trust region."""
    surrogate, kl = _of_tokens(config, images, config.image_trust_region)
    out.image_deviation = surrogate.max_abs()
    out.metrics |= ratio_metrics("image", surrogate)
    return with_penalty(out, surrogate, SequenceMean(), "loss/image", kl, config.text_kl.weight, "loss/image_kl")


def _of_tokens(config: RunConfig, parts: Sequence[Tokens], region: TrustRegion) -> tuple[Surrogate, Tensor | None]:
    """The actions of segments side by side, and the penalty of each, [B, L], unless the reference is missing.

    Each segment has ratios of its own: one over all of an episode's would mix segments of unlike advantages.
    """
    import torch

    columns = [
        token_objective(part.new, part.old, part.advantage, part.mask, ratio=config.text_ratio, trust_region=region)
        for part in parts
    ]
    penalties = [
        token_penalty(part.new, part.ref, part.mask, kl=config.text_kl) for part in parts if part.ref is not None
    ]
    return concat_actions(columns), torch.cat(penalties, 1) if penalties else None


def with_penalty(
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


def ratio_metrics(modality: str, surrogate: Surrogate) -> dict[str, float]:
    """What to log of a modality's ratios."""
    return {f"ratio/{modality}_{name.removeprefix('ratio_')}": v for name, v in surrogate.diagnostics().items()}
