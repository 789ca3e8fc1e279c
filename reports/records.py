"""What a sweep left behind, as typed, frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reports.metrics import Schema

Floats = NDArray[np.float64]
State = Literal["done", "failed", "broken", "excluded", "missing"]

#: What cells are called whose environment does not tell the kind of machine that they ran on.
UNKNOWN = "unknown kind"


@dataclass(frozen=True)
class Series:
    """One logged quantity of one run: ``steps`` [n] ascending and unique, ``values`` [n]."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class PromptScore:
    """What one test prompt scored on the primary metric: the mean of its rows if they are of one tag."""

    tag: str
    score: float


@dataclass(frozen=True)
class EvaluationSize:
    """How much a cell was evaluated on, by its rows in ``per_prompt.jsonl``."""

    prompts: int = 0
    images: tuple[int, ...] = ()
    """The different numbers of images that a prompt has, ascending: one number where all prompts have as many."""
    by_tag: Mapping[str, int] = field(default_factory=dict)
    """Tag -> number of prompts with a row of that tag; a chain of edits may be of several."""

    @property
    def in_words(self) -> str:
        """Such as ``2 prompts, 4 images each``; empty where nothing is known."""
        if not self.prompts:
            return ""
        images = " to ".join(str(count) for count in dict.fromkeys((self.images[0], self.images[-1])))
        counted = f"{images} image{'s' if images != '1' else ''}"
        return f"1 prompt, {counted}" if self.prompts == 1 else f"{self.prompts} prompts, {counted} each"

    @property
    def tags_in_words(self) -> str:
        """Such as ``animal 1, thing 1``; empty where there is one tag or none."""
        return ", ".join(f"{tag} {count}" for tag, count in self.by_tag.items()) if len(self.by_tag) > 1 else ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A PNG file, read when it is looked at: a report shows few of all that there are.  Equal bytes are one picture."""

    path: Path

    @cached_property
    def png(self) -> bytes:
        """The bytes of the file; none if it cannot be read, which is said where it would stand."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.png == other.png

    def __hash__(self) -> int:
        return hash(self.png)


@dataclass(frozen=True)
class Piece:
    """One segment of an episode: words or a picture."""

    turn: int
    given: bool
    """Part of the task, not made by the policy."""
    text: str = ""
    picture: Picture | None = None
    """None for words."""


@dataclass(frozen=True)
class Sample:
    """One fixed episode of a finished run."""

    key: str
    prompt: str
    tag: str
    scores: Mapping[str, float]
    reason: str
    strip: tuple[Piece, ...]


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result."""

    cause: str
    message: str
    step: int | None
    traceback: str


@dataclass(frozen=True)
class Cell:
    """One training run; the fields with defaults are empty where it is not done."""

    arm: str
    seed: int
    identity: str
    state: State
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final metrics, costs included under ``cost/``."""
    updates: int = 0
    history: Mapping[str, Series] = field(default_factory=dict)
    prompts: Mapping[str, PromptScore] = field(default_factory=dict)
    evaluated: EvaluationSize = EvaluationSize()
    samples: tuple[Sample, ...] = ()
    eval_set_hash: str = ""
    guidance_scale: float | None = None
    failure: Failure | None = None
    faults: tuple[str, ...] = ()
    """What a finished cell's files lack, or hold that cannot be used."""

    @property
    def kind(self) -> str:
        """The kind of machine that it ran on: the same bytes come only of the same kind."""
        return str(self.environment.get("kind") or UNKNOWN)


@dataclass(frozen=True)
class Arm:
    """The cells that differ only in their seed."""

    name: str
    overrides: tuple[str, ...]
    untouched: bool
    cells: tuple[Cell, ...]

    @cached_property
    def done(self) -> tuple[Cell, ...]:
        """Cells that count, by seed."""
        return tuple(cell for cell in self.cells if cell.state == "done")

    @property
    def trained(self) -> bool:
        """Whether it made updates; else it is a model as it came, which one cell tells all about."""
        return not self.untouched and all(cell.updates for cell in self.done)

    @property
    def unstable(self) -> bool:
        """Whether more than one seed failed: such an arm is not averaged over its survivors."""
        return sum(cell.state == "failed" for cell in self.cells) > 1

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of its first finished cell; empty if none."""
        return self.done[0].config if self.done else {}

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> final value, of the cells that have it."""
        return {cell.seed: cell.metrics[metric] for cell in self.done if metric in cell.metrics}

    def curves(self, metric: str) -> dict[int, Series]:
        """Seed -> logged series, of the cells that have it."""
        return {cell.seed: cell.history[metric] for cell in self.done if metric in cell.history}


@dataclass(frozen=True)
class Sweep:
    """Everything the report is made from."""

    name: str
    grid: str
    question: str
    recipe: str
    baseline: str
    primary: str
    higher_is_better: bool
    secondary: tuple[str, ...]
    planned: tuple[str, ...]
    """Arms whose comparison with the baseline was declared before the runs; the others are exploratory."""
    alpha: float
    correction: str
    command: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    """Baseline first, the untouched model second, then as declared."""
    refused: tuple[tuple[str, str], ...]
    created: str
    git_sha: str
    schema: Schema
    """What the measures are called, as the cells say."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, arm by arm."""
        return tuple(cell for arm in self.arms for cell in arm.cells)

    @property
    def trained(self) -> tuple[Arm, ...]:
        """The arms that train."""
        return tuple(arm for arm in self.arms if arm.trained)

    @property
    def untouched(self) -> Arm | None:
        """The model before training."""
        return next((arm for arm in self.arms if arm.untouched), None)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def kinds(self) -> dict[str, list[Cell]]:
        """Kind of machine -> the finished cells that ran on it."""
        done = [cell for cell in self.cells if cell.state == "done"]
        return {kind: [cell for cell in done if cell.kind == kind] for kind in sorted({cell.kind for cell in done})}

    @property
    def evaluated(self) -> EvaluationSize:
        """How much the counted cells were evaluated on: what most of them have, as their evaluation set is the same."""
        sizes = [cell.evaluated for cell in self.cells if cell.state == "done" and cell.evaluated.prompts]
        return max(sizes, key=sizes.count, default=EvaluationSize())

    @property
    def eval_set_hash(self) -> str:
        """The hash of the evaluation set that all counted cells share; empty if there is none."""
        return next((cell.eval_set_hash for cell in self.cells if cell.state == "done"), "")
