"""The models that seeds start from in turn, and what a planned difference is from each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.metrics import number
from reports.text import one_line

if TYPE_CHECKING:
    from reports.findings import Family, Pair


@dataclass(frozen=True)
class Blocks:
    """A field of the model that has another value from seed to seed, the same in every arm.

    Attributes:
        key: dotted, as ``model.checkpoint``.
        of: seed -> the value, for all seeds of the plan and of its cells.
        seeds: of the plan.
    """

    key: str
    of: Mapping[int, str]
    seeds: tuple[int, ...]

    @classmethod
    def read(cls, entry: Mapping[str, Any] | None, seeds: Sequence[int]) -> Blocks | None:
        """What ``sweep.json`` says of them; None of a sweep without.

        Raises:
            ValueError: a seed has no value.
        """
        if entry is None:
            return None
        texts = {int(seed): one_line(v if isinstance(v, str) else json.dumps(v)) for seed, v in entry["of"].items()}
        if missing := [seed for seed in seeds if seed not in texts]:
            raise ValueError(f"blocks.of: expected a value of {entry['key']} for seed {missing[0]}")
        return cls(str(entry["key"]), texts, tuple(seeds))

    @property
    def values(self) -> list[str]:
        """The values that seeds of the plan have, in the order of the first seed of each."""
        return [*dict.fromkeys(self.of[seed] for seed in sorted(self.of) if self.of[seed] in self._used)]

    @property
    def _used(self) -> set[str]:
        return {self.of[seed] for seed in self.seeds}

    def alike(self, seed: int) -> list[int]:
        """Seeds of the plan that start from the same as ``seed``."""
        return [other for other in self.seeds if self.of[other] == self.of.get(seed)]

    def without(self, model: object) -> object:
        """The configuration of a model without what differs from block to block."""
        found = json.loads(json.dumps({"model": model}))
        *path, last = self.key.split(".")
        node = found
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
        return found["model"]

    @property
    def in_words(self) -> str:
        """Such as ``tiny-shapes (seeds 0, 3) and warm/one (seed 1)``."""
        parts = []
        for value in self.values:
            own = [str(seed) for seed in self.seeds if self.of[seed] == value]
            parts.append(f"{value} (seed{'s' * (len(own) > 1)} {', '.join(own)})")
        return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


@dataclass(frozen=True)
class Split:
    """One planned difference, by what its seeds started from.

    Attributes:
        name: of the comparison.
        arm: what is compared.
        other: what it is compared with.
        by: value of the block -> number of seeds and their mean difference; of the blocks that have a seed.
        between: standard deviation of the means of the blocks; None with one.
        expected: what it would be if blocks did not matter, by the spread of seeds within them; None where no block
            has two seeds.
        decimals: to print.
    """

    name: str
    arm: str
    other: str
    by: Mapping[str, tuple[int, float]]
    between: float | None
    expected: float | None
    decimals: int | None


def splits(blocks: Blocks | None, families: Sequence[Family]) -> tuple[Split, ...]:
    """The planned differences of the primary measure by block; none without blocks."""
    if blocks is None:
        return ()
    return tuple(_split(blocks, pair) for family in families if family.key == "baseline" for pair in family.pairs)


def _split(blocks: Blocks, pair: Pair) -> Split:
    groups: dict[str, list[float]] = {value: [] for value in blocks.values}
    for seed, difference in zip(pair.seeds, pair.comparison.differences, strict=True):
        groups[blocks.of[seed]].append(difference)
    groups = {value: found for value, found in groups.items() if found}
    means = [float(np.mean(found)) for found in groups.values()]
    between = float(np.std(means, ddof=1)) if len(means) > 1 else None
    df = sum(len(found) - 1 for found in groups.values())
    expected = None
    if between is not None and df:
        within = sum(float(np.var(found)) * len(found) for found in groups.values()) / df
        expected = float(np.sqrt(within * np.mean([1 / len(found) for found in groups.values()])))
    by = {value: (len(found), mean) for (value, found), mean in zip(groups.items(), means, strict=True)}
    return Split(pair.name, pair.arm, pair.other, by, between, expected, pair.decimals)


@dataclass(frozen=True)
class SplitRow:
    """A planned difference by block, formatted."""

    name: str
    by: tuple[str, ...]
    between: str
    expected: str


def rows(blocks: Blocks | None, found: Sequence[Split]) -> Iterator[SplitRow]:
    """One row for each difference, with a column for each block."""
    if blocks is None:
        return
    for split in found:
        cells = [split.by.get(value) for value in blocks.values]
        yield SplitRow(
            split.name,
            tuple("–" if c is None else f"{number(c[1], split.decimals, signed=True)} (n = {c[0]})" for c in cells),
            number(split.between, split.decimals),
            number(split.expected, split.decimals),
        )
