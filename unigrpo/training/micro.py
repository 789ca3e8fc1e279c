"""A minibatch in parts that are trained one after the other: some of its episodes, some of their denoising steps.

The loss of a minibatch is a mean, so that the gradient of the whole is the sum of those of its parts, each with its
share.  Images are always a mean over episodes; texts may be one over tokens (``aggregation``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from unigrpo.objective.modalities import Joint
from unigrpo.rollout.trajectory import (
    ImageScore,
    ImageSegment,
    Score,
    Segment,
    StepScore,
    TextScore,
    TextSegment,
    Trajectory,
)

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.algorithms.algorithm import Batch, MinibatchLoss
    from unigrpo.objective.slots import Modalities


class Slice(NamedTuple):
    """Some rows of a minibatch: whole groups, or members of one.

    Attributes:
        trajectory: with them alone, and their scores.
        rows: where they stood.
        member: of its group that the first of them is.
    """

    trajectory: Trajectory
    rows: slice
    member: int


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass trains.

    Attributes:
        batch: what the algorithm keeps.
        sampled: the scores that sampling left of its episodes.
        advantage: [rows, S].
        share: of the minibatch, in rows and steps.
        of_texts: of what the minibatch's texts are a mean over, rows or tokens.
        modalities: of the run, each with the weight that its part has in the mean of the whole.
    """

    batch: Batch
    sampled: Sequence[Score]
    advantage: Tensor
    share: float
    of_texts: float
    modalities: Modalities


def slices(trajectory: Trajectory, size: int) -> Iterator[Slice]:
    """The rows of ``trajectory``, ``size`` at a time, a multiple or a divisor of the group size; all of them for 0."""
    group, count = trajectory.group_size, len(trajectory.row_prompts)
    size = min(size or count, count)
    for first in range(0, count, size):
        rows = slice(first, min(first + size, count))
        groups = slice(first // group, max(rows.stop // group, first // group + 1))
        cuts = [rows if segment.rows == count else groups for segment in trajectory.segments]
        segments = tuple(map(_cut, trajectory.segments, cuts))
        scores = tuple(map(_cut_score, trajectory.scores, cuts))
        part = Trajectory(trajectory.prompts[groups], min(size, group), segments, scores, trajectory.cost)
        yield Slice(part, rows, first % group)


def _cut(segment: Segment, rows: slice) -> Segment:
    """Some rows, contiguous, as a batch of that size would have them."""
    if isinstance(segment, TextSegment):
        return replace(segment, tokens=segment.tokens[rows], mask=segment.mask[rows])
    return replace(
        segment,
        steps=tuple(replace(step, x=step.x[rows], x_next=step.x_next[rows]) for step in segment.steps),
        latents=segment.latents[rows],
        alive=segment.alive[rows],
        tokens=None if segment.tokens is None else segment.tokens[rows],
        features=None if segment.features is None else segment.features[rows],
    )


def _cut_score(score: Score, rows: slice) -> Score:
    if score is None:
        return None
    if isinstance(score, TextScore):
        return TextScore(score.log_prob[rows])
    log_prob = None if score.log_prob is None else score.log_prob[rows]
    return ImageScore(tuple(_cut_step(step, rows) for step in score.steps), log_prob)


def _cut_step(step: StepScore, rows: slice) -> StepScore:
    velocity, mean, log_prob = step.velocity[rows], step.mean[rows], step.log_prob[rows]
    held = None if step.conditional is None else (step.conditional[0][rows], step.conditional[1][rows])
    return replace(step, velocity=velocity, mean=mean, log_prob=log_prob, conditional=held)


def by_steps(micro: MicroBatch, size: int) -> Iterator[MicroBatch]:
    """The part in parts of ``size`` denoising steps of every image, of which the first has the texts; itself for 0."""
    images = [s for s in micro.batch.trajectory.segments if isinstance(s, ImageSegment)]
    most = max((len(image.steps) for image in images), default=0)
    both = micro.modalities
    if not size or size >= most or not both.image:
        yield micro
        return
    for first in range(0, most, size):
        chosen = slice(first, first + size)
        part = len(range(most)[chosen]) / most
        weights = Joint(text=both.text if first == 0 else 0.0, image=both.image * part)
        batch = _of_steps(micro.batch, chosen)
        sampled = _scores_of_steps(micro.sampled, chosen)
        yield MicroBatch(batch, sampled, micro.advantage, micro.share * part, micro.of_texts, weights)


def _of_steps(batch: Batch, chosen: slice) -> Batch:
    segments = tuple(
        replace(s, steps=s.steps[chosen]) if isinstance(s, ImageSegment) else s for s in batch.trajectory.segments
    )
    old = _scores_of_steps(batch.old, chosen)
    reference = None if batch.reference is None else _scores_of_steps(batch.reference, chosen)
    return replace(
        batch, trajectory=replace(batch.trajectory, segments=segments, scores=old), old=old, reference=reference
    )


def _scores_of_steps(scores: Sequence[Score], chosen: slice) -> tuple[Score, ...]:
    return tuple(replace(s, steps=s.steps[chosen]) if isinstance(s, ImageScore) else s for s in scores)


def shared(modalities: Modalities, text: float, image: float) -> Modalities:
    """The weights of a part that is ``text`` of a minibatch's texts and ``image`` of its images."""
    if text == image == 1:
        return modalities
    return Joint(text=modalities.text * text, image=modalities.image * image)


def mean_metrics(losses: Sequence[MinibatchLoss], parts: Sequence[MicroBatch]) -> dict[str, float]:
    """What to log of a minibatch: means over the parts that have a metric, by their share; the largest deviation."""
    if len(parts) == 1:
        return losses[0].metrics
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for loss in losses for name in loss.metrics):
        there = [(one.metrics[name], part) for one, part in zip(losses, parts, strict=True) if name in one.metrics]
        if name.startswith(("guard/", "gap/")):
            found[name] = max(value for value, _ in there)
        else:
            shares = [part.of_texts if "text" in name else part.share for _, part in there]
            found[name] = sum(value * share for (value, _), share in zip(there, shares, strict=True)) / sum(shares)
    return found


def trained_tokens(trajectory: Trajectory) -> int:
    """Tokens of texts that the policy generated after groups had parted: those that are in the loss."""
    rows = len(trajectory.row_prompts)
    texts = (s for s in trajectory.segments if isinstance(s, TextSegment) and not s.given and s.rows == rows)
    return sum(int(text.mask.sum()) for text in texts)
