"""Quantiles in the standard library alone: a plan is made in a moment, and importing SciPy takes longer than that.

Both distribution functions are finite sums for whole degrees of freedom (Abramowitz and Stegun 1964, 26.4.4-5 and
26.7.3-4), and are inverted by bisection.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

_STEPS = 200


def chi_square(p: float, df: int) -> float:
    """The ``p``-quantile of the chi-square distribution with ``df`` degrees of freedom, 0 < p < 1."""
    return _inverse(lambda x: chi_square_cdf(x, df), p)


@functools.lru_cache(maxsize=256)
def student(p: float, df: int) -> float:
    """The ``p``-quantile of Student's t distribution with ``df`` degrees of freedom, 0.5 <= p < 1."""
    return _inverse(lambda t: student_cdf(t, df), p)


def chi_square_cdf(x: float, df: int) -> float:
    """The probability that a chi-square variable is below ``x`` >= 0."""
    if x == 0:
        return 0.0
    odd = df % 2
    total = math.erf((x / 2) ** 0.5) if odd else 1.0
    for k in range(df // 2):
        # x^s e^(-x/2) / (2^s Gamma(s + 1)), with s = k or k + 1/2.
        s = k + odd / 2
        total -= math.exp(s * math.log(x / 2) - x / 2 - math.lgamma(s + 1))
    return total


def student_cdf(t: float, df: int) -> float:
    """The probability that Student's t is below ``t`` >= 0."""
    angle = math.atan(t / df**0.5)
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = df % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(2, df + 1, 2):
        total += term
        term *= cosine**2 * (k - 1 + odd) / (k + odd)
    return 0.5 + ((angle + sine * total) / math.pi if odd else sine * total / 2)


def _inverse(cdf: Callable[[float], float], p: float) -> float:
    low, high = 0.0, 1.0
    while cdf(high) < p:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if cdf(middle) >= p else (middle, high)
    return high
