"""Reads a sweep's folder into records. All other modules work on these records."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports import history, ladder
from reports.blocks import Blocks
from reports.cells import read_cell
from reports.files import BrokenSweepError, read_json
from reports.metrics import Metric, Schema
from reports.records import Arm, At, Contrast, Matched, Sweep
from reports.text import names, one_line

__all__ = ["BrokenSweepError", "read"]

#: Layout of ``sweep.json`` that this package reads.
SWEEP_SCHEMA = 2


def read(folder: Path) -> Sweep:
    """Read the sweep in ``folder``.

    Raises:
        BrokenSweepError: ``sweep.json`` is missing, not JSON, of another schema or lacks a key, or a file beside it is
            malformed.
    """
    path = folder / "sweep.json"
    plan = read_json(path)
    if not isinstance(plan, dict) or plan.get("schema") != SWEEP_SCHEMA:
        raise BrokenSweepError(f"{path}: expected an object with schema {SWEEP_SCHEMA}{_way_out(plan)}")
    try:
        return _sweep(folder, plan)
    except BrokenSweepError:
        raise  # of another file, which it names
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenSweepError(f"{path}: missing or malformed entry ({type(error).__name__}: {error})") from error


def _way_out(plan: object) -> str:
    """How a plan of a former layout is written anew."""
    if not isinstance(plan, dict) or not isinstance(plan.get("command"), list):
        return ""
    again = shlex.join([*(str(word) for word in plan["command"]), "action=report"])
    return f", got {plan.get('schema')!r}; the command that made it writes it anew, and its report: {again}"


def _sweep(folder: Path, plan: Mapping[str, Any]) -> Sweep:
    root, primary = folder / plan["root"], plan["primary"]["metric"]
    twice = [name for name, times in Counter(arm["name"] for arm in plan["arms"]).items() if times > 1]
    if twice:
        raise ValueError(f"arms: {twice[0]!r} is there twice, and its seeds would count twice")
    for arm in plan["arms"]:
        _check_cells(arm)
    # From here on arms have printable names.
    called = names([*(arm["name"] for arm in plan["arms"]), *(entry["arm"] for entry in plan["refused"])])
    baseline = called.get(plan["baseline"])
    blocks = Blocks.read(plan.get("blocks"), plan["seeds"])
    schema, unnamed = _schema(root, plan["arms"])
    scored = schema.metric(primary)
    arms = [
        replace(_arm(root, arm, called, scored, unnamed), blocks=blocks)
        for arm in plan["arms"]
        if arm["cells"] or arm["name"] == plan["baseline"]  # a refused arm has no cells and is listed as refused
    ]
    if baseline not in {arm.name for arm in arms}:
        raise KeyError(f"baseline {plan['baseline']!r} is not an arm")
    arms.sort(key=lambda arm: (arm.name != baseline, not arm.untouched))
    at = _at(plan.get("at"), called)
    kept = tuple(_exclude_other_eval_sets(arms))
    return Sweep(
        name=folder.resolve().name,
        grid=plan["grid"],
        question=plan["question"],
        recipe=plan["recipe"],
        baseline=baseline,
        primary=primary,
        higher_is_better=_higher_is_better(plan["primary"]["direction"]),
        secondary=tuple(plan["secondary"]),
        planned=tuple(_contrast(entry, called) for entry in plan["comparisons"]),
        alpha=float(plan["alpha"]),
        correction=plan["correction"],
        command=tuple(plan["command"]),
        seeds=tuple(plan["seeds"]),
        test=str(plan["test"]),
        margin=None if plan["margin"] is None else float(plan["margin"]),
        design=str(plan["design"]),
        looks=tuple(plan["looks"]),
        content=history.content_of(plan),
        revisions=history.revisions(folder),
        looked_at=history.looks(folder),
        left_out=history.left_out(folder, root, {cell.identity for arm in arms for cell in arm.cells}),
        matched=_matched(plan.get("matched"), called),
        blocks=blocks,
        candidates={one_line(arm): tuple(called[name] for name in found) for arm, found in plan["candidates"].items()},
        tuning_id=str(plan["tuning"] or ""),
        tuning=_beside(folder, str(plan["tuning"] or "")),
        arms=kept,
        at=at,
        derived=() if at is None else ladder.derived(kept, at, primary, plan["seeds"]),
        refused=tuple((called[name], reason) for name, reason in _refused(plan)),
        created=plan["created"],
        git_sha=plan.get("git_sha") or "",
        schema=schema,
    )


def _arm(
    root: Path, arm: Mapping[str, Any], called: Mapping[Any, str], scored: Metric, unnamed: Mapping[str, str]
) -> Arm:
    name = called[arm["name"]]
    return Arm(
        name=name,
        overrides=tuple(arm["overrides"]),
        untouched=bool(arm["untouched"]),
        factors={one_line(key): one_line(level) for key, level in arm["factors"].items()},
        against=called.get(arm["against"]),
        repeats=called.get(arm.get("repeats")),
        cells=tuple(
            read_cell(root, name, int(seed), str(identity), scored, unnamed) for seed, identity in _by_seed(arm)
        ),
    )


def _refused(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(arm, reason) of arms that the plan has no cell for."""
    given = [(entry["arm"], str(entry["reason"])) for entry in plan["refused"]]
    yield from given
    for arm in plan["arms"]:
        if not arm["cells"] and arm["name"] not in dict(given):
            yield arm["name"], "the plan has no cell for it"


def _beside(folder: Path, name: str) -> Sweep | None:
    """The sweep called ``name`` in the same place, if it is there and can be read."""
    if not name or not (folder.parent / name / "sweep.json").is_file():
        return None
    try:
        return read(folder.parent / name)
    except BrokenSweepError:
        return None


def _contrast(entry: Mapping[str, Any], called: Mapping[str, str]) -> Contrast:
    # A ladder is none of the arms.
    couples = tuple((called.get(one, one_line(one)), called.get(two, one_line(two))) for one, two in entry["couples"])
    arm, other = (called.get(entry[key], one_line(entry[key])) for key in ("arm", "other"))
    return Contrast(arm, other, couples)


def _matched(entry: Mapping[str, Any] | None, called: Mapping[str, str]) -> Matched | None:
    if entry is None:
        return None
    return Matched(one_line(entry["measure"]), tuple(_contrast(one, called) for one in entry["comparisons"]))


def _at(entry: Mapping[str, Any] | None, called: Mapping[str, str]) -> At | None:
    if entry is None:
        return None
    rungs = {one_line(name): tuple(called[rung] for rung in found) for name, found in entry["ladders"].items()}
    return At(one_line(entry["measure"]), float(entry["level"]), rungs)


def _by_seed(arm: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(seed, cell) of an arm of the plan."""
    return sorted(arm["cells"].items(), key=lambda item: int(item[0]))


def _schema(root: Path, arms: Sequence[Mapping[str, Any]]) -> tuple[Schema, dict[str, str]]:
    """The descriptions of measures that the finished cells give, and cell -> why one gives none."""
    parsed: dict[str, list[Metric]] = {}  # most cells have equal files
    found, unnamed = [], {}
    for identity in (str(identity) for arm in arms for _, identity in _by_seed(arm)):
        path = root / identity / "metrics_schema.json"
        if not (root / identity / "DONE").exists():
            continue
        try:
            content = path.read_text(encoding="utf-8-sig")
            if content not in parsed:
                parsed[content] = _entries(path)
            found.append(parsed[content])
        except FileNotFoundError:
            unnamed[identity] = (
                "there is no metrics_schema.json: measures that no other cell describes are shown by their names, and"
                " have no column; rerun=all makes it"
            )
        except (OSError, ValueError) as error:
            unnamed[identity] = f"metrics_schema.json describes no measure ({error})"
    return Schema.union(found), unnamed


def _entries(path: Path) -> list[Metric]:
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("expected a list of objects")
    return [Metric.of(entry) for entry in entries]


def _check_cells(arm: Mapping[str, Any]) -> None:
    """Refuse an arm in which a run would count twice."""
    seeds = Counter(int(seed) for seed in arm["cells"])
    for seed, times in seeds.items():
        if times > 1:
            raise ValueError(f"arms: {arm['name']!r} has seed {seed} twice")
    for identity, times in Counter(arm["cells"].values()).items():
        if times > 1:
            raise ValueError(f"arms: {arm['name']!r} has the cell {identity!r} for several seeds")


def _higher_is_better(direction: str) -> bool:
    if not direction.startswith(("max", "min")):
        raise ValueError(f"primary.direction: expected max or min, got {direction!r}")
    return direction.startswith("max")


def _exclude_other_eval_sets(arms: list[Arm]) -> Iterator[Arm]:
    """Mark cells as excluded that were evaluated on another set than most: their scores cannot be compared."""
    hashes = Counter(cell.eval_set_hash for arm in arms for cell in arm.done)
    usual = hashes.most_common(1)[0][0] if hashes else ""
    for arm in arms:
        cells = (
            replace(c, state="excluded") if c.state == "done" and c.eval_set_hash != usual else c for c in arm.cells
        )
        yield replace(arm, cells=tuple(cells))
