"""Ladders of one setting, read where another measure is held equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from reports.statistics.intervals import Floats


def at_equal(x: ArrayLike, y: ArrayLike, levels: ArrayLike) -> Floats:
    """``y`` where ``x`` takes each of ``levels``, by straight lines through the points in order of ``x``.

    Args:
        x: [k] the measure held equal (the proxy score along a ladder).
        y: [k] the measure read off (the gold score).
        levels: [m].

    Returns:
        [m]; NaN outside the range of ``x``.
    """
    order = np.argsort(np.asarray(x, dtype=np.float64), kind="stable")
    xs, ys = np.asarray(x, dtype=np.float64)[order], np.asarray(y, dtype=np.float64)[order]
    return np.asarray(np.interp(np.asarray(levels, dtype=np.float64), xs, ys, left=np.nan, right=np.nan))


def along(held: Sequence[Mapping[int, float]], read: Sequence[Mapping[int, float]], level: float) -> dict[int, float]:
    """For each seed that all rungs have, the measure ``read`` where the measure ``held`` takes ``level``.

    Args:
        held: of each rung, seed -> the measure held equal.
        read: of each rung, seed -> the measure read off.
        level: of the measure held equal.

    Returns:
        Seed -> the value; NaN where the seed's own rungs do not reach the level.
    """
    seeds = sorted(set.intersection(*({*one} for one in (*held, *read))))
    rungs = {seed: [[values[seed] for values in side] for side in (held, read)] for seed in seeds}
    return {seed: float(at_equal(xs, ys, [level])[0]) for seed, (xs, ys) in rungs.items()}
