"""The part of a large sweep that is drawn and explored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reports.records import Sweep

#: With more trained arms than this, not all pairs and measures are compared, and not all arms are drawn.
LARGE = 16


def leading(sweep: Sweep) -> Sweep:
    """The sweep itself. A large one is reduced to its baseline, the untouched model and the best other arms."""
    if len(sweep.trained) <= LARGE:
        return sweep
    sign = 1 if sweep.higher_is_better else -1
    rivals = [arm for arm in sweep.trained if arm.name != sweep.baseline and not (arm.unstable or arm.repeats)]
    scores = {arm.name: np.mean([*values.values()]) for arm in rivals if (values := arm.values(sweep.primary))}
    kept = {sweep.baseline, *sorted(scores, key=lambda name: -sign * scores[name])[: LARGE - 1]}
    return replace(sweep, arms=tuple(arm for arm in sweep.arms if not arm.trained or arm.repeats or arm.name in kept))
