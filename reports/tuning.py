"""What trying settings gave: the scores of each arm's settings, the best, and what fewer tries would have given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from reports.records import Arm, Sweep


@dataclass(frozen=True)
class Tried:
    """One setting of one arm."""

    arm: str
    name: str
    setting: str
    """Its overrides, beside those that all settings of the arm share."""
    scores: tuple[float, ...]
    best: bool
    """Whether it is the best of its arm, by its mean over the tuning seeds."""
    used: bool
    """Whether the arm of the sweep is configured so."""

    @property
    def mean(self) -> float | None:
        """Over the tuning seeds."""
        return float(np.mean(self.scores)) if self.scores else None


def tried(tuning: Sweep, sweep: Sweep | None = None) -> list[Tried]:
    """The settings that the sweep ``tuning`` tried, arm by arm; which of them ``sweep`` uses."""
    found = []
    for arm, names in tuning.candidates.items():
        members = [member for name in names for member in tuning.arms if member.name == name]
        shared = set.intersection(*({*member.overrides} for member in members)) if len(members) > 1 else set()
        scores = {member.name: tuple(member.values(tuning.primary).values()) for member in members}
        means = {name: float(np.mean(values)) for name, values in scores.items() if values}
        best = (max if tuning.higher_is_better else min)(means, key=lambda name: means[name], default="")
        used = next((one for one in sweep.arms if one.name.partition("@")[0] == arm), None) if sweep else None
        found += [
            Tried(
                arm,
                member.name,
                " ".join(text for text in member.overrides if text not in shared) or "as it stands",
                scores[member.name],
                best=member.name == best,
                used=used is not None and _alike(used, member),
            )
            for member in members
        ]
    return found


def expected_best(rows: list[Tried], *, higher_is_better: bool) -> Mapping[str, list[float]]:
    """Arm -> the expected score of the best of 1, 2, ... of its settings, drawn without replacement.

    Known as expected validation performance (Dodge et al. 2019): what an arm would have reached with a smaller budget.
    """
    curves = {}
    for arm in dict.fromkeys(row.arm for row in rows):
        means = sorted(mean for row in rows if row.arm == arm and (mean := row.mean) is not None)
        ranked = means if higher_is_better else means[::-1]
        total = len(ranked)
        curves[arm] = [
            sum(comb(i, k - 1) * score for i, score in enumerate(ranked)) / comb(total, k) for k in range(1, total + 1)
        ]
    return curves


def warnings(sweep: Sweep) -> Iterator[str]:
    """What a reader should know of how settings were chosen, where the grid has settings to try."""
    if not sweep.tuning_id:
        return
    if sweep.tuning is None:
        yield (
            "The grid has settings to try, and no results of that can be read beside this sweep: nothing here says that"
            f" its arms were tuned alike; the same command with tune=true tries them ({sweep.tuning_id})."
        )
        return
    rows = tried(sweep.tuning, sweep)
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        if not all(row.scores for row in mine):
            yield f"Not all settings of {arm} have been tried."
        elif not any(row.best and row.used for row in mine):
            best = next(row for row in mine if row.best)
            yield f"{arm} does not use the setting that did best when it was tuned ({best.setting})."


def _alike(arm: Arm, candidate: Arm) -> bool:
    """Whether two arms differ in nothing but their prompts, their seeds, and the models that these start from."""
    if not arm.config or not candidate.config:
        return False
    return _plain(arm) == _plain(candidate)


def _plain(arm: Arm) -> dict[str, Any]:
    config, model = arm.config, arm.config.get("model")
    evaluation = {key: value for key, value in config.get("evaluation", {}).items() if key != "split"}
    plain = {**config, "seed": 0, "evaluation": evaluation}
    return plain | {"model": arm.blocks.without(model)} if arm.blocks else plain
