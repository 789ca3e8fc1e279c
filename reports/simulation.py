"""How often the verdicts are wrong, by simulated sweeps: ``python -m reports.simulation [SWEEPS [SCENARIO]]``.

Each simulated sweep goes through the very functions that a report is made by.  Writes ``simulated.json``, from which
the pages print what an interval covers, and prints it as a table; with a word of a scenario's name it prints the rows
of that alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reports import drawn
from reports.findings import Family
from reports.ladder_simulation import Ladders, ladders
from reports.pairs import families
from reports.records import Contrast
from reports.simulated import TABLE
from reports.statistics import Correction, Interval, mean_interval
from reports.statistics.intervals import Floats
from reports.statistics.power import smallest_effect
from reports.verdict import verdict


@dataclass(frozen=True)
class Scenario:
    """A kind of sweep.

    Attributes:
        name: in the table.
        draw: its scores, without an effect.
        arms: with the baseline.
        seeds: of each.
        test: as declared.
        correction: as declared.
        effect: added to the planned arms.
        margin: as declared.
        looks: planned ones; none is a fixed design.
        crossed: whether the arms are the baseline and one other arm at two levels of another factor.
        promised: what the plan said of the rate of 'difference shown'.
    """

    name: str
    draw: drawn.Draw
    arms: int = 2
    seeds: int = 8
    test: str = "sign_flip"
    correction: Correction = "bonferroni"
    effect: tuple[float, ...] = ()
    margin: float | None = None
    looks: tuple[int, ...] = ()
    crossed: bool = False
    promised: float | None = None

    @property
    def effects(self) -> tuple[float, ...]:
        """Of each planned comparison."""
        planned = 1 if self.crossed else self.arms - 1
        return self.effect or (0.0,) * planned

    def row(self, sweeps: int) -> dict[str, Any]:
        """Simulate ``sweeps`` of it: its row of the table."""
        told = {key: getattr(self, key) for key in ("arms", "seeds", "test", "correction", "promised")}
        found = {k: v for k, v in dataclasses.asdict(run(self, sweeps)).items() if not k.startswith("_")}
        return {"scenario": self.name, **told, **found}


@dataclass
class Tally:
    """What came of the sweeps of a scenario, as shares of them.

    Attributes:
        shown: 'difference shown'.
        equal: 'equal within margin'.
        covered: all planned intervals hold their true difference.
        arm_covered: the interval of the baseline's mean holds its true mean.
    """

    sweeps: int = 0
    shown: float = 0.0
    equal: float = 0.0
    covered: float = 0.0
    arm_covered: float = 0.0
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, **found: bool) -> None:
        """Count one sweep."""
        self.sweeps += 1
        for name, value in found.items():
            self._counts[name] = self._counts.get(name, 0) + bool(value)
            setattr(self, name, self._counts[name] / self.sweeps)


def scenarios() -> Iterator[Scenario]:
    """All of the table."""
    draws = (
        drawn.normal,
        drawn.binomial,
        drawn.correlated,
        drawn.unequal,
        drawn.skewed,
        drawn.skewed_once,
        drawn.collapsing,
        drawn.collapsing_once,
    )
    for test in ("sign_flip", "paired_t", "unpaired"):
        for draw in draws:
            for seeds in (6, 8, 12):
                yield Scenario(draw.__name__, draw, seeds=seeds, test=test)
        for seeds in (6, 8, 12):
            if effect := smallest_effect(test, seeds, 0.05):
                size = effect * drawn.SPREAD * 2**0.5
                yield Scenario("power", drawn.normal, seeds=seeds, test=test, effect=(size,), promised=0.8)
            yield Scenario("at the margin", drawn.normal, seeds=seeds, test=test, effect=(0.03,), margin=0.03)
        yield Scenario("three looks", drawn.normal, seeds=18, test=test, looks=(6, 12, 18))
        yield Scenario("three looks, skewed", drawn.skewed, seeds=18, test=test, looks=(6, 12, 18))
        yield Scenario("one of two looks", drawn.normal, seeds=16, test=test, looks=(8, 16))
    for arms in range(3, 9):
        yield Scenario("several arms", drawn.normal, arms=arms, seeds=10)
        yield Scenario("several arms, correlated", drawn.correlated, arms=arms, seeds=10)
    for seeds in (7, 8, 10):
        yield Scenario("another factor", drawn.other_factor, arms=4, seeds=seeds, crossed=True)
    for seeds in (8, 10):
        for test in ("sign_flip", "paired_t"):
            yield Scenario("three warm-ups", drawn.warm_ups, seeds=seeds, test=test)
            yield Scenario("three warm-ups, an effect by each", drawn.effect_by_warm_up, seeds=seeds, test=test)
            if effect := smallest_effect(test, seeds, 0.05):
                size = effect * drawn.SPREAD * 2**0.5
                power = Scenario("three warm-ups, power", drawn.warm_ups, 2, seeds, test, effect=(size,), promised=0.8)
                yield power
                yield dataclasses.replace(power, name=f"{power.name}, an effect by each", draw=drawn.effect_by_warm_up)
    for seeds in (6, 8, 12):
        yield Scenario("all must differ", drawn.normal, arms=3, seeds=seeds, correction="none", effect=(0.0, 0.1))
        yield Scenario("false discoveries", drawn.normal, arms=4, seeds=seeds, correction="bh")


def run(scenario: Scenario, sweeps: int, key: int = 0) -> Tally:
    """Simulate ``sweeps`` of a scenario."""
    rng, tally = np.random.default_rng([key, *scenario.name.encode()]), Tally()
    for _ in range(sweeps):
        scores = scenario.draw(rng, scenario.arms, scenario.seeds)
        if not scenario.crossed:
            scores[1:] += np.array(scenario.effects)[:, None]
        judged = [_judge(scenario, scores[:, :n]) for n in scenario.looks or (scenario.seeds,)]
        last = judged[-1][0]
        tally.add(
            shown=any(status == "difference shown" for _, status in judged),
            equal=any(status == "equal within margin" for _, status in judged),
            covered=all(
                not pair.interval.excludes(effect) for pair, effect in zip(last.pairs, scenario.effects, strict=True)
            ),
            arm_covered=not _baseline(scores).excludes(0.0),
        )
    return tally


def _baseline(scores: Floats) -> Interval:
    return mean_interval(scores[0])


def _judge(scenario: Scenario, scores: Floats) -> tuple[Family, str]:
    names = [f"arm{k}" for k in range(len(scores))]
    planned = tuple(Contrast(name, names[0], ((name, names[0]),)) for name in names[1:])
    if scenario.crossed:
        planned = (Contrast("other", "baseline", ((names[1], names[0]), (names[3], names[2]))),)
    sweep = drawn.sweep(
        {name: {drawn.SCORE: row} for name, row in zip(names, scores, strict=True)},
        planned,
        correction=scenario.correction,
        test=scenario.test,
        margin=scenario.margin,
        design="group_sequential" if scenario.looks else "fixed",
        looks=scenario.looks,
    )
    family = next(families(sweep))
    return family, verdict(sweep, [family]).status


def main(sweeps: int = 2000, word: str = "") -> int:
    """Simulate, print and, if all scenarios were run, write the table."""
    rows = []
    everything: tuple[Scenario | Ladders, ...] = (*scenarios(), *ladders())
    for scenario in everything:
        if word in scenario.name:
            rows.append(row := scenario.row(sweeps))
            print(" ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    if not word:
        lines = ",\n ".join(json.dumps(row) for row in rows)
        TABLE.write_text(f"[{lines}]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:] or ["2000"])[0]), (sys.argv[2:] or [""])[0]))
