"""Many comparisons at once: the level at which each of a family is tested, and adjusted p-values.

A family has one level for all of its tests and intervals, so that the intervals agree with the verdicts.  That is why
there is no step-down rule such as Holm's: its verdicts have no intervals.  It would not change whether *any* difference
is shown, as it tests the smallest p at Bonferroni's level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: ``none`` supports one claim only: that all comparisons of the family differ (an intersection-union test).
Correction = Literal["bonferroni", "bh", "none"]
CORRECTIONS: tuple[Correction, ...] = ("bonferroni", "bh", "none")


@dataclass(frozen=True)
class Corrected:
    """What a correction makes of a family.

    Attributes:
        level: at which each test is judged: one whose p is at most this is shown.
        adjusted: p-values that are at most alpha exactly where the raw ones are at most ``level``.
    """

    level: float
    adjusted: tuple[float, ...]


def correct(p_values: Sequence[float], alpha: float, correction: Correction, comparisons: int = 0) -> Corrected:
    """Correct the p-values of a family.

    ``bonferroni``: no false difference in the family, but with probability alpha.  ``bh``: a share of alpha of the
    shown differences is false (Benjamini and Hochberg 1995); intervals at its level miss a share of alpha of the
    effects that are shown (Benjamini and Yekutieli 2005).

    Args:
        p_values: of the tests that could be made, in any order.
        alpha: of the family.
        correction: see above.
        comparisons: how many were planned, if more than there are p-values.

    Raises:
        ValueError: another name of a correction.
    """
    m = max(comparisons, len(p_values), 1)
    if correction == "none":
        return Corrected(alpha, tuple(p_values))
    if correction == "bonferroni":
        return Corrected(alpha / m, tuple(min(1.0, m * p) for p in p_values))
    if correction != "bh":
        raise ValueError(f"correction: expected one of {', '.join(CORRECTIONS)}, got {correction!r}")
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [1.0] * len(p_values), 1.0
    for rank in range(len(order), 0, -1):
        running = min(running, m / rank * p_values[order[rank - 1]])
        adjusted[order[rank - 1]] = running
    shown = sum(p <= alpha for p in adjusted)
    return Corrected(alpha * max(shown, 1) / m, tuple(adjusted))


def smallest_p(n: int) -> float:
    """The smallest two-sided p that an exact sign-flip test of ``n`` pairs can give: 2 / 2^n."""
    return min(1.0, 2.0 / 2.0**n)


def seeds_needed(level: float) -> int:
    """The smallest number of seeds with which an exact sign-flip test can reach ``level``, if no two scores tie."""
    n = 1
    while smallest_p(n) > level:
        n += 1
    return n


def tests_needed(floor: float, alpha: float, comparisons: int) -> int:
    """How many of a Benjamini-Hochberg family must reach the smallest possible p before any of them is shown."""
    return next((k for k in range(1, comparisons + 1) if floor <= alpha * k / comparisons), comparisons + 1)
