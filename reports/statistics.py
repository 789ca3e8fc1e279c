"""Statistics of a few paired training runs, as pure functions of arrays.

The unit of inference is the training run.  All images of one checkpoint share the random choices of its training, so
they are no independent evidence about a method.  Therefore: t intervals over seeds, exact sign-flip tests of paired
differences, and "not testable" if there are too few seeds to reach the level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: With more sign assignments than this (17 seeds or more), the test samples them instead of listing all.
_MAX_SIGN_FLIPS = 2**16


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; ``low`` and ``high`` are None for fewer than two values."""

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


@dataclass(frozen=True)
class Comparison:
    """One arm against another on one metric, paired by seed; or against a constant, without a correlation."""

    difference: Interval
    p: float
    """Exact two-sided sign-flip p."""
    effect: float | None
    """Standardised effect: mean of the differences over their sample standard deviation."""
    improved: int
    """Seeds in which the arm is strictly better."""
    correlation: float | None
    """Pearson correlation of the two arms across seeds: pairing helps only if it is clearly positive."""
    differences: tuple[float, ...]


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and Student-t interval of independent values.

    Args:
        values: [n], n >= 1, finite.
        level: coverage under normal values.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    sample = _sample(values)
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, None, None, 1)
    half = float(t_half_width(sample[:, None], level)[0])
    return Interval(mean, mean - half, mean + half, sample.size)


def t_half_width(values: Floats, level: float = 0.95) -> Floats:
    """Half-widths [k] of the Student-t intervals of the column means of ``values`` [n, k], n >= 2."""
    from scipy import stats

    n = values.shape[0]
    return np.asarray(stats.t.ppf((1 + level) / 2, n - 1) * values.std(axis=0, ddof=1) / n**0.5)


def sign_flip_p(differences: ArrayLike) -> float:
    """Two-sided p of paired differences under the null that each is symmetric about 0.

    Exact by listing all 2^n assignments of signs up to n = 16; beyond that, 2^16 random ones with a fixed key.

    Args:
        differences: [n], n >= 1, finite.
    """
    sample = _sample(differences)
    if sample.size == 1:
        return 1.0
    from scipy import stats

    result = stats.permutation_test(
        (sample,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_MAX_SIGN_FLIPS,
        batch=4096,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def smallest_p(n: int) -> float:
    """The smallest two-sided p that an exact sign-flip test of ``n`` pairs can give: 2 / 2^n."""
    return min(1.0, 2.0 / 2.0**n)


def smallest_adjusted_p(n: int, comparisons: int, correction: str) -> float:
    """The smallest p that the best of ``comparisons`` tests can reach after a correction (``holm``, ``bh``, ``none``).

    Holm multiplies the best p by the number of tests; under Benjamini-Hochberg all tests may be at the floor together.
    """
    return min(1.0, smallest_p(n) * (comparisons if correction in ("holm", "bonferroni") else 1))


def seeds_needed(alpha: float, comparisons: int, correction: str) -> int:
    """The smallest number of seeds with which a corrected exact test can reach ``alpha``."""
    n = 1
    while smallest_adjusted_p(n, comparisons, correction) > alpha:
        n += 1
    return n


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    m = len(p_values)
    adjusted, running = [0.0] * m, 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p-values (false discovery rate), in the order given."""
    from scipy import stats

    return [float(p) for p in stats.false_discovery_control(list(p_values))] if p_values else []


def adjust(p_values: Sequence[float], correction: str) -> list[float]:
    """Adjust by the named ``correction``: ``holm``, ``bh`` or ``none``.

    Raises:
        ValueError: another name.
    """
    rules: dict[str, Callable[[Sequence[float]], list[float]]] = {"holm": holm, "bh": benjamini_hochberg, "none": list}
    rules["bonferroni"] = lambda found: [min(1.0, len(found) * p) for p in found]
    if correction not in rules:
        raise ValueError(f"correction: expected one of {', '.join(rules)}, got {correction!r}")
    return rules[correction](p_values)


def compare(arm: ArrayLike, other: ArrayLike | float, *, higher_is_better: bool = True) -> Comparison:
    """Compare an arm with another, seed by seed; a scalar ``other`` makes it a one-sample test against a constant.

    Args:
        arm: [n] one value per seed.
        other: [n] the other arm's values of the same seeds in the same order, or a constant.
        higher_is_better: decides what counts as a seed improved; the difference is always arm minus other.

    Raises:
        ValueError: the shapes differ, there is no value, or one is not finite.
    """
    first, second = _sample(arm), np.asarray(other, dtype=np.float64)
    if second.ndim and second.shape != first.shape:
        raise ValueError(f"pairs need equal shapes: got {first.shape} and {second.shape}")
    # Equal scores summed in another order differ by rounding; they are ties.
    differences = np.where(np.isclose(first, second, rtol=1e-12, atol=0), 0.0, _sample(first - second))
    spread = float(differences.std(ddof=1)) if differences.size > 1 else 0.0
    return Comparison(
        difference=mean_interval(differences),
        p=sign_flip_p(differences),
        # If all differences are equal but for rounding, their spread is rounding too.
        effect=float(differences.mean()) / spread if spread > 1e-9 * np.abs(differences).max(initial=0) else None,
        improved=int(np.sum(differences > 0 if higher_is_better else differences < 0)),
        correlation=_correlation(first, second) if second.ndim else None,
        differences=tuple(float(d) for d in differences),
    )


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter of the values."""
    from scipy import stats

    return float(stats.trim_mean(_sample(values), 0.25))


def two_level_bootstrap(
    differences: ArrayLike, groups: Sequence[str], *, level: float = 0.95, resamples: int = 4000, key: int = 0
) -> Interval:
    """Percentile bootstrap over seeds and prompts of a score that is the unweighted mean of its groups' means.

    All seeds answer the same prompts, so seeds and prompts are resampled independently and crossed.  Prompts are
    resampled within their group, so that every resample has as many prompts of each group.

    Args:
        differences: [seeds, prompts] of paired differences.
        groups: the group (task) of each prompt.
        level: nominal coverage; with few seeds the true one is lower (about 0.84 at 5).
        resamples: number of bootstrap samples.
        key: seed of the resampling.

    Raises:
        ValueError: not two-dimensional, empty, not finite, or as many groups as prompts.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or table.shape[1] != len(groups) or not np.isfinite(table).all():
        raise ValueError(f"expected finite [seeds, {len(groups)}], got shape {table.shape}")
    rng = np.random.default_rng(key)
    seeds, weights = table.shape[0], prompt_weights(groups)
    labels = np.asarray(groups)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    prompt_counts = np.empty((resamples, len(groups)))
    for name in sorted(set(groups)):
        members = np.flatnonzero(labels == name)
        prompt_counts[:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), resamples)
    draws = np.einsum("rs,sp,rp->r", seed_counts / seeds, table, prompt_counts * weights, optimize=True)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float((table.mean(axis=0) * weights).sum()), float(low), float(high), seeds)


def prompt_weights(groups: Sequence[str]) -> Floats:
    """Weights [prompts] with which a plain sum of prompt scores is the unweighted mean of the groups' means."""
    names, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(names) * counts[inverse]), dtype=np.float64)


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


def _sample(values: ArrayLike) -> Floats:
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"expected one finite value or more, got {sample.tolist()}")
    return sample


def _correlation(first: Floats, second: Floats) -> float | None:
    if first.size < 3 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
