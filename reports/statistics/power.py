"""What a number of seeds can show: the smallest visible effect, and the seeds that a margin needs.

By simulation of normal differences, each judged by the test itself.  Intervals move with the effect, so one set of
simulated sweeps answers for every effect.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from reports.statistics import quantiles
from reports.statistics.intervals import Floats
from reports.statistics.tests import averages

#: Simulated sweeps: a power of 80 % is then known to 0.6 points.
_SWEEPS = 4000
#: Of a t test, of which only mean and variance are drawn.
_QUICK_SWEEPS = 100_000
#: With more seeds, a permutation test is simulated as the t test that it approaches.
_LISTED = {"sign_flip": 10, "unpaired": 6}
#: More seeds than anybody has.
_MOST_SEEDS = 1000


def power(test: str, n: int, level: float, effect: float) -> float:
    """The chance that an effect is shown, in its own direction.

    Args:
        test: of the grid.
        n: seeds.
        level: of one test, after the correction.
        effect: in standard deviations of the paired difference (of two independent arms, for ``unpaired``).
    """
    low, _ = _bounds(test, n, level)
    return float(np.mean(low + abs(effect) > 0))


def smallest_effect(test: str, n: int, level: float, chance: float = 0.8) -> float | None:
    """The effect, in standard deviations of the difference, that is shown with this ``chance``; None if none is."""
    low, _ = _bounds(test, n, level)
    found = float(np.quantile(-low, chance, method="higher"))
    return found if math.isfinite(found) else None


def smallest_margin(test: str, n: int, level: float, chance: float = 0.8) -> float | None:
    """The margin, in the same unit, within which equal arms are found equal with this ``chance``; None if none is."""
    low, high = _bounds(test, n, 2 * level)
    found = float(np.quantile(np.maximum(-low, high), chance, method="higher"))
    return found if math.isfinite(found) else None


def seeds_for_margin(test: str, margin: float, level: float, chance: float = 0.8) -> int | None:
    """The seeds with which equal arms are found equal within ``margin`` with this ``chance``; None beyond 1,000."""
    low, high = 2, 8
    while not _enough(test, high, margin, level, chance):  # most answers are small, and small ones are quick
        if high == _MOST_SEEDS:
            return None
        low, high = high + 1, min(2 * high, _MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _enough(test, middle, margin, level, chance) else (middle + 1, high)
    return low


def spread_range(sd: float, df: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a normal standard deviation that was found to be ``sd`` with ``df`` degrees of freedom."""
    tail = (1 - level) / 2
    return sd * (df / quantiles.chi_square(1 - tail, df)) ** 0.5, sd * (df / quantiles.chi_square(tail, df)) ** 0.5


def _enough(test: str, n: int, margin: float, level: float, chance: float) -> bool:
    found = smallest_margin(test, n, level, chance)
    return found is not None and found < margin


@functools.lru_cache(maxsize=256)
def _bounds(test: str, n: int, level: float) -> tuple[Floats, Floats]:
    """Bounds [sweeps] of the intervals of differences without an effect; infinite where a test gives none."""
    if n > _LISTED.get(test, 0):
        df = 2 * n - 2 if test == "unpaired" else n - 1
        rng = np.random.default_rng(n)
        # Mean and variance of normal differences are independent, so that these need not be drawn one by one.
        mean = rng.standard_normal(_QUICK_SWEEPS) / n**0.5
        half = quantiles.student(1 - level / 2, df) * np.sqrt(rng.chisquare(df, _QUICK_SWEEPS) / df / n)
        return mean - half, mean + half
    typical = _typical(test, n)
    rank = math.floor(level / 2 * (typical.shape[1] + 1) + 1e-9)
    if rank < 1:
        return np.full(_SWEEPS, -np.inf), np.full(_SWEEPS, np.inf)
    return typical[:, rank - 1].astype(np.float64), typical[:, -rank].astype(np.float64)


@functools.lru_cache(maxsize=8)
def _typical(test: str, n: int) -> NDArray[np.float32]:
    """The typical values [sweeps, k] of simulated sweeps, sorted; single precision, which sorts twice as fast."""
    arms = (np.random.default_rng(n).standard_normal((2, _SWEEPS, n)) / 2**0.5).astype(np.float32)
    return np.sort(_sign_flips(arms[0] - arms[1]) if test == "sign_flip" else _exchanges(arms[0], arms[1]), axis=1)


def _sign_flips(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    return differences @ averages(differences.shape[1]).astype(np.float32).T


def _exchanges(arm: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    n = arm.shape[1]
    weights = averages(n).astype(np.float32)
    sizes = (weights > 0).sum(axis=1)
    mine, theirs = (values @ weights.T for values in (arm, other))
    pairs = [(mine[:, sizes == k, None] - theirs[:, None, sizes == k]).reshape(len(arm), -1) for k in range(1, n + 1)]
    return np.concatenate(pairs, axis=1)
