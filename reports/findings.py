"""Records of results: the analysis makes them; caveats, figures, tables and pages read them."""

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
    """The smallest corrected p that is possible with this many pairs."""
    decimals: int | None
    """Decimals that the metric is printed with; None for scientific notation."""
    p_adjusted: float = 1.0
    crossed: Interval | None = None
    """Bootstrap interval over seeds and prompts."""
    new_prompts: Interval | None = None
    """Interval for these checkpoints on new prompts, clustered by prompt; it says nothing about new training runs."""


@dataclass(frozen=True)
class Family:
    """Comparisons whose p-values are corrected together."""

    key: str
    title: str
    correction: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Verdict:
    """The answer in one sentence."""

    status: Status
    sentence: str


@dataclass(frozen=True)
class EqualProxy:
    """At one proxy score: the gold score of each ladder, and the paired difference of the first two ladders."""

    level: float
    gold: Mapping[str, Interval]
    difference: Comparison | None


@dataclass(frozen=True)
class Analysis:
    """What the pages print."""

    sweep: Sweep
    intervals: Mapping[str, Mapping[str, Interval]]
    """Arm -> metric -> mean and interval over seeds; without unstable arms."""
    families: tuple[Family, ...]
    exploratory: Family
    ladders: Mapping[str, tuple[tuple[float, str], ...]]
    """Regularizer -> (weight, arm) by weight, if the grid has a ladder of weights."""
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
