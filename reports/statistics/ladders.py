"""Ladders of one setting, read where another measure is held equal."""

from __future__ import annotations

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
