"""Learning curves on held-out prompts: evaluations in the loop, with the final one as their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reports import statistics
from reports.metrics import capitalize_first
from reports.records import Arm, Sweep
from reports.roles import gold, proxy
from reports.runs import Cell, Floats, Series

#: Seeds by which a rise and a fall can be told.
_FEWEST = 3


@dataclass(frozen=True)
class HeldOut:
    """One measure by update.

    Attributes:
        name: of the logged measure, ``eval/...``.
        title: of its figure, with what its points rest on.
        curves: arm -> seed -> series; the last point is the final evaluation's.
        partings: arm -> the update after which the reward rises on held-out prompts and the judge's score falls; of the
            judge's measure alone.
    """

    name: str
    title: str
    curves: Mapping[str, Mapping[int, Series]]
    partings: Mapping[str, float]


def held_out(sweep: Sweep) -> list[HeldOut]:
    """The measures that were evaluated in the loop: the primary, the reward's, and headlines."""
    judge, rewarded = gold(sweep), proxy(sweep)
    names = dict.fromkeys((sweep.primary, rewarded, *(metric.name for metric in sweep.schema.headlines)))
    curves = {name: {arm.name: _series(arm, name) for arm in sweep.trained} for name in names}
    parted = {}
    if rewarded != judge and rewarded in curves and judge in curves:
        higher = [sweep.better(name) != "lower" for name in (rewarded, judge)]
        found = {arm: parting(curves[rewarded][arm], curves[judge][arm], *higher) for arm in curves[judge]}
        parted = {arm: step for arm, step in found.items() if step is not None}
    return [
        HeldOut(f"eval/{name}", _title(sweep, name), by_arm, parted if name == judge else {})
        for name, by_arm in curves.items()
        if any(by_arm.values())
    ]


def _series(arm: Arm, name: str) -> dict[int, Series]:
    """Seed -> the curve of a measure, for cells that have it."""
    return {
        cell.seed: _with_end(cell, series, name) for cell in arm.done if (series := cell.history.get(f"eval/{name}"))
    }


def _with_end(cell: Cell, series: Series, name: str) -> Series:
    """The logged points, and the final evaluation after the last update."""
    if name not in cell.metrics or series.steps[-1] >= cell.updates:
        return series
    return Series(np.append(series.steps, cell.updates), np.append(series.values, cell.metrics[name]))


def _title(sweep: Sweep, name: str) -> str:
    phrase = capitalize_first(sweep.schema.metric_phrase(name))
    settings = [arm.config.get("evaluation") or {} for arm in sweep.trained]
    few = {setting.get("loop_images_per_prompt") for setting in settings} - {None}
    split = {setting.get("split") for setting in settings} - {None}
    whose = f"{split.pop()} prompts" if len(split) == 1 else "held-out prompts"
    many = sweep.evaluated.images
    if len(few) != 1 or len(many) != 1:
        return f"{phrase} on {whose}"
    (count,) = few
    return f"{phrase} on {whose}, {count} image{'s' * (count != 1)} each, at the end {many[0]}"


def parting(
    reward: Mapping[int, Series], judged: Mapping[int, Series], reward_up: bool = True, judged_up: bool = True
) -> float | None:
    """The step of the judge's best mean, if from there to the end the reward rises and the judge's score falls.

    Both by more than the 95 % t interval over seeds of their change; None if they do not, or with less than 3 seeds.

    Args:
        reward: seed -> the reward by update.
        judged: seed -> the judge's score by update.
        reward_up: whether more of the first is better.
        judged_up: whether more of the second is better.
    """
    seeds = sorted(reward.keys() & judged.keys())
    every = [table[seed] for table in (reward, judged) for seed in seeds]
    steps = sorted(set.intersection(*(set(series.steps.tolist()) for series in every))) if every else []
    if len(seeds) < _FEWEST or len(steps) < 2:
        return None
    rewards, scores = (
        (1 if up else -1) * np.stack([_at(table[seed], steps) for seed in seeds])
        for table, up in ((reward, reward_up), (judged, judged_up))
    )
    best = int(scores.mean(axis=0).argmax())
    if best == len(steps) - 1:
        return None
    rise, fall = (statistics.mean_interval(values[:, -1] - values[:, best]) for values in (rewards, scores))
    parts = rise.low is not None and rise.low > 0 and fall.high is not None and fall.high < 0
    return float(steps[best]) if parts else None


def _at(series: Series, steps: list[float]) -> Floats:
    return series.values[np.searchsorted(series.steps, steps)]
