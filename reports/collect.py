"""Read a sweep's folder into typed, frozen records; everything after this module is a function of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reports.metrics import row_field
from reports.text import names

Floats = NDArray[np.float64]
State = Literal["done", "failed", "broken", "excluded", "missing"]

#: Layout of ``sweep.json`` that this package reads.
SWEEP_SCHEMA = 1


class BrokenSweepError(ValueError):
    """A sweep that cannot be read: the message names the file and what is wrong with it."""


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


@dataclass(frozen=True, eq=False)
class Picture:
    """A PNG file, read when it is looked at: a report shows few of all that there are.  Equal bytes are one picture."""

    path: Path

    @cached_property
    def png(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()

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
    samples: tuple[Sample, ...] = ()
    eval_set_hash: str = ""
    guidance_scale: float | None = None
    failure: Failure | None = None


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
    def eval_set_hash(self) -> str:
        """The hash of the evaluation set that all counted cells share; empty if there is none."""
        return next((cell.eval_set_hash for cell in self.cells if cell.state == "done"), "")


def read(folder: Path) -> Sweep:
    """Read the sweep in ``folder``.

    Raises:
        BrokenSweepError: ``sweep.json`` is missing, not JSON, of another schema or lacks a key.
    """
    path = folder / "sweep.json"
    plan = _json(path)
    if not isinstance(plan, dict) or plan.get("schema") != SWEEP_SCHEMA:
        raise BrokenSweepError(f"{path}: expected an object with schema {SWEEP_SCHEMA}")
    try:
        return _sweep(folder, plan)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenSweepError(f"{path}: missing or malformed entry ({type(error).__name__}: {error})") from error


def _sweep(folder: Path, plan: Mapping[str, Any]) -> Sweep:
    root, primary = folder / plan["root"], plan["primary"]["metric"]
    twice = [name for name, times in Counter(arm["name"] for arm in plan["arms"]).items() if times > 1]
    if twice:
        raise ValueError(f"arms: {twice[0]!r} is there twice, and its seeds would count twice")
    # From here on, arms are called as they can be read.
    called = names([*(arm["name"] for arm in plan["arms"]), *(entry["arm"] for entry in plan["refused"])])
    baseline = called.get(plan["baseline"])
    arms = [
        Arm(
            name=called[arm["name"]],
            overrides=tuple(arm["overrides"]),
            untouched=bool(arm["untouched"]),
            cells=tuple(
                _cell(root, called[arm["name"]], int(seed), str(identity), row_field(primary))
                for seed, identity in sorted(arm["cells"].items(), key=lambda item: int(item[0]))
            ),
        )
        for arm in plan["arms"]
        if arm["cells"] or arm["name"] == plan["baseline"]  # a refused arm has no cells and is listed as refused
    ]
    if baseline not in {arm.name for arm in arms}:
        raise KeyError(f"baseline {plan['baseline']!r} is not an arm")
    arms.sort(key=lambda arm: (arm.name != baseline, not arm.untouched))
    return Sweep(
        name=folder.resolve().name,
        grid=plan["grid"],
        question=plan["question"],
        recipe=plan["recipe"],
        baseline=baseline,
        primary=primary,
        higher_is_better=_higher_is_better(plan["primary"]["direction"]),
        secondary=tuple(plan["secondary"]),
        planned=tuple(called[name] for name in plan["comparisons"]),
        alpha=float(plan["alpha"]),
        correction=plan["correction"],
        command=tuple(plan["command"]),
        seeds=tuple(plan["seeds"]),
        arms=tuple(_without_strangers(arms)),
        refused=tuple((called[entry["arm"]], entry["reason"]) for entry in plan["refused"]),
        created=plan["created"],
        git_sha=plan.get("git_sha") or "",
    )


def _higher_is_better(direction: str) -> bool:
    if not direction.startswith(("max", "min")):
        raise ValueError(f"primary.direction: expected max or min, got {direction!r}")
    return direction.startswith("max")


def _without_strangers(arms: list[Arm]) -> Iterator[Arm]:
    """Exclude cells evaluated on another set than most: their scores cannot be paired with the others'."""
    hashes = Counter(cell.eval_set_hash for arm in arms for cell in arm.done)
    usual = hashes.most_common(1)[0][0] if hashes else ""
    for arm in arms:
        cells = (
            replace(c, state="excluded") if c.state == "done" and c.eval_set_hash != usual else c for c in arm.cells
        )
        yield replace(arm, cells=tuple(cells))


def _cell(root: Path, arm: str, seed: int, identity: str, scored: str) -> Cell:
    folder = root / identity
    if (folder / "DONE").exists():
        try:
            return _finished(folder, arm, seed, identity, scored)
        except (BrokenSweepError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            # Kept as a record: one damaged cell must not cost the report of all others.
            message = str(error) if isinstance(error, BrokenSweepError) else f"{type(error).__name__}: {error}"
            return Cell(arm, seed, identity, "broken", failure=Failure("broken files", message, None, ""))
    if (folder / "failure.json").exists():
        try:
            record = _json(folder / "failure.json")
            failure = Failure(record["cause"], record["message"], record.get("step"), record.get("traceback") or "")
        except (BrokenSweepError, KeyError, TypeError, AttributeError) as error:
            failure = Failure("unknown", f"failure.json is unreadable ({error})", None, "")
        return Cell(arm, seed, identity, "failed", failure=failure)
    return Cell(arm, seed, identity, "missing")


def _finished(folder: Path, arm: str, seed: int, identity: str, scored: str) -> Cell:
    evaluation, result = _json(folder / "evaluation.json"), _json(folder / "result.json")
    return Cell(
        arm=arm,
        seed=seed,
        identity=identity,
        state="done",
        config=_json(folder / "config.json"),
        environment=_optional(folder / "env.json"),
        metrics=_numbers(evaluation["metrics"] | result["metrics"] | result["cost"] | _optional(folder / "cost.json")),
        updates=int(result["updates"]),
        history=_history(folder / "metrics.jsonl"),
        prompts=_prompt_scores(folder / "per_prompt.jsonl", scored),
        samples=tuple(_samples(folder / "samples")),
        eval_set_hash=str(evaluation["eval_set_hash"]),
        guidance_scale=evaluation.get("guidance_scale"),
    )


def _history(path: Path) -> dict[str, Series]:
    rows: dict[str, dict[int, float]] = {}
    for row in _rows(path):
        step = int(row.pop("step"))
        for name, value in _numbers(row).items():
            # After a resume a step may come twice: the later row is the one that the run went on from.
            rows.setdefault(name, {})[step] = value
    series = {}
    for name, points in rows.items():
        steps = sorted(points)
        series[name] = Series(np.array(steps, dtype=np.float64), np.array([points[s] for s in steps], dtype=np.float64))
    return series


def _prompt_scores(path: Path, scored: str) -> dict[str, PromptScore]:
    """Prompt -> score by the rows' field ``scored``; rows without it have nothing to say about the primary metric.

    A metric is the unweighted mean of its tags' means over rows. A prompt counts under the tag of its first row, but
    its rows, which are of several tags where edits are chained, keep the weight that they have in the metric.
    """
    rows = [row for row in _rows(path) if scored in row]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["prompt"]), []).append(row)
    rows_of = Counter(row["tag"] for row in rows)
    prompts_of = Counter(group[0]["tag"] for group in groups.values())
    found = {}
    for key, group in groups.items():
        tag, total = group[0]["tag"], sum(float(row[scored]) / rows_of[row["tag"]] for row in group)
        found[key] = PromptScore(str(tag), total * prompts_of[tag] * len(prompts_of) / len(rows_of))
    return found


def _samples(folder: Path) -> Iterator[Sample]:
    index = folder / "index.json"
    for number, entry in enumerate(_json(index) if index.exists() else ()):
        yield Sample(
            # Cells of one evaluation set list the same prompts in the same order; the words alone may come twice.
            key=f"{number} {entry['prompt']}",
            prompt=entry["prompt"],
            tag=entry["tag"],
            scores={name: float(score) for name, score in entry["scores"].items()},
            reason=entry.get("reason") or "",
            strip=tuple(_piece(folder, piece) for piece in entry["strip"]),
        )


def _piece(folder: Path, entry: Mapping[str, Any]) -> Piece:
    place = int(entry["turn"]), bool(entry["given"])
    if "picture" in entry:
        path = folder / Path(entry["picture"]).name
        if not path.is_file():
            raise BrokenSweepError(f"{path}: no such file")
        return Piece(*place, picture=Picture(path))
    return Piece(*place, text=entry["text"])


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return  # the torn last line of a run that was killed while writing
            raise BrokenSweepError(f"{path}, line {number}: not JSON ({error})") from error


def _optional(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = _json(path) if path.exists() else {}
    return content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenSweepError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BrokenSweepError(f"{path}: cannot be read as JSON ({error})") from error
