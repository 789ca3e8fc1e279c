"""Scores of single prompts: what a difference says of other prompts, and of other prompts and seeds at once.

A score is the unweighted mean of its tags' means over their prompts.  Prompts that share a meaning are no independent
evidence about prompts, so the unit is the meaning, within its tag: the score of a tag is a ratio estimator over its
meanings, and its variance is that of the linearised estimator (clustered standard errors; Miller 2024 for evaluations).
Tags have few meanings, hence Student's t with Satterthwaite's (1946) degrees of freedom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.statistics.intervals import Floats, Interval


@dataclass(frozen=True)
class Meanings:
    """The meanings of an evaluation set, within their tags.

    Attributes:
        order: [prompts] their numbers, meaning by meaning.
        starts: [meanings] where each begins in that order.
        tag: [meanings] the number of the tag of each.
        share: [meanings] the weight of each in its tag's mean.
        in_tag: [meanings, tags] 1 where a meaning is of a tag.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    tag: NDArray[np.intp]
    share: Floats
    in_tag: Floats

    @classmethod
    def of(cls, tags: Sequence[str], meanings: Sequence[str]) -> Meanings:
        """Of prompts in any order.

        Args:
            tags: [prompts] the tag of each.
            meanings: [prompts] what each shares with its paraphrases.
        """
        sizes = Counter(sorted(zip(tags, meanings, strict=True)))
        unit = {pair: number for number, pair in enumerate(sizes)}
        order = np.argsort([unit[pair] for pair in zip(tags, meanings, strict=True)], kind="stable")
        counts = np.array([*sizes.values()])
        _, tag = np.unique([name for name, _ in sizes], return_inverse=True)
        in_tag = (tag[:, None] == np.arange(tag.max() + 1)).astype(np.float64)
        return cls(order, np.cumsum(counts) - counts, tag, counts / (counts @ in_tag)[tag], in_tag)

    @property
    def degrees(self) -> Floats:
        """[tags] meanings less one."""
        return np.asarray(self.in_tag.sum(axis=0) - 1)

    def score(self, table: Floats) -> Floats:
        """Scores [...] of prompts' scores [..., prompts]."""
        return np.asarray(self._tag_means(self._means(table)).mean(axis=-1))

    def variances(self, table: Floats) -> Floats:
        """[..., tags] estimates of each tag's part in the variance of the score over draws of meanings.

        Unbiased if meanings are drawn independently, with equal variance, at the sizes that they have.  A tag of one
        meaning says nothing about others: NaN.
        """
        means = self._means(table)
        off = means - self._tag_means(means)[..., self.tag]
        squares = self.share**2 @ self.in_tag
        expected = (self.share**2 * (1 - 2 * self.share + squares[self.tag])) @ self.in_tag
        correction = np.divide(squares, expected, out=np.full_like(squares, np.nan), where=self.degrees > 0)
        found = (off**2 * self.share**2) @ self.in_tag * correction
        return np.asarray(found / self.in_tag.shape[1] ** 2)

    def _means(self, table: Floats) -> Floats:
        """[..., meanings] means of prompts' scores [..., prompts]."""
        sizes = np.diff(self.starts, append=len(self.order))
        return np.asarray(np.add.reduceat(table[..., self.order], self.starts, axis=-1) / sizes)

    def _tag_means(self, means: Floats) -> Floats:
        return np.asarray((means * self.share) @ self.in_tag)


@dataclass(frozen=True)
class Crossed:
    """Variances of a mean over seeds and meanings, all seeds having answered the same prompts.

    Attributes:
        score: the mean.
        seeds: its variance over draws of seeds, on these prompts.
        meanings: its variance over draws of meanings, with these seeds.
        residual: what both contain: seeds that answer other meanings otherwise, and the noise of the images.
        seeds_df: degrees of freedom of ``seeds``.
        meanings_df: degrees of freedom of ``meanings``, by Satterthwaite over the tags.
    """

    score: float
    seeds: float
    meanings: float
    residual: float
    seeds_df: float
    meanings_df: float

    @classmethod
    def of(cls, table: Floats, structure: Meanings) -> Crossed:
        """Of scores [seeds, prompts], two seeds or more; NaN where a tag has but one meaning."""
        n, mean = len(table), table.mean(axis=0)
        by_tag = structure.variances(mean)
        meanings = float(by_tag.sum())
        return cls(
            score=float(structure.score(mean)),
            seeds=float(structure.score(table).var(ddof=1)) / n,
            meanings=meanings,
            residual=float(structure.variances(table - mean).sum()) / (n - 1) / n,
            seeds_df=n - 1.0,
            meanings_df=_satterthwaite(by_tag, structure.degrees),
        )


def new_prompts_interval(
    table: ArrayLike, tags: Sequence[str], meanings: Sequence[str], level: float = 0.95
) -> Interval:
    """For new prompts and these checkpoints: meanings are the units, seeds are averaged over.

    Args:
        table: [seeds, prompts] of paired differences.
        tags: [prompts] the tag of each.
        meanings: [prompts] what each shares with its paraphrases.
        level: coverage, as simulated in ``coverage.json``.

    Returns:
        The interval, without bounds where a tag has but one meaning; its ``n`` is the number of meanings.

    Raises:
        ValueError: ``table`` is empty, not finite, or not as wide as there are tags.
    """
    found, structure = _checked(table, tags), Meanings.of(tags, meanings)
    mean = found.mean(axis=0)
    score, n = float(structure.score(mean)), len(structure.tag)
    if structure.degrees.min() < 1:
        return Interval(score, None, None, n)
    by_tag = structure.variances(mean)
    return _interval(score, float(by_tag.sum()), _satterthwaite(by_tag, structure.degrees), level, n)


def new_seeds_and_prompts_interval(
    table: ArrayLike, tags: Sequence[str], meanings: Sequence[str], level: float = 0.95
) -> Interval:
    """For new seeds and new prompts at once.

    The variance is that over seeds and that over meanings, less what both contain.  That difference can fall below
    either, which the truth cannot, so it is at least the smaller of the two; and its degrees of freedom, which
    Satterthwaite's formula takes too low where the parts are equal, are at least the fewer of the two.

    Args:
        table: [seeds, prompts] of paired differences.
        tags: [prompts] the tag of each.
        meanings: [prompts] what each shares with its paraphrases.
        level: coverage, as simulated in ``coverage.json``.

    Returns:
        The interval, without bounds where there is one seed, or a tag has but one meaning; its ``n`` is the seeds.

    Raises:
        ValueError: ``table`` is empty, not finite, or not as wide as there are tags.
    """
    found, structure = _checked(table, tags), Meanings.of(tags, meanings)
    if len(found) < 2 or structure.degrees.min() < 1:
        return Interval(float(structure.score(found.mean(axis=0))), None, None, len(found))
    parts = Crossed.of(found, structure)
    variance = max(parts.seeds + parts.meanings - parts.residual, min(parts.seeds, parts.meanings))
    fewest = min(parts.seeds_df, parts.meanings_df)
    spread = (
        parts.seeds**2 / parts.seeds_df
        + parts.meanings**2 / parts.meanings_df
        + parts.residual**2 / (parts.seeds_df * parts.meanings_df)
    )
    df = max(variance**2 / spread, fewest) if spread else fewest
    return _interval(parts.score, variance, df, level, len(found))


def _checked(table: ArrayLike, tags: Sequence[str]) -> Floats:
    found = np.asarray(table, dtype=np.float64)
    if found.ndim != 2 or found.size == 0 or found.shape[1] != len(tags) or not np.isfinite(found).all():
        raise ValueError(f"expected finite [seeds, {len(tags)}], got shape {found.shape}")
    return found


def _satterthwaite(variances: Floats, degrees: Floats) -> float:
    """Degrees of freedom of a sum of independent variances; the fewest of any if all are 0 or one is unknown."""
    total = float(variances.sum())
    return total**2 / float((variances**2 / degrees).sum()) if total > 0 else float(degrees.min())


def _interval(mean: float, variance: float, df: float, level: float, n: int) -> Interval:
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, df)) * variance**0.5
    return Interval(mean, mean - half, mean + half, n)


def prompt_weights(groups: Sequence[str]) -> Floats:
    """Weights [prompts] with which a plain sum of prompt scores is the unweighted mean of the groups' means."""
    names, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(names) * counts[inverse]), dtype=np.float64)
