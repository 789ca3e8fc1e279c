"""Runs whose truth is known: drawn scores, and the sweep that they make up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reports.metrics import Schema
from reports.records import Arm, Contrast, Sweep
from reports.runs import Cell
from reports.statistics.intervals import Floats

#: The primary measure of a drawn sweep; more is better.
SCORE = "score"

#: Standard deviation of a score over seeds, as in ``grid=kl_vs_mse``.
SPREAD = 0.02

#: Scores [arms, seeds] of arms that all have mean 0.
Draw = Callable[[np.random.Generator, int, int], Floats]


def normal(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Independent normal scores."""
    return SPREAD * rng.standard_normal((arms, seeds))


def correlated(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Arms that share a third of their variance through the seed."""
    shared = rng.standard_normal(seeds)
    return SPREAD * (3**-0.5 * shared + (2 / 3) ** 0.5 * rng.standard_normal((arms, seeds)))


def unequal(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """The first arm varies half as much as the others."""
    return normal(rng, arms, seeds) * np.where(np.arange(arms) == 0, 0.5, 1.0)[:, None]


def binomial(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Shares of 576 images that pass, in 144 prompts of their own difficulty; all the spread is evaluation."""
    chances = rng.beta(3, 1, 144)
    return rng.binomial(4, np.broadcast_to(chances, (arms, seeds, 144))).mean(axis=2) / 4 - chances.mean()


def skewed(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """All arms have a long tail of bad runs (log-normal)."""
    return -SPREAD * (rng.lognormal(size=(arms, seeds)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def skewed_once(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """One arm has such a tail, at an equal mean."""
    return np.concatenate((normal(rng, arms - 1, seeds), skewed(rng, 1, seeds)))


def collapsing(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """15 % of all runs end .25 lower."""
    return normal(rng, arms, seeds) - 0.25 * ((rng.random((arms, seeds)) < 0.15) - 0.15)


def collapsing_once(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """15 % of one arm's runs end .25 lower, at an equal mean: those that do not end higher than the other arms."""
    return np.concatenate((normal(rng, arms - 1, seeds), collapsing(rng, 1, seeds)))


def other_factor(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Half of the arms has another level of a factor that is worth .05."""
    return normal(rng, arms, seeds) + np.where(np.arange(arms) < arms // 2, 0.0, 0.05)[:, None]


def warm_ups(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Seeds start from three models in turn, each better than the one before by the spread over seeds."""
    return normal(rng, arms, seeds) + SPREAD * np.resize([-1.0, 0.0, 1.0], seeds)


def effect_by_warm_up(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """The first arm alone is that much worse or better: a difference from each model, and none in the mean of seeds."""
    effects = SPREAD * np.resize([-1.0, 0.0, 1.0], seeds)
    return normal(rng, arms, seeds) + np.where(np.arange(arms) == 0, 1.0, 0.0)[:, None] * (effects - effects.mean())


def sweep(arms: Mapping[str, Mapping[str, Floats]], planned: Sequence[Contrast], **declared: Any) -> Sweep:
    """A sweep whose cells have all finished.

    Args:
        arms: name -> measure -> values [seeds]; the first is the baseline, and all have :data:`SCORE`.
        planned: the comparisons.
        declared: further fields of the sweep.
    """
    seeds = tuple(range(len(next(iter(arms.values()))[SCORE])))
    blank: dict[str, Any] = dict.fromkeys(("name", "grid", "question", "recipe", "created", "git_sha"), "")
    blank |= dict.fromkeys(("secondary", "command", "refused"), ())
    blank |= {"alpha": 0.05, "correction": "bonferroni"}
    return Sweep(
        **blank | declared,
        baseline=next(iter(arms)),
        primary=SCORE,
        higher_is_better=True,
        planned=tuple(planned),
        seeds=seeds,
        arms=tuple(_arm(name, values, seeds) for name, values in arms.items()),
        schema=Schema.union([]),
    )


def _arm(name: str, values: Mapping[str, Floats], seeds: Sequence[int]) -> Arm:
    metrics = ({measure: float(found[seed]) for measure, found in values.items()} for seed in seeds)
    cells = (Cell(name, seed, "", "done", metrics=m, updates=1) for seed, m in zip(seeds, metrics, strict=True))
    return Arm(name, (), untouched=False, cells=tuple(cells))
