"""How often the verdicts are wrong, by simulated sweeps: ``python -m reports.simulation [SWEEPS [SCENARIO]]``.

Each simulated sweep goes through the very functions that a report is made by.  Writes ``simulated.json``, from which
the pages print what an interval covers, and prints it as a table.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from reports.findings import Family
from reports.metrics import Schema
from reports.pairs import families
from reports.records import Arm, Contrast, Sweep
from reports.runs import Cell
from reports.simulated import TABLE
from reports.statistics import Correction, Interval, mean_interval
from reports.statistics.intervals import Floats
from reports.statistics.power import smallest_effect
from reports.verdict import verdict

#: Standard deviation of a score over seeds, as in ``grid=kl_vs_mse``.
SPREAD = 0.02

#: Scores [arms, seeds] of arms that all have mean 0.
Draw = Callable[[np.random.Generator, int, int], Floats]


def normal(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Independent normal scores."""
    return SPREAD * rng.standard_normal((arms, seeds))


def correlated(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Arms that share a third of their variance through the seed."""
    shared = rng.standard_normal(seeds)
    return SPREAD * (3**-0.5 * shared + (2 / 3) ** 0.5 * rng.standard_normal((arms, seeds)))


def unequal(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """The first arm varies half as much as the others."""
    return normal(rng, arms, seeds) * np.where(np.arange(arms) == 0, 0.5, 1.0)[:, None]


def binomial(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Shares of 576 images that pass, in 144 prompts of their own difficulty; all the spread is evaluation."""
    chances = rng.beta(3, 1, 144)
    return rng.binomial(4, np.broadcast_to(chances, (arms, seeds, 144))).mean(axis=2) / 4 - chances.mean()


def skewed(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """All arms have a long tail of bad runs (log-normal)."""
    return -SPREAD * (rng.lognormal(size=(arms, seeds)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def skewed_once(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """One arm has such a tail, at an equal mean."""
    return np.concatenate((normal(rng, arms - 1, seeds), skewed(rng, 1, seeds)))


def collapsing(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """15 % of all runs end .25 lower."""
    return normal(rng, arms, seeds) - 0.25 * ((rng.random((arms, seeds)) < 0.15) - 0.15)


def collapsing_once(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """15 % of one arm's runs end .25 lower, at an equal mean: those that do not end higher than the other arms."""
    return np.concatenate((normal(rng, arms - 1, seeds), collapsing(rng, 1, seeds)))


def other_factor(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Half of the arms has another level of a factor that is worth .05."""
    return normal(rng, arms, seeds) + np.where(np.arange(arms) < arms // 2, 0.0, 0.05)[:, None]


def warm_ups(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """Seeds start from three models in turn, each better than the one before by the spread over seeds."""
    return normal(rng, arms, seeds) + SPREAD * np.resize([-1.0, 0.0, 1.0], seeds)


def effect_by_warm_up(rng: np.random.Generator, arms: int, seeds: int) -> Floats:
    """The first arm alone is that much worse or better: a difference from each model, and none in the mean of seeds."""
    effects = SPREAD * np.resize([-1.0, 0.0, 1.0], seeds)
    return normal(rng, arms, seeds) + np.where(np.arange(arms) == 0, 1.0, 0.0)[:, None] * (effects - effects.mean())


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
    draw: Draw
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
    draws = (normal, binomial, correlated, unequal, skewed, skewed_once, collapsing, collapsing_once)
    for test in ("sign_flip", "paired_t", "unpaired"):
        for draw in draws:
            for seeds in (6, 8, 12):
                yield Scenario(draw.__name__, draw, seeds=seeds, test=test)
        for seeds in (6, 8, 12):
            if effect := smallest_effect(test, seeds, 0.05):
                size = effect * SPREAD * 2**0.5
                yield Scenario("power", normal, seeds=seeds, test=test, effect=(size,), promised=0.8)
            yield Scenario("at the margin", normal, seeds=seeds, test=test, effect=(0.03,), margin=0.03)
        yield Scenario("three looks", normal, seeds=18, test=test, looks=(6, 12, 18))
        yield Scenario("three looks, skewed", skewed, seeds=18, test=test, looks=(6, 12, 18))
        yield Scenario("one of two looks", normal, seeds=16, test=test, looks=(8, 16))
    for arms in range(3, 9):
        yield Scenario("several arms", normal, arms=arms, seeds=10)
        yield Scenario("several arms, correlated", correlated, arms=arms, seeds=10)
    for seeds in (7, 8, 10):
        yield Scenario("another factor", other_factor, arms=4, seeds=seeds, crossed=True)
    for seeds in (8, 10):
        for test in ("sign_flip", "paired_t"):
            yield Scenario("three warm-ups", warm_ups, seeds=seeds, test=test)
            yield Scenario("three warm-ups, an effect by each", effect_by_warm_up, seeds=seeds, test=test)
    for seeds in (6, 8, 12):
        yield Scenario("all must differ", normal, arms=3, seeds=seeds, correction="none", effect=(0.0, 0.1))
        yield Scenario("false discoveries", normal, arms=4, seeds=seeds, correction="bh")


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
    sweep = Sweep(
        name="",
        grid="",
        question="",
        recipe="",
        baseline=names[0],
        primary="score",
        higher_is_better=True,
        secondary=(),
        planned=planned,
        alpha=0.05,
        correction=scenario.correction,
        command=(),
        seeds=tuple(range(scores.shape[1])),
        arms=tuple(
            Arm(
                name,
                (),
                untouched=False,
                cells=tuple(
                    Cell(name, seed, "", "done", metrics={"score": float(value)}, updates=1)
                    for seed, value in enumerate(row)
                ),
            )
            for name, row in zip(names, scores, strict=True)
        ),
        refused=(),
        created="",
        git_sha="",
        schema=Schema.union([]),
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
    for scenario in scenarios():
        if word in scenario.name:
            tally = run(scenario, sweeps)
            row = {
                "scenario": scenario.name,
                **{key: getattr(scenario, key) for key in ("arms", "seeds", "test", "correction", "promised")},
                **{key: value for key, value in dataclasses.asdict(tally).items() if not key.startswith("_")},
            }
            rows.append(row)
            print(" ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    if not word:
        lines = ",\n ".join(json.dumps(row) for row in rows)
        TABLE.write_text(f"[{lines}]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:] or ["2000"])[0]), (sys.argv[2:] or [""])[0]))
