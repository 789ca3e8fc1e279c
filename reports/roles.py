"""Which of a sweep's measures is what was rewarded, and which is what was meant."""

from __future__ import annotations

from reports.metrics import Metric
from reports.records import Sweep


def proxy(sweep: Sweep) -> str:
    """The evaluation's measure of what training rewarded: the one whose field is called as the arms' reward is.

    Empty if arms have several rewards, or evaluations do not measure it.
    """
    rewards = {arm.config.get("reward", {}).get("name") for arm in sweep.trained if arm.done}
    if len(rewards) != 1:
        return ""
    (reward,) = rewards
    return next((metric.name for metric in sweep.schema.entries.values() if metric.row_field == reward), "")


def gold(sweep: Sweep) -> str:
    """What was meant: the primary measure or, where that is the proxy itself, the first headline that is not."""
    rewarded = proxy(sweep)
    if sweep.primary != rewarded:
        return sweep.primary
    return next((metric.name for metric in sweep.schema.headlines if metric.name != rewarded), sweep.primary)


def in_training(sweep: Sweep) -> list[Metric]:
    """What was measured of the training rollouts, the primary measure first; headlines alone if there are any."""
    logged = {name for cell in sweep.cells for name in cell.history}
    metrics = sorted(sweep.schema.entries.values(), key=lambda metric: metric.name != sweep.primary)
    by_field: dict[str, Metric] = {}
    for metric in metrics:
        if metric.row_field and f"train/{metric.row_field}" in logged:
            by_field.setdefault(metric.row_field, metric)
    said = [metric for metric in by_field.values() if metric.headline or metric.name == sweep.primary]
    return said or [*by_field.values()]
