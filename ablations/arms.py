"""Cells and arms: what a sweep is made of, and by what a cell is known."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ablations.contrasts import Factors
from ablations.grid import UNTOUCHED
from unigrpo.config import RunConfig
from unigrpo.identity import identity_of

#: Part of every cell's identity: raise it when equal configurations stop giving equal results.
SCHEMA = 5


def digest(value: Any, length: int) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of ``value`` as canonical JSON (sorted keys, no NaN)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Cell:
    """One run: an arm with one seed."""

    arm: str
    config: RunConfig
    shared: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    """The identity that the cells of an arm and block share but for the seed; made when needed if it is not given."""

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits of all that decides its result (:func:`~unigrpo.identity.identity_of`)."""
        whole = identity_of(self.config) if self.shared is None else {**self.shared, "seed": self.config.seed}
        return digest({"schema": SCHEMA, "identity": whole}, 12)

    @property
    def name(self) -> str:
        """``arm:seed``, what ``only=`` matches."""
        return f"{self.arm}:{self.config.seed}"


@dataclass(frozen=True)
class Arm:
    """One configuration, to be run with every seed."""

    name: str
    overrides: tuple[str, ...]
    configs: tuple[RunConfig, ...]
    """The configuration in each block of seeds, with seed 0; a single one where there are no blocks."""
    refused: tuple[str, ...] = ()
    """Why it cannot run; empty if it can."""
    factors: Factors = dataclasses.field(default_factory=dict)
    """Key of an axis -> its level there, such as ``weight=3``."""
    replicate: bool = False
    """Whether this is the baseline again, with other draws."""

    @property
    def stem(self) -> str:
        """Its name in the grid file."""
        return self.name.partition("@")[0]

    @property
    def untouched(self) -> bool:
        """Whether this is a model before training, which is there without being listed."""
        return self.stem == UNTOUCHED

    @property
    def trained(self) -> bool:
        """Whether it makes updates; else it is a model as it came, and no seed changes what is measured of it."""
        return self.config.optim.updates > 0

    @property
    def config(self) -> RunConfig:
        """The configuration of seed 0, which that of other blocks differs from in the model alone."""
        return self.configs[0]

    @cached_property
    def identities(self) -> tuple[dict[str, Any], ...]:
        """The identity of the configuration in each block."""
        return tuple(map(identity_of, self.configs))

    def seed_of(self, seed: int) -> int:
        """The seed of the cell that tells of ``seed``: of what is not trained, the first of the block."""
        return seed if self.trained else seed % len(self.configs)

    def cell(self, seed: int) -> Cell:
        """The cell with the given seed."""
        if seed not in self._cells:
            block = seed % len(self.configs)
            config = dataclasses.replace(self.configs[block], seed=seed)
            self._cells[seed] = Cell(self.name, config, self.identities[block])
        return self._cells[seed]

    @cached_property
    def _cells(self) -> dict[int, Cell]:
        # A cell takes a while to find out its identity.
        return {}
