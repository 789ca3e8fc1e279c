"""Several looks at the results of one sweep, planned before the runs."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from reports.statistics.intervals import Floats

#: Points of the grid over which the recursion integrates, and steps of its bisection.
_POINTS, _STEPS = 1001, 60


@functools.lru_cache(maxsize=64)
def nominal_levels(alpha: float, looks: tuple[int, ...]) -> tuple[float, ...]:
    """The level of the test at each look, such that all looks together reject a true null with probability ``alpha``.

    Alpha is spent as O'Brien and Fleming's bounds do, little at first (Lan and DeMets 1983, their first spending
    function, half of alpha on each side); the bounds are those of a normal mean, by the recursion of Armitage,
    McPherson and Rowe (1969).

    Args:
        alpha: two-sided, of all looks.
        looks: numbers of seeds, ascending; the last is the declared maximum.

    Raises:
        ValueError: there is no look, or they do not ascend from 1.
    """
    if not looks or looks[0] < 1 or any(a >= b for a, b in itertools.pairwise(looks)):
        raise ValueError(f"looks: expected ascending numbers of seeds, got {list(looks)}")
    from scipy import special

    times = [look / looks[-1] for look in looks]
    edge = special.ndtri(1 - alpha / 4)
    spent = [0.0, *(4 * special.ndtr(-edge / time**0.5) for time in times)]
    # The sum so far, of variance 0 before the first look, weighted by the chance that no look rejected.
    points, mass, before = np.zeros(1), np.ones(1), 0.0
    levels = []
    for time, allowed in zip(times, np.diff(spent), strict=True):
        spread = (time - before) ** 0.5
        bound = _bisect(points, mass, spread, float(allowed))
        levels.append(float(2 * special.ndtr(-bound / time**0.5)))
        nodes = np.linspace(-bound, bound, _POINTS)
        weight = np.full(_POINTS, nodes[1] - nodes[0])
        weight[[0, -1]] /= 2
        density = np.exp(-0.5 * ((nodes[:, None] - points) / spread) ** 2) / (spread * (2 * np.pi) ** 0.5)
        points, mass, before = nodes, (density @ mass) * weight, time
    return tuple(levels)


def _bisect(points: Floats, mass: Floats, spread: float, allowed: float) -> float:
    """The bound beyond which the sum goes with probability ``allowed``."""
    from scipy import special

    low, high = 0.0, 40.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        beyond = special.ndtr((points - middle) / spread) + special.ndtr((-middle - points) / spread)
        low, high = (middle, high) if mass @ beyond > allowed else (low, middle)
    return (low + high) / 2
