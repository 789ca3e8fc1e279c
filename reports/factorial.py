"""Crossed factors: the mean of every combination, margins, and an axis against what it is crossed with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports import statistics
from reports.records import Arm, Sweep
from reports.statistics import Interval

#: The factor whose levels are the arms of the grid file.
ARM = "arm"

#: The level of an arm that has no such key.
NONE = "–"


@dataclass(frozen=True)
class Combination:
    """One row of the factorial table."""

    levels: tuple[str, ...]
    """Of the factors of the rows."""
    means: tuple[Interval | None, ...]
    """By level of the factor of the columns; None where there is no such arm, no result, or an unstable arm."""
    margin: Interval | None
    """Over all columns; None unless each has a mean. Of an arm without the factor of the columns its own mean."""


@dataclass(frozen=True)
class Crossed:
    """All combinations of the factors of a grid."""

    rows: tuple[str, ...]
    """Names of the factors of the rows."""
    columns: str
    """Name of the factor of the columns: of all factors that with the fewest levels."""
    levels: tuple[str, ...]
    """Of the factor of the columns."""
    table: tuple[Combination, ...]
    margins: tuple[Interval | None, ...]
    """Of each column, over the rows that have a mean in every column; the last one is over everything."""


@dataclass(frozen=True)
class Along:
    """The means along the levels of one axis, averaged over all further axes."""

    axis: str
    levels: tuple[str, ...]
    by: str
    """The factor that has a line for each level; empty if there is one line."""
    lines: Mapping[str, Mapping[str, Interval]]
    """Level of the factor ``by`` -> level of the axis -> mean over seeds."""
    over: tuple[str, ...]
    """The axes that are averaged over."""


def crossed(sweep: Sweep) -> Crossed | None:
    """The factorial table of the primary measure; None for a grid without axes."""
    points, factors = _points(sweep)
    if not any(factor != ARM for factor in factors):
        return None
    levels_of = {factor: tuple(level for level in levels if level != NONE) for factor, levels in factors.items()}
    # Where an arm lacks an axis, a column of its own would leave all rows without a margin.
    ragged = levels_of != factors
    columns = min(levels_of, key=lambda factor: (ragged and factor == ARM, len(levels_of[factor])))
    rows = tuple(factor for factor in factors if factor != columns)
    by_place = {(tuple(at[row] for row in rows), at[columns]): arm for arm, at in points}
    levels = levels_of[columns]
    table, complete = [], []
    for place in dict.fromkeys(place for place, _ in by_place):
        arms = [by_place.get((place, level)) for level in levels]
        means = tuple(None if arm is None else _mean(sweep, [arm]) for arm in arms)
        whole = [arm for arm, mean in zip(arms, means, strict=True) if arm is not None and mean is not None]
        complete += [whole] if len(whole) == len(levels) else []
        alone = by_place.get((place, NONE))
        margin = whole if len(whole) == len(levels) else [alone] if alone else []
        table.append(Combination(place, means, _mean(sweep, margin)))
    over_rows = [_mean(sweep, list(column)) for column in zip(*complete, strict=True)] or [None] * len(levels)
    everything = _mean(sweep, [*itertools.chain.from_iterable(complete)])
    return Crossed(rows, columns, levels, tuple(table), (*over_rows, everything))


def along(sweep: Sweep) -> Iterator[Along]:
    """Each axis with a line per arm of the grid file; of a file with one arm, each axis by each later one."""
    points, factors = _points(sweep)
    axes = [factor for factor in factors if factor != ARM]
    if ARM in factors:
        pairs = [(axis, ARM) for axis in axes]
    else:
        pairs = [*itertools.combinations(axes, 2)] if len(axes) > 1 else [(axis, "") for axis in axes]
    for axis, by in pairs:
        over = tuple(other for other in axes if other not in (axis, by))
        lines = {
            line: found
            for line in factors.get(by, ("",))
            if (found := _line(sweep, [(arm, at) for arm, at in points if at.get(by, "") == line], axis, over))
        }
        if lines:
            levels = tuple(level for level in factors[axis] if any(level in found for found in lines.values()))
            yield Along(axis, levels, by, lines, over)


def _line(
    sweep: Sweep, points: Sequence[tuple[Arm, Mapping[str, str]]], axis: str, over: Sequence[str]
) -> dict[str, Interval]:
    """Level of the axis -> mean at equal levels of the further axes, of those that every level has."""
    arms: dict[str, dict[tuple[str, ...], Arm]] = {}
    for arm, at in points:
        if at[axis] != NONE and _mean(sweep, [arm]) is not None:
            arms.setdefault(at[axis], {})[tuple(at[other] for other in over)] = arm
    common = [rest for rest in next(iter(arms.values()), {}) if all(rest in found for found in arms.values())]
    means = {level: _mean(sweep, [found[rest] for rest in common]) for level, found in arms.items()}
    return {level: mean for level, mean in means.items() if mean is not None}


def _points(sweep: Sweep) -> tuple[list[tuple[Arm, dict[str, str]]], dict[str, tuple[str, ...]]]:
    """The compared arms with their level of every factor, and the factors that have two levels or more."""
    arms = [arm for arm in sweep.arms if not arm.untouched and arm.repeats is None]
    keys = dict.fromkeys(key for arm in arms for key in arm.factors)
    points = [(arm, {ARM: arm.stem} | {key: _level(arm.factors.get(key)) for key in keys}) for arm in arms]
    factors = {factor: tuple(dict.fromkeys(at[factor] for _, at in points)) for factor in (ARM, *keys)}
    return points, {factor: levels for factor, levels in factors.items() if len({*levels} - {NONE}) > 1}


def _level(label: str | None) -> str:
    """Such as ``3`` for ``weight=3``: the name of the axis says the rest."""
    return NONE if label is None else label.partition("=")[2] or label


def _mean(sweep: Sweep, arms: Sequence[Arm]) -> Interval | None:
    """The mean over the seeds that all of ``arms`` have; None if there is none, or an arm is unstable."""
    values = [arm.values(sweep.primary) for arm in arms]
    if not values or any(arm.unstable for arm in arms):
        return None
    seeds = sorted(set.intersection(*({*found} for found in values)))
    return statistics.mean_interval(np.mean([[found[s] for s in seeds] for found in values], axis=0)) if seeds else None
