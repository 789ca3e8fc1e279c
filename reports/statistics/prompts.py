"""Scores of single prompts, which all seeds share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from reports.statistics.intervals import Floats, Interval


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
