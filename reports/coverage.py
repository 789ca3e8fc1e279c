"""What the intervals of a difference cover, by simulated evaluations: ``python -m reports.coverage [REPETITIONS]``.

Each repetition draws seeds, meanings, prompts and images anew for the shipped evaluation set's structure, or for one
of few meanings.  Writes ``coverage.json`` and prints it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reports.statistics import mean_interval, new_prompts_interval, new_seeds_and_prompts_interval
from reports.statistics.intervals import Floats
from reports.statistics.prompts import Meanings

#: Where the table of the shipped version lies.
TABLE = Path(__file__).with_name("coverage.json")

#: Meanings by task of the shipped evaluation set, which has 24 prompts of each; and of that of version 0.1.
SHIPPED = (24, 2, 2, 4, 6, 24)
FORMER = (5, 3, 4, 8, 12, 24)
_PROMPTS = 24

#: Draws of a given shape with mean 0 and variance 1.
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Normal effects."""
    return rng.standard_normal(shape)


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Bounded effects, so that chances stay within 0 and 1."""
    return rng.uniform(-(3**0.5), 3**0.5, shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Effects with a long tail (exponential)."""
    return rng.exponential(size=shape) - 1


def rare(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One in ten differs, the others do not."""
    return np.asarray(((rng.random(shape) < 0.1) - 0.1) / 0.3)


@dataclass(frozen=True)
class Scenario:
    """How a difference of two arms varies; all are standard deviations.

    Attributes:
        name: in the table.
        meanings: by tag.
        seed: of the whole run.
        meaning: of a meaning, the same for all seeds.
        prompt: of a prompt within its meaning.
        both: of a meaning in a seed.
        noise: of a prompt in a seed: its images.
        images: of each prompt that pass or fail, which is the noise then; 0 for normal noise.
        effects: how the meanings' effects are distributed.
    """

    name: str
    meanings: tuple[int, ...] = SHIPPED
    seed: float = 0.03
    meaning: float = 0.1
    prompt: float = 0.05
    both: float = 0.05
    noise: float = 0.15
    images: int = 0
    effects: Draw = normal

    def structure(self) -> tuple[list[str], list[str]]:
        """(tags, meanings) of the prompts."""
        pairs = [(f"t{t}", f"m{p * k // _PROMPTS}") for t, k in enumerate(self.meanings) for p in range(_PROMPTS)]
        return [tag for tag, _ in pairs], [meaning for _, meaning in pairs]

    def draw(self, rng: np.random.Generator, seeds: int, of: NDArray[np.intp]) -> tuple[Floats, float]:
        """Differences [seeds, prompts] of mean 0, and what these seeds would show on all prompts there might be.

        Args:
            rng: draws.
            seeds: how many.
            of: [prompts] the number of each prompt's meaning.
        """
        prompts, number = len(of), int(of.max()) + 1
        run = self.seed * uniform(rng, (seeds, 1)) if self.images else self.seed * normal(rng, (seeds, 1))
        shared = self.meaning * self.effects(rng, (number,)) + self.both * uniform(rng, (seeds, number))
        table = run + shared[:, of] + self.prompt * uniform(rng, (prompts,))
        if not self.images:
            return table + self.noise * normal(rng, (seeds, prompts)), float(run.mean())
        chances = rng.uniform(0.3, 0.7, number)[of]  # of the meanings, for both arms
        arms = [
            rng.binomial(self.images, np.broadcast_to(chance, table.shape)) for chance in (chances + table, chances)
        ]
        return (arms[0] - arms[1]) / self.images, float(run.mean())


def scenarios() -> Iterator[Scenario]:
    """All of the table."""
    yield Scenario("all vary")
    yield Scenario(
        "images pass or fail, 16", seed=0.02, meaning=0.05, prompt=0.02, both=0.02, images=16, effects=uniform
    )
    yield Scenario("images pass or fail, 4", seed=0.02, meaning=0.05, prompt=0.02, both=0.02, images=4, effects=uniform)
    yield Scenario("seeds and noise", meaning=0.0, prompt=0.0, both=0.0)
    yield Scenario("meanings and noise", seed=0.0)
    yield Scenario("meanings above all", meaning=0.3)
    yield Scenario("noise alone", seed=0.0, meaning=0.0, prompt=0.0, both=0.0)
    yield Scenario("noise by meaning alone", seed=0.0, meaning=0.0, prompt=0.0, both=0.3)
    yield Scenario("meanings skewed", effects=skewed)
    yield Scenario("one meaning in ten differs", effects=rare)
    yield Scenario("former set", FORMER)
    yield Scenario("former set, noise alone", FORMER, 0.0, 0.0, 0.0, 0.0)
    yield Scenario("3 meanings in each of 6 tasks", meanings=(3,) * 6)
    yield Scenario("3 meanings in each, noise alone", (3,) * 6, 0.0, 0.0, 0.0, 0.0)
    yield Scenario("2 meanings in each of 6 tasks", meanings=(2,) * 6)
    yield Scenario("tasks of 4 and 6 meanings", meanings=(4, 6))
    yield Scenario("tasks of 3, 24 and 24 meanings", meanings=(3, 24, 24))
    yield Scenario("one task of 12 meanings", meanings=(12,))


def run(scenario: Scenario, seeds: int, repetitions: int, key: int = 0) -> dict[str, float]:
    """Share of repetitions in which each interval holds what it is for; the last one is not for it."""
    rng = np.random.default_rng([key, seeds, *scenario.name.encode()])
    tags, meanings = scenario.structure()
    structure = Meanings.of(tags, meanings)
    _, of = np.unique([f"{tag} {meaning}" for tag, meaning in zip(tags, meanings, strict=True)], return_inverse=True)
    held = np.zeros(3)
    for _ in range(repetitions):
        table, of_seeds = scenario.draw(rng, seeds, of)
        held += [
            not new_prompts_interval(table, tags, meanings).excludes(of_seeds),
            not new_seeds_and_prompts_interval(table, tags, meanings).excludes(0.0),
            not mean_interval(structure.score(table)).excludes(0.0),
        ]
    return dict(
        zip(("new prompts", "new seeds and prompts", "of seeds, read as both"), held / repetitions, strict=True)
    )


def main(repetitions: int = 2000) -> int:
    """Simulate, print and write the table."""
    rows = []
    for scenario in scenarios():
        for seeds in (6, 8, 12, 20):
            found = {name: round(float(share), 4) for name, share in run(scenario, seeds, repetitions).items()}
            rows.append({"scenario": scenario.name, "meanings": list(scenario.meanings), "seeds": seeds, **found})
            print(scenario.name, seeds, *found.values(), flush=True)
    lines = ",\n ".join(json.dumps(row) for row in rows)
    TABLE.write_text(f"[{lines}]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:] or ["2000"])[0])))
