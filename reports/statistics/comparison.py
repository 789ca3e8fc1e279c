"""One comparison of two arms, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from reports.statistics.intervals import Floats, sample
from reports.statistics.tests import TESTS, Evidence, differences, paired_t, sign_flip


@dataclass(frozen=True)
class Comparison:
    """One arm against another on one metric, by seed; or against a constant, without a correlation.

    Attributes:
        evidence: what the test makes of it.
        p_t: two-sided p of the paired t test, whatever the test is.
        effect: mean of the differences over their sample standard deviation.
        improved: seeds in which the arm is strictly better.
        correlation: Pearson's, of the two arms across seeds: pairing helps only if it is clearly positive.
        differences: by seed.
    """

    evidence: Evidence
    p_t: float
    effect: float | None
    improved: int
    correlation: float | None
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean difference."""
        return float(np.mean(self.differences))


def compare(
    arm: ArrayLike, other: ArrayLike | float, *, test: str = "sign_flip", higher_is_better: bool = True
) -> Comparison:
    """Compare an arm with another, seed by seed; a scalar ``other`` makes it a one-sample test against a constant.

    Args:
        arm: [n] one value per seed.
        other: [n] the other arm's values of the same seeds in the same order, or a constant.
        test: one of :data:`TESTS`; of one sample, ``unpaired`` is the sign-flip test.
        higher_is_better: decides what counts as a seed improved; the difference is always arm minus other.

    Raises:
        ValueError: the shapes differ, there is no value, one is not finite, or the test has another name.
    """
    first, second = sample(arm), np.asarray(other, dtype=np.float64)
    if second.ndim and second.shape != first.shape:
        raise ValueError(f"pairs need equal shapes: got {first.shape} and {second.shape}")
    if test not in TESTS:
        raise ValueError(f"test: expected one of {', '.join(TESTS)}, got {test!r}")
    found = differences(first, sample(np.broadcast_to(second, first.shape)))
    spread = float(found.std(ddof=1)) if found.size > 1 else 0.0
    one_sample = test == "unpaired" and not second.ndim
    return Comparison(
        evidence=sign_flip(found) if one_sample else TESTS[test](first, np.broadcast_to(second, first.shape)),
        p_t=paired_t(found).p(),
        # If all differences are equal but for rounding, their spread is rounding too.
        effect=float(found.mean()) / spread if spread > 1e-9 * np.abs(found).max(initial=0) else None,
        improved=int(np.sum(found > 0 if higher_is_better else found < 0)),
        correlation=_correlation(first, second) if second.ndim else None,
        differences=tuple(float(d) for d in found),
    )


def _correlation(first: Floats, second: Floats) -> float | None:
    if first.size < 3 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
