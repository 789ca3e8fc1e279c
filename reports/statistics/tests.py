"""Tests of a difference, each with the intervals that agree with it.

A test is asked for the p-value of any effect; its interval holds the effects that it does not reject.  So an interval
excludes 0 exactly if the test rejects 0 at the same level: what a page says in words and what it draws cannot differ.

The permutation tests are inverted without a search.  Flipping the signs of a subset of the differences d - e leaves the
sum as extreme or more exactly if the subset's mean is at most e, so the bounds are order statistics of the means of all
subsets: the *typical values* of Hartigan (1969).  The same holds for exchanging equally many values of two arms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.statistics.intervals import Floats, Interval, sample

#: All rearrangements are listed while they are at most this many.
MOST = 2**16
#: Beyond that, this many are drawn, with a fixed key: a p of 0.05 is then known to 0.0024.
DRAWN = 2**13

#: Typical values this near to 0, relative to the largest value, are ties that rounding broke.
_ROUNDING = 1e-12


class Evidence(Protocol):
    """What a test makes of one comparison."""

    @property
    def mean(self) -> float:
        """The difference that was found."""
        ...

    @property
    def n(self) -> int:
        """Seeds."""
        ...

    @property
    def floor(self) -> float:
        """The smallest two-sided p that this many seeds, with as many ties, can give."""
        ...

    def p(self, effect: float = 0.0) -> float:
        """Two-sided p-value of ``effect``."""
        ...

    def interval(self, level: float) -> Interval:
        """The effects whose p exceeds ``1 - level``; without bounds if that is below the floor."""
        ...


@dataclass(frozen=True)
class Rearranged:
    """Evidence of a permutation test.

    Attributes:
        mean: the difference that was found.
        n: seeds.
        typical: [k - 1] sorted, the effect at which each rearrangement but the one that was found is as extreme.
        ties: rearrangements that change nothing whatever the signs; they bound p from below.
    """

    mean: float
    n: int
    typical: Floats
    ties: int = 1

    @property
    def floor(self) -> float:
        """The smallest two-sided p that is possible."""
        return min(1.0, 2 * self.ties / (self.typical.size + 1))

    def p(self, effect: float = 0.0) -> float:
        """Two-sided p-value: twice the smaller tail, the arrangement that was found included."""
        below = 1 + int(np.searchsorted(self.typical, effect, side="right"))
        above = 1 + self.typical.size - int(np.searchsorted(self.typical, effect, side="left"))
        return min(1.0, 2 * min(below, above) / (self.typical.size + 1))

    def interval(self, level: float) -> Interval:
        """The effects that are not rejected at ``1 - level``."""
        rank = math.floor((1 - level) / 2 * (self.typical.size + 1) + 1e-9)
        if rank < 1:
            return Interval(self.mean, None, None, self.n)
        return Interval(self.mean, float(self.typical[rank - 1]), float(self.typical[-rank]), self.n)


@dataclass(frozen=True)
class Student:
    """Evidence of a t test: an estimate, its standard error, and degrees of freedom."""

    mean: float
    n: int
    error: float
    df: float

    @property
    def floor(self) -> float:
        """0 from two seeds on: a t test has no smallest p."""
        return 0.0 if self.n > 1 else 1.0

    def p(self, effect: float = 0.0) -> float:
        """Two-sided p-value."""
        from scipy import stats

        off = self.mean - effect
        if self.n == 1 or off == 0:
            return 1.0
        return float(2 * stats.t.sf(abs(off) / self.error, self.df)) if self.error else 0.0

    def interval(self, level: float) -> Interval:
        """The t interval."""
        from scipy import stats

        if self.n == 1:
            return Interval(self.mean, None, None, 1)
        half = float(stats.t.ppf((1 + level) / 2, self.df) * self.error)
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)


def sign_flip(differences: ArrayLike) -> Rearranged:
    """The exact sign-flip test of paired differences, whose null is that each is symmetric about the effect.

    All 2^n signs are listed up to n = 16; beyond that 2^13 are drawn.

    Args:
        differences: [n], n >= 1, finite.
    """
    found = sample(differences)
    n, zeros = found.size, int((found == 0).sum())
    ties = 2**zeros if 2**n <= MOST else 1
    return Rearranged(float(found.mean()), n, _sorted(averages(n) @ found, found), ties)


def paired_t(differences: ArrayLike) -> Student:
    """The paired t test, whose null is a mean; exact for normal differences."""
    found = sample(differences)
    n = found.size
    error = float(found.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    # Equal differences differ by rounding; that is no spread.
    return Student(float(found.mean()), n, error if error > _ROUNDING * float(np.abs(found).max()) else 0.0, n - 1.0)


def unpaired(arm: ArrayLike, other: ArrayLike) -> Rearranged:
    """The exact permutation test of two independent samples, whose null is that they differ by a shift.

    All ways to share out the values are listed while they are at most 2^16 (nine seeds and nine); else 2^13 are drawn.

    Args:
        arm: [n], finite.
        other: [m], finite.
    """
    first, second = sample(arm), sample(other)
    n, m = first.size, second.size
    if math.comb(n + m, n) <= MOST:
        one, two = (_by_size(*_subset_means(found)) for found in (first, second))
        typical = np.concatenate([np.subtract.outer(one[k], two[k]).ravel() for k in range(1, min(n, m) + 1)])
    else:
        mine, theirs = _exchanges(n, m)
        typical = mine @ first - theirs @ second
    pooled = np.concatenate((first, second))
    return Rearranged(float(first.mean() - second.mean()), min(n, m), _sorted(typical, pooled))


def _subset_means(values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The means of all subsets of ``values``, and the subsets' sizes."""
    weights = averages(values.size)
    return weights @ values, (weights > 0).sum(axis=1)


def _by_size(means: Floats, sizes: NDArray[np.int64]) -> dict[int, Floats]:
    return {k: means[sizes == k] for k in range(1, int(sizes.max()) + 1)}


@functools.lru_cache(maxsize=8)
def averages(n: int) -> Floats:
    """Rows [k, n], each of which averages a subset of n values: all subsets if these are few, else some drawn ones."""
    if 2**n <= MOST:
        chosen = (np.arange(1, 2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
    else:
        chosen = np.random.default_rng(0).integers(0, 2, size=(DRAWN - 1, n)).astype(np.float64)
        chosen = chosen[chosen.any(axis=1)]
    return np.asarray(chosen / chosen.sum(axis=1, keepdims=True))


@functools.lru_cache(maxsize=8)
def _exchanges(n: int, m: int) -> tuple[Floats, Floats]:
    """Rows [k, n] and [k, m], which average what two arms exchange: equally many values of each, drawn."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(n + m), (DRAWN - 1, 1)), axis=1)
    leaving = np.ones((DRAWN - 1, n + m))
    np.put_along_axis(leaving, order[:, :n], 0.0, axis=1)
    mine, theirs = leaving[:, :n], 1 - leaving[:, n:]
    sizes = mine.sum(axis=1, keepdims=True)
    kept = sizes[:, 0] > 0
    return mine[kept] / sizes[kept], theirs[kept] / sizes[kept]


def _sorted(typical: Floats, values: Floats) -> Floats:
    return np.sort(np.where(np.abs(typical) <= _ROUNDING * np.abs(values).max(), 0.0, typical))


#: Name of a grid's ``test`` -> the test of two arms; one of a single sample is made of its differences.
TESTS: dict[str, Callable[[Floats, Floats], Evidence]] = {
    "sign_flip": lambda arm, other: sign_flip(differences(arm, other)),
    "paired_t": lambda arm, other: paired_t(differences(arm, other)),
    "unpaired": unpaired,
}


def differences(arm: Floats, other: Floats) -> Floats:
    """``arm`` minus ``other``; equal scores that were summed in another order differ by rounding, and are ties."""
    return np.where(np.isclose(arm, other, rtol=_ROUNDING, atol=0), 0.0, arm - other)
