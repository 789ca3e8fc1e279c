"""What was found in a sweep: the records that the analysis fills and that caveats, figures, tables and pages read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reports.records import Sweep
from reports.statistics import Comparison, Interval

Status = Literal["difference shown", "no difference shown", "not testable", "nothing to compare"]


@dataclass(frozen=True)
class Pair:
    """``arm`` minus ``other`` on one metric."""

    arm: str
    other: str
    metric: str
    seeds: tuple[int, ...]
    comparison: Comparison
    floor: float
    """The smallest corrected p within reach with this many pairs."""
    decimals: int | None
    """Digits that the metric is printed with."""
    p_adjusted: float = 1.0
    crossed: Interval | None = None
    """Bootstrap over seeds and prompts."""
    new_prompts: Interval | None = None
    """These checkpoints on new prompts: clustered by prompt, nothing said about new training runs."""


@dataclass(frozen=True)
class Family:
    """Comparisons that are corrected together."""

    key: str
    title: str
    correction: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Verdict:
    """The one-sentence answer."""

    status: Status
    sentence: str


@dataclass(frozen=True)
class EqualProxy:
    """One level of the proxy: gold score by ladder, and the paired difference of the first two ladders."""

    level: float
    gold: Mapping[str, Interval]
    difference: Comparison | None


@dataclass(frozen=True)
class Analysis:
    """What the pages print."""

    sweep: Sweep
    intervals: Mapping[str, Mapping[str, Interval]]
    """Arm -> metric -> mean and interval over seeds; unstable arms are left out."""
    families: tuple[Family, ...]
    exploratory: Family
    ladders: Mapping[str, tuple[tuple[float, str], ...]]
    """Regularizer -> (weight, arm) in order of weight, where a grid has a ladder of weights."""
    equal_proxy: tuple[EqualProxy, ...]
    verdict: Verdict
    warnings: tuple[str, ...]

    def family(self, key: str) -> Family | None:
        """The family called ``key``, if there is one."""
        return next((family for family in self.families if family.key == key), None)

    @property
    def significant(self) -> frozenset[str]:
        """Arms that differ from the baseline on the primary metric after correction."""
        family = self.family("baseline")
        return frozenset(p.arm for p in family.pairs if p.p_adjusted <= self.sweep.alpha) if family else frozenset()
