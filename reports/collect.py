"""Reads a sweep's folder into records. All other modules work on these records."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reports import history, ladder
from reports.blocks import Blocks
from reports.export import by_prompt
from reports.files import BrokenSweepError, not_numbers, numbers, read_json, read_object, read_rows
from reports.metrics import Metric, Schema
from reports.records import (
    Arm,
    At,
    Cell,
    Contrast,
    EvaluationSize,
    Failure,
    Matched,
    Picture,
    PromptScore,
    Sample,
    Segment,
    Series,
    Sweep,
)
from reports.text import names, one_line

__all__ = [
    "Arm",
    "BrokenSweepError",
    "Cell",
    "Failure",
    "Picture",
    "PromptScore",
    "Sample",
    "Segment",
    "Series",
    "Sweep",
    "read",
]

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
    refused = [(entry["arm"], str(entry["reason"])) for entry in plan["refused"]]
    unplanned = [arm["name"] for arm in plan["arms"] if not arm["cells"] and arm["name"] not in dict(refused)]
    refused += [(name, "the plan has no cell for it") for name in unplanned]
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
        refused=tuple((called[name], reason) for name, reason in refused),
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
        cells=tuple(_cell(root, name, int(seed), str(identity), scored, unnamed) for seed, identity in _by_seed(arm)),
    )


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


def _cell(root: Path, arm: str, seed: int, identity: str, scored: Metric, unnamed: Mapping[str, str]) -> Cell:
    folder = root / identity
    if (folder / "DONE").exists():
        try:
            cell = _finished(folder, arm, seed, identity, scored)
            return replace(cell, faults=(unnamed[identity], *cell.faults)) if identity in unnamed else cell
        except (BrokenSweepError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            # One damaged cell must not stop the report, so it becomes a record of its own.
            message = str(error) if isinstance(error, BrokenSweepError) else f"{type(error).__name__}: {error}"
            return Cell(arm, seed, identity, "broken", failure=Failure("broken files", message, None, ""))
    if (folder / "failure.json").exists():
        try:
            record = read_json(folder / "failure.json")
            words = (str(record["cause"]), str(record["message"]), str(record.get("traceback") or ""))
            failure = Failure(*words[:2], record.get("step"), words[2])
        except (BrokenSweepError, KeyError, TypeError, AttributeError) as error:
            failure = Failure("unknown", f"failure.json is unreadable ({error})", None, "")
        return Cell(arm, seed, identity, "failed", failure=failure)
    return Cell(arm, seed, identity, "missing")


def _finished(folder: Path, arm: str, seed: int, identity: str, scored: Metric) -> Cell:
    evaluation, result = read_json(folder / "evaluation.json"), read_json(folder / "result.json")
    config = read_json(folder / "config.json")
    _vouch(folder, config, seed)
    costs = result["cost"] | read_object(folder / "cost.json")
    history, history_faults = _history(folder / "metrics.jsonl", int(result["updates"]))
    guided = any(field == "guidance" for field, _ in scored.rows)
    files = [folder / "per_prompt.jsonl", folder / "per_prompt_guided.jsonl"]
    whole, prompt_faults = _prompt_rows(files.pop(guided))
    others = _rows_beside(files[0])
    rows = [row for row in whole if scored.is_over(row)]
    prompts, score_faults = _prompt_scores(rows, scored.row_field)
    return Cell(
        arm=arm,
        seed=seed,
        identity=identity,
        state="done",
        config=config,
        environment=read_object(folder / "env.json"),
        metrics=numbers(evaluation["metrics"] | result["metrics"] | costs),
        updates=int(result["updates"]),
        history=history,
        prompts=prompts,
        evaluated=_size(rows),
        samples=tuple(_samples(folder / "samples")),
        eval_set_hash=str(evaluation["eval_set_hash"]),
        guidance_scale=evaluation.get("guidance_scale"),
        by_prompt=(*by_prompt(whole if not guided else others), *by_prompt(others if not guided else whole)),
        faults=(
            *_metric_faults(evaluation["metrics"], result["metrics"], costs),
            *history_faults,
            *prompt_faults,
            *score_faults,
        ),
    )


def _vouch(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    """Refuse a result that changed after ``DONE`` was written, or whose seed is not the planned one."""
    vouched = (folder / "DONE").read_text(encoding="utf-8").strip()
    if vouched and vouched != hashlib.sha256((folder / "result.json").read_bytes()).hexdigest():
        raise BrokenSweepError(f"{folder / 'result.json'}: changed since DONE was written for it")
    if config.get("seed", seed) != seed:
        raise BrokenSweepError(f"{folder / 'config.json'}: expected seed {seed}, got {config['seed']!r}")


def _metric_faults(evaluated: Mapping[str, Any], final: Mapping[str, Any], costs: Mapping[str, Any]) -> Iterator[str]:
    yield from not_numbers({**evaluated, **final, **costs})
    shared = evaluated.keys() & final.keys()
    differing = sorted(name for name in shared if repr(evaluated[name]) != repr(final[name]))
    if differing:
        yield f"evaluation.json and result.json differ in {', '.join(differing)}; result.json counts"
    if "cost/cpu_s" not in costs:
        yield "cost.json has no cost/cpu_s: it has no part in hours and mean costs"


def _history(path: Path, updates: int) -> tuple[dict[str, Series], list[str]]:
    """Name -> logged series, and what is wrong with the file."""
    found, cut = read_rows(path)
    faults = ["metrics.jsonl: the last line is cut off"] if cut else []
    if not found and updates:
        faults.append("metrics.jsonl holds no update: nothing of its training is drawn")
    rows: dict[str, dict[int, float]] = {}
    changed = 0
    for row in found:
        step = int(row.pop("step"))
        for name, value in numbers(row).items():
            # After a resume a step may be there twice: the run continued from the later row.
            points = rows.setdefault(name, {})
            changed += points.get(step, value) != value
            points[step] = value
    if changed:
        faults.append(f"metrics.jsonl has {changed} values twice for a step; the later ones count")
    series = {}
    for name, points in rows.items():
        steps = sorted(points)
        series[name] = Series(np.array(steps, dtype=np.float64), np.array([points[s] for s in steps], dtype=np.float64))
    return series, faults


def _prompt_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a file of rows by prompt, and what is wrong with it."""
    rows, cut = read_rows(path)
    faults = [f"{path.name}: the last line is cut off"] if cut else []
    if not rows:
        faults.append(f"{path.name} holds no row: it has no part in intervals over prompts")
    return rows, faults


def _rows_beside(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that has no part in the primary measure; a damaged one is passed over."""
    try:
        return read_rows(path)[0]
    except BrokenSweepError:
        return []


def _size(rows: Sequence[Mapping[str, Any]]) -> EvaluationSize:
    images: dict[str, set[Any]] = {}
    asked: dict[tuple[str, str, str], None] = {}  # many rows are images of one prompt
    for row in rows:
        if "prompt" in row:
            key = str(row["prompt"])
            images.setdefault(key, set()).add(row.get("image", 0))
            asked[str(row.get("tag", "")), key, _meaning(row)] = None
    prompts: dict[str, set[str]] = {}
    for tag, key, _ in asked:
        prompts.setdefault(tag, set()).add(key)
    meanings = {(tag, meaning) for tag, _, meaning in asked}
    by_tag = {tag: len(keys) for tag, keys in prompts.items()}
    counts = tuple(sorted({len(found) for found in images.values()}))
    return EvaluationSize(len(images), counts, by_tag, len(meanings))


def _meaning(row: Mapping[str, Any]) -> str:
    """What its prompt shares with its paraphrases; former versions did not tell, so that each is of its own."""
    return str(row.get("meaning") or row["prompt"])


def _prompt_scores(whole: Sequence[Mapping[str, Any]], scored: str) -> tuple[dict[str, PromptScore], list[str]]:
    """Prompt -> score, and what is wrong with the rows.

    Scores are read from the field ``scored``; rows without it are skipped, and all are if ``scored`` is empty.
    A metric is the unweighted mean over tags of the means over a tag's rows. In a chain of edits the rows of one prompt
    have several tags. Such a prompt is listed under the tag of its first row, and each of its rows keeps the weight
    that it has in the metric.
    """
    rows, faults = [row for row in whole if scored in row], []
    odd = sum(not math.isfinite(float(row[scored])) for row in rows)
    if odd:
        faults.append(
            f"per_prompt.jsonl: {scored} is no number in {odd} of {len(rows)} rows: intervals over prompts are left out"
        )
        rows = []
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["prompt"]), []).append(row)
    rows_of = Counter(row["tag"] for row in rows)
    prompts_of = Counter(group[0]["tag"] for group in groups.values())
    found = {}
    for key, group in groups.items():
        tag, total = group[0]["tag"], sum(float(row[scored]) / rows_of[row["tag"]] for row in group)
        scale = prompts_of[tag] * len(prompts_of) / len(rows_of)
        by_image: dict[Any, float] = {}
        for row in group:
            part = float(row[scored]) / rows_of[row["tag"]]
            by_image[row.get("image", 0)] = by_image.get(row.get("image", 0), 0.0) + part
        images = tuple(by_image[image] * scale * len(by_image) for image in sorted(by_image))
        found[key] = PromptScore(str(tag), total * scale, _meaning(group[0]), images)
    return found, faults


def _samples(folder: Path) -> Iterator[Sample]:
    index = folder / "index.json"
    for number, entry in enumerate(read_json(index) if index.exists() else ()):
        yield Sample(
            # All cells of an evaluation set list its prompts in one order; two prompts may have the same text.
            key=f"{number} {entry['prompt']}",
            prompt=entry["prompt"],
            tag=entry["tag"],
            scores={name: float(score) for name, score in entry["scores"].items()},
            reason=entry.get("reason") or "",
            segments=tuple(_segment(folder, part) for part in entry["strip"]),
        )


def _segment(folder: Path, entry: Mapping[str, Any]) -> Segment:
    place = int(entry["turn"]), bool(entry["given"])
    if "picture" in entry:
        path = folder / Path(entry["picture"]).name
        if not path.is_file():
            raise BrokenSweepError(f"{path}: no such file")
        return Segment(*place, picture=Picture(path))
    return Segment(*place, text=entry["text"])
