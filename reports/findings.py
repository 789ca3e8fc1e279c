"""Records of results: the analysis makes them; caveats, figures, tables and pages read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reports.blocks import Split
from reports.records import Sweep
from reports.statistics import Comparison, Correction, Interval, Spread

Status = Literal["difference shown", "equal within margin", "no difference shown", "not testable", "nothing to compare"]


@dataclass(frozen=True)
class Pair:
    """``arm`` minus ``other`` on one metric, as its family judges it."""

    arm: str
    other: str
    couples: tuple[tuple[str, str], ...]
    """The arms behind it: one couple, or several over which it is averaged."""
    metric: str
    seeds: tuple[int, ...]
    comparison: Comparison
    decimals: int | None
    """Decimals that the metric is printed with; None for scientific notation."""
    interval: Interval
    """The effects that are not rejected at the family's level; it excludes 0 exactly where a difference is shown."""
    p_adjusted: float
    testable: bool
    """Whether this many seeds, with as many ties, can reach the family's level."""
    equal: bool | None = None
    """Whether the difference is shown to lie within the margin; None without a margin."""
    crossed: Interval | None = None
    """Interval for new seeds and new prompts."""
    noise: float | None = None
    """How far from 0 the mean lies in 95 % of cases if the arms are equal; None without A/A arms."""
    new_prompts: Interval | None = None
    """Interval for these checkpoints on new prompts, clustered by meaning; it says nothing about new training runs."""

    @property
    def arms(self) -> frozenset[str]:
        """Names of all arms behind it."""
        return frozenset(name for couple in self.couples for name in couple)

    @property
    def name(self) -> str:
        """Such as ``velocity_mse − latent_kl``."""
        return f"{self.arm} − {self.other}"

    @property
    def p(self) -> float:
        """Two-sided p of the test, not corrected."""
        return self.comparison.evidence.p()

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.interval.excludes(0.0)


@dataclass(frozen=True)
class Family:
    """Comparisons that are corrected together."""

    key: str
    title: str
    correction: Correction
    pairs: tuple[Pair, ...]
    alpha: float
    """Of the family, at this look."""
    level: float
    """Of each of its tests; 1 - ``level`` is the coverage of each of its intervals."""
    comparisons: int
    """How many there were to be; more than there are pairs where an arm has no result."""

    @property
    def shown(self) -> tuple[Pair, ...]:
        """The pairs whose difference is shown. Without a correction it is all that were to be made, or none."""
        found = tuple(pair for pair in self.pairs if pair.shown)
        return found if self.correction != "none" or len(found) == self.comparisons else ()

    @property
    def coverage(self) -> str:
        """What its intervals cover, in words."""
        covered = f"{100 * (1 - self.alpha):.3g} %"
        if len(self.pairs) == 1:
            return covered
        return {
            "none": f"{covered} each",
            "bh": f"{covered} of those that exclude 0 (false coverage rate)",
            "bonferroni": f"{covered} for all {len(self.pairs)} together",
        }[self.correction]


@dataclass(frozen=True)
class Verdict:
    """The answer in one sentence."""

    status: Status
    sentence: str


@dataclass(frozen=True)
class EqualProxy:
    """At one proxy score: the gold score of each ladder, and the difference of the first two ladders by seed."""

    level: float
    gold: Mapping[str, Interval]
    difference: Interval | None
    """Simultaneous over the levels."""
    p_adjusted: float
    unreached: int
    """Seeds of which one of the two ladders does not reach the level; they are left out."""


@dataclass(frozen=True)
class Analysis:
    """What the pages print."""

    sweep: Sweep
    intervals: Mapping[str, Mapping[str, Interval]]
    """Arm -> metric -> mean and interval over seeds; without unstable arms."""
    families: tuple[Family, ...]
    exploratory: Family
    matched: Family | None
    """Arms that are said to be matched, on the measure of their strength."""
    ladders: Mapping[str, tuple[tuple[float, str], ...]]
    """Regularizer -> (weight, arm) by weight, if the grid has a ladder of weights."""
    equal_proxy: tuple[EqualProxy, ...]
    verdict: Verdict
    warnings: tuple[str, ...]
    spreads: Mapping[str, Spread]
    """Arm -> the parts of the variance of its primary measure, where rows by image give them."""
    splits: tuple[Split, ...] = ()
    """The planned differences by the model that seeds start from, where these are several."""

    def family(self, key: str) -> Family | None:
        """The family called ``key``, if there is one."""
        return next((family for family in self.families if family.key == key), None)

    @property
    def significant(self) -> frozenset[str]:
        """Arms whose planned difference from the baseline is shown; a main effect says nothing of a single arm."""
        family = self.family("baseline")
        return frozenset(pair.arm for pair in family.shown if len(pair.couples) == 1) if family else frozenset()
