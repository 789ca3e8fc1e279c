"""Means with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; ``low`` and ``high`` are None where the values are too few to give one."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None if there is none."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside the interval; False if there is none."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def within(self, margin: float) -> bool:
        """Whether all of the interval lies between ``-margin`` and ``margin``; False if there is none."""
        return self.low is not None and self.high is not None and -margin < self.low and self.high < margin

    @property
    def largest(self) -> float | None:
        """The largest absolute value in the interval; None if there is none."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and Student-t interval of independent values.

    Args:
        values: [n], n >= 1, finite.
        level: coverage under normal values.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    found = sample(values)
    mean = float(found.mean())
    if found.size == 1:
        return Interval(mean, None, None, 1)
    half = float(t_half_width(found[:, None], level)[0])
    return Interval(mean, mean - half, mean + half, found.size)


def t_half_width(values: Floats, level: float = 0.95) -> Floats:
    """Half-widths [k] of the Student-t intervals of the column means of ``values`` [n, k], n >= 2."""
    from scipy import stats

    n = values.shape[0]
    return np.asarray(stats.t.ppf((1 + level) / 2, n - 1) * values.std(axis=0, ddof=1) / n**0.5)


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter of the values."""
    from scipy import stats

    return float(stats.trim_mean(sample(values), 0.25))


def sample(values: ArrayLike) -> Floats:
    """``values`` as a vector.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    found = np.asarray(values, dtype=np.float64).reshape(-1)
    if found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"expected one finite value or more, got {found.tolist()}")
    return found
