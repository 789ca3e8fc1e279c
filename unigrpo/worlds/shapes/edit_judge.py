"""Judges an edit: is it there, and is everything else as it was?

The verdict is against the image that was really edited.  Of the allowed targets the one that fits best counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from unigrpo.rollout.decoded import ImagePart
from unigrpo.worlds.shapes.edits import Aim, Edit, Target
from unigrpo.worlds.shapes.judge import Sight, see
from unigrpo.worlds.shapes.things import Thing, assign, resemblance, terms

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes


@dataclass(frozen=True, slots=True)
class Change:
    """How well one list of things follows from another by an edit, in [0, 1]; 1 exactly where it does."""

    success: float
    """Mean of the respects in which the edit changes something."""
    preserved: float
    """Mean over the things that were there of how unchanged they are, divided by 1 + the number of things too many."""

    @property
    def score(self) -> float:
        """The worse of the two."""
        return min(self.success, self.preserved)


def judge_change(edit: Edit, before: Sequence[Thing], after: Sequence[Thing]) -> Change:
    """Whether ``after`` is ``before`` with ``edit``.

    Where ``before`` does not hold what the edit is about, only what can still be demanded is.
    """
    changes = (_outcome(target, after) for target in edit.targets(before))
    return max(changes, key=lambda change: (change.score, change.success + change.preserved))


def _outcome(target: Target, after: Sequence[Thing]) -> Change:
    edited, kept = [], []
    columns = assign([[_candidacy(aim, thing) for thing in after] for aim in target.aims])
    for aim, column in zip(target.aims, columns, strict=True):
        # of a missing object, of which nothing is known, nothing is right
        changed, unchanged = _aimed(aim, Thing() if column is None else after[column])
        edited += changed
        kept += [math.prod(unchanged)] if unchanged else []
    surplus = 0
    if target.tally:
        found = sum(thing.shape == target.tally.shape for thing in after)
        surplus = max(found - target.tally.count, 0)
        edited.append(max(1 - abs(found - target.tally.count) / target.tally.distance, 0.0))
    # too many of the counted shape are a failure of the edit, not an object that nobody asked for
    extra = max(len(after) - surplus - len(target.aims), 0)
    return Change(fmean(edited), (fmean(kept) if kept else 1.0) / (1 + extra))


def _candidacy(aim: Aim, shown: Thing) -> float:
    """How well ``shown`` may be the object aimed at.

    Any object of its shape comes before all others, one of which may be the object that the edit left as it was.
    """
    return resemblance(aim.thing, shown) or 0.1 * fmean((0.0, *_aimed(aim, shown)[1]))


def _aimed(aim: Aim, shown: Thing) -> tuple[list[float], list[float]]:
    """Scores in the respects that the edit changes, and in the others; of another shape no change is right."""
    right = terms(aim.thing, shown)
    same = right.get("shape") != 0
    edited = [value if same else 0.0 for name, value in right.items() if name in aim.edited]
    kept = [value for name, value in right.items() if name not in aim.edited]
    return edited, kept


@dataclass(frozen=True, slots=True)
class EditVerdict:
    """What the judge says of one edited image, 0 to 10, named as in VIEScore."""

    success: float
    """Is the edit there?"""
    preserved: float
    """Is everything else as it was?"""
    PQ: float
    """Perceptual quality: 10 for a clean image, 0 for one in which objects can no longer be seen."""
    reason: str
    """What is wrong, in words; empty if nothing is."""

    @property
    def SC(self) -> float:
        """Semantic consistency: the worse of success and preservation."""
        return min(self.success, self.preserved)

    @property
    def O(self) -> float:  # noqa: E743 - the published name
        """Overall: the geometric mean of SC and PQ."""
        return math.sqrt(self.SC * self.PQ)


def judge_edit(edit: Edit, before: Sight, shown: Sight) -> EditVerdict:
    """Judge an edited image against the one before it, whoever made that."""
    change = judge_change(edit, before.things, shown.things)
    reasons = [] if change.success == 1 else [f"expected to {edit}"]
    reasons += [] if change.preserved == 1 else ["expected the rest to stay"]
    if reasons:
        reasons.append(f"had {before}; found {shown}")
    return EditVerdict(10 * change.success, 10 * change.preserved, 10 * shown.quality, "; ".join(reasons))


def judge_edits(decoded: DecodedEpisodes) -> list[list[EditVerdict]]:
    """Verdicts on the images of each turn, one per episode; the image before the first is the source."""
    import torch

    pictures = [part for part in decoded.parts if isinstance(part, ImagePart)]
    rows = len(decoded.prompts)
    sights = see(torch.cat([part.pixels for part in pictures]))
    seen = [sights[start : start + rows] for start in range(0, len(sights), rows)]
    return [
        [
            judge_edit(prompt.meta["edits"][turn], before, after)
            for prompt, before, after in zip(decoded.prompts, seen[turn], seen[turn + 1], strict=True)
        ]
        for turn in range(len(pictures) - 1)
    ]
