"""The noise floor: what equal arms differ by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reports.statistics import quantiles


@dataclass(frozen=True)
class NoiseFloor:
    """The spread of runs that share configuration and seed and nothing else.

    Attributes:
        sd: standard deviation of one run.
        df: degrees of freedom that it is known with.
    """

    sd: float
    df: int

    def half_width(self, runs: float, level: float = 0.95) -> float:
        """How far from 0 a weighted sum of runs without any effect lies, with probability ``level``.

        Args:
            runs: the sum of its squared weights: 2 / n for the mean difference of two arms over n seeds.
            level: two-sided, by Student's t, as the spread is an estimate.
        """
        return quantiles.student((1 + level) / 2, self.df) * self.sd * runs**0.5


def noise_floor(repeated: Iterable[Sequence[float]]) -> NoiseFloor | None:
    """The pooled spread within groups of runs that share configuration and seed; None if no group has two runs.

    All repetitions count, each pair of them alike, where the largest of a few differences would be the luck of one.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in repeated if len(values) > 1]
    df = sum(values.size - 1 for values in groups)
    if not df:
        return None
    return NoiseFloor(float(np.sqrt(sum(((values - values.mean()) ** 2).sum() for values in groups) / df)), df)
