"""Controls of a sweep: A/A arms, whose differences are noise alone, and arms that are said to be of equal strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from reports.findings import Family, Pair
from reports.metrics import number
from reports.records import Contrast, Sweep
from reports.statistics.noise import NoiseFloor, noise_floor
from reports.verdict import span


def floor_of(sweep: Sweep) -> NoiseFloor | None:
    """What the baseline and its repetitions differ by in the primary measure, at equal seeds and levels of the axes.

    They share neither prompts nor noise, so that it is the floor of arms that do not correlate across seeds: too high
    rather than too low for those that do.
    """
    repeated = {arm.repeats for arm in sweep.arms if arm.repeats}
    groups: dict[tuple[str, int], list[float]] = {}
    for arm in (arm for arm in sweep.trained if not arm.unstable):
        if (group := arm.repeats or arm.name) in repeated:
            for seed, value in arm.values(sweep.primary).items():
                groups.setdefault((group, seed), []).append(value)
    return noise_floor(groups.values())


def band(floor: NoiseFloor, sweep: Sweep, contrast: Contrast, seeds: int) -> float:
    """How far from 0 the mean of a comparison lies in 95 % of cases if its arms are equal."""
    trained = {arm.name for arm in sweep.trained}
    counted = sum(name in trained for couple in contrast.couples for name in couple)
    weight = 1.0 if contrast.summed else 1 / len(contrast.couples)
    return floor.half_width(counted * weight**2 / seeds)


def warnings(sweep: Sweep, families: Sequence[Family], matched: Family | None) -> Iterator[str]:
    """Warnings of controls that did not hold."""
    repeated = next((family.shown for family in families if family.key == "replicates"), ())
    for pair in repeated:
        yield (
            f"A difference is shown between runs of one configuration: {pair.name} is"
            f" {number(pair.comparison.mean, pair.decimals, signed=True)} ({span(pair.interval, pair.decimals)})."
            f" By chance alone that happens in {100 * sweep.alpha:.3g} % of sweeps at most; else cells differ in more"
            " than what is compared."
        )
    if matched is not None:
        yield from (_matched(pair, matched, sweep) for pair in matched.shown)


def strength(sweep: Sweep, matched: Family | None) -> list[str]:
    """What is known of the equality of matched arms, a sentence for each two; empty if none are said to be matched."""
    if sweep.matched is None:
        return []
    if matched is None:
        measure = sweep.schema.metric_phrase(sweep.matched.measure)
        return [f"Nothing is known of the strength of the matched arms: no two have a seed with {measure} in common."]
    return [_matched(pair, matched, sweep) for pair in matched.pairs]


def _matched(pair: Pair, family: Family, sweep: Sweep) -> str:
    decimals, measure = pair.decimals, sweep.schema.metric_phrase(pair.metric)
    usual = float(np.mean([np.mean([*sweep.arm(two).values(pair.metric).values()]) for _, two in pair.couples]))

    def size(value: float, *, signed: bool = False) -> str:
        share = f", {abs(value / usual):.0%} of {pair.other}'s" if usual else ""
        return f"{number(value, decimals, signed=signed)}{share}"

    if not pair.testable:
        return f"Matched strength is not testable with n = {len(pair.seeds)}: {pair.name} in {measure}."
    if pair in family.shown:
        return (
            f"Arms that are called matched differ in {measure}: {pair.name} is"
            f" {size(pair.comparison.mean, signed=True)} ({span(pair.interval, decimals)}). What else differs between"
            " them may be due to that."
        )
    largest = pair.interval.largest
    return (
        f"Matched strength: no difference in {measure} is shown for {pair.name} ({span(pair.interval, decimals)}); one"
        f" of up to {size(0.0 if largest is None else largest)} is not excluded."
    )
