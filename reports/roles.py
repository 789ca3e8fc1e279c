"""Which measure of a sweep is the reward (proxy), which is the goal (gold), and which judges the training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reports.metrics import Metric
from reports.records import Arm, Sweep
from reports.runs import Series

#: Single precision: what curves that are one and the same may differ by, relative to their largest value.
_ROUNDING = 1e-5


def proxy(sweep: Sweep) -> str:
    """The final measure of the quantity that was rewarded: its row field has the name of the arms' reward.

    Empty if arms have different rewards, or if evaluations do not measure the reward.
    """
    rewards = {arm.config.get("reward", {}).get("name") for arm in sweep.trained if arm.done}
    if len(rewards) != 1:
        return ""
    (reward,) = rewards
    whole = (metric for metric in sweep.schema.entries.values() if not metric.rows)
    return next((metric.name for metric in whole if metric.row_field == reward), "")


def gold(sweep: Sweep) -> str:
    """The measure of the goal: the primary one, or the first other headline if the primary is the proxy."""
    rewarded = proxy(sweep)
    if sweep.primary != rewarded:
        return sweep.primary
    return next((metric.name for metric in sweep.schema.headlines if metric.name != rewarded), sweep.primary)


def in_training(sweep: Sweep) -> list[Metric]:
    """The measures of the training rollouts, the primary first; only primary and headlines if any was logged."""
    logged = {name for cell in sweep.cells for name in cell.history}
    metrics = sorted(sweep.schema.entries.values(), key=lambda metric: metric.name != sweep.primary)
    by_field: dict[str, Metric] = {}
    for metric in metrics:
        if metric.row_field and not metric.rows and f"train/{metric.row_field}" in logged:
            by_field.setdefault(metric.row_field, metric)
    said = [metric for metric in by_field.values() if metric.headline or metric.name == sweep.primary]
    return said or [*by_field.values()]


def judge(sweep: Sweep) -> Metric | None:
    """The measure of the training rollouts that the reward is held against: the primary, or the first headline.

    None if only the reward itself and its components were measured.
    """
    candidates = (metric for metric in in_training(sweep) if metric.headline or metric.name == sweep.primary)
    return next((metric for metric in candidates if judged(sweep, metric)), None)


def judged(sweep: Sweep, metric: Metric) -> list[Arm]:
    """The trained arms whose rollouts were measured by ``metric`` and whose reward does not contain it."""
    name = f"train/{metric.row_field}"
    return [arm for arm in sweep.trained if arm.curves(name) and not _is_rewarded(arm, metric.row_field)]


def _is_rewarded(arm: Arm, field: str) -> bool:
    """Whether ``train/<field>`` is the arm's reward or a component of it: by name, or because the curves agree."""
    if field in ("reward", arm.config.get("reward", {}).get("name")) or arm.curves(f"train/reward/{field}"):
        return True
    rewards = {name for cell in arm.done for name in cell.history if f"{name}/".startswith("train/reward/")}
    return any(_proportional(arm.curves(name), arm.curves(f"train/{field}")) for name in rewards)


def _proportional(reward: Mapping[int, Series], measure: Mapping[int, Series]) -> bool:
    """Whether the curves of all seeds are one multiple of the others, as a score on 0-10 is of a reward on 0-1."""
    if not measure.keys() <= reward.keys():
        return False
    pairs = [(reward[seed], series) for seed, series in measure.items()]
    if any(x.steps.tolist() != y.steps.tolist() for x, y in pairs):
        return False
    x, y = (np.concatenate([pair[i].values for pair in pairs]) for i in (0, 1))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return False  # two constants may be equal by chance
    return np.allclose(x / np.abs(x).max(), y / np.abs(y).max(), rtol=0, atol=_ROUNDING)
