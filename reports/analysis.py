"""Computes what the pages state: intervals, comparisons, warnings and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from reports import blocks, controls, ladder, noise, statistics
from reports.caveats import caveats
from reports.findings import Analysis, EqualProxy
from reports.leading import leading
from reports.pairs import exploratory, families, matched
from reports.records import Arm, Sweep
from reports.roles import gold, proxy
from reports.statistics import Comparison, Interval
from reports.verdict import verdict


def analyse(sweep: Sweep) -> Analysis:
    """Compute everything that the pages state. Deterministic."""
    found = tuple(families(sweep))
    ladders, spreads = _ladders(sweep), noise.spreads(sweep)
    strength = matched(sweep)
    return Analysis(
        sweep=sweep,
        intervals={arm.name: _intervals(arm) for arm in sweep.arms if arm.done and not arm.unstable},
        families=found,
        exploratory=exploratory(sweep),
        matched=strength,
        ladders=ladders,
        equal_proxy=tuple(_equal_proxy(sweep, ladders)),
        verdict=verdict(sweep, found),
        warnings=(
            *ladder.warnings(sweep),
            *caveats(sweep, found, leading(sweep)),
            *noise.warnings(sweep, spreads),
            *controls.warnings(sweep, found, strength),
        ),
        spreads=spreads,
        splits=blocks.splits(sweep.blocks, found),
    )


def drawn(analysis: Analysis) -> Analysis:
    """The part of an analysis that is drawn: all of it, or only the leading arms of a large sweep."""
    sweep = leading(analysis.sweep)
    if sweep is analysis.sweep:
        return analysis
    names = {arm.name for arm in (*sweep.arms, *sweep.derived)}
    shown = (replace(f, pairs=tuple(p for p in f.pairs if p.arms <= names)) for f in analysis.families)
    ladders = {k: tuple(point for point in ladder if point[1] in names) for k, ladder in analysis.ladders.items()}
    return replace(
        analysis,
        sweep=sweep,
        intervals={arm: found for arm, found in analysis.intervals.items() if arm in names},
        families=tuple(family for family in shown if family.pairs),
        ladders={k: ladder for k, ladder in ladders.items() if len(ladder) > 1},
    )


def _intervals(arm: Arm) -> dict[str, Interval]:
    names = sorted({name for cell in arm.done for name in cell.metrics})
    found = {name: arm.values(name) for name in names}
    if arm.trained or arm.blocks is None:
        return {name: statistics.mean_interval([*values.values()]) for name, values in found.items()}
    # Fixed models are no sample: their mean has the weights of their seeds, and no interval.
    means = {name: np.average([*by.values()], weights=[*map(arm.weight, by)]) for name, by in found.items()}
    return {name: Interval(float(means[name]), None, None, len(found[name])) for name in names}


def _ladders(sweep: Sweep) -> dict[str, tuple[tuple[float, str], ...]]:
    """Regularizer -> (weight, arm) by weight, for every regularizer that has two weights or more."""
    points: dict[str, dict[float, str]] = {}
    free: list[str] = []
    for arm in (arm for arm in sweep.trained if not arm.repeats):
        regularizer = arm.config.get("regularizer", {})
        if weight := float(regularizer.get("weight", 0.0)):
            points.setdefault(regularizer["name"], {}).setdefault(weight, arm.name)
        elif regularizer:
            free.append(arm.name)
    # The arm without a penalty has weight 0 in every ladder.
    common = {0.0: free[0]} if len(free) == 1 else {}
    return {name: tuple(sorted((common | ladder).items())) for name, ladder in points.items() if len(ladder) > 1}


def _equal_proxy(sweep: Sweep, ladders: Mapping[str, tuple[tuple[float, str], ...]]) -> Iterator[EqualProxy]:
    """The gold score that each ladder has at the same proxy score, by linear interpolation within each seed."""
    rewarded, meant = proxy(sweep), gold(sweep)
    if rewarded == meant:
        return
    curves: dict[str, dict[int, tuple[list[float], list[float]]]] = {}
    for name, points in ladders.items():
        arms = [sweep.arm(arm) for _, arm in points]
        values = [(arm.values(rewarded), arm.values(meant)) for arm in arms]
        seeds = [s for s in sweep.seeds if all(s in proxy and s in score for proxy, score in values)]
        if seeds:
            curves[name] = {s: ([proxy[s] for proxy, _ in values], [score[s] for _, score in values]) for s in seeds}
    if not curves:
        return
    means = [np.mean([x for x, _ in by_seed.values()], axis=0) for by_seed in curves.values()]
    low, high = max(m.min() for m in means), min(m.max() for m in means)
    if low >= high:
        return
    levels = [float(low + (high - low) * share) for share in (0.25, 0.5, 0.75)]
    read = [
        {
            name: {s: v for s, (x, y) in by_seed.items() if np.isfinite(v := statistics.at_equal(x, y, [level])[0])}
            for name, by_seed in curves.items()
        }
        for level in levels
    ]
    found = [_difference(*[*gold.values(), {}, {}][:2]) for gold in read]
    p_values = [1.0 if difference is None else difference.evidence.p() for difference in found]
    corrected = statistics.correct(p_values, sweep.alpha, "bonferroni")
    for level, gold_of, difference, adjusted in zip(levels, read, found, corrected.adjusted, strict=True):
        yield EqualProxy(
            level=level,
            gold={name: statistics.mean_interval([*golds.values()]) for name, golds in gold_of.items() if golds},
            difference=None if difference is None else difference.evidence.interval(1 - corrected.level),
            p_adjusted=adjusted,
            unreached=len(sweep.seeds) - (0 if difference is None else len(difference.differences)),
        )


def _difference(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    common = sorted(first.keys() & second.keys())
    return statistics.compare([first[s] for s in common], [second[s] for s in common]) if common else None
