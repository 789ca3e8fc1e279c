"""Reads a cell's folder into a record."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reports.export import by_prompt
from reports.files import BrokenSweepError, not_numbers, numbers, read_json, read_object, read_rows
from reports.metrics import Metric
from reports.runs import Cell, EvaluationSize, Failure, Picture, PromptScore, Sample, Segment, Series


def read_cell(root: Path, arm: str, seed: int, identity: str, scored: Metric, unnamed: Mapping[str, str]) -> Cell:
    """The cell in ``root/identity``; one that is damaged is a record of its own, and stops nothing.

    Args:
        root: folder of the cells.
        arm: its name, printable.
        seed: of the plan.
        identity: the cell's own folder.
        scored: the primary measure, whose rows by prompt are read.
        unnamed: identity -> why a cell's measures have no description.
    """
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
    plain, guided = folder / "per_prompt.jsonl", folder / "per_prompt_guided.jsonl"
    decides, beside = (guided, plain) if any(field == "guidance" for field, _ in scored.rows) else (plain, guided)
    whole, prompt_faults = _prompt_rows(decides)
    found = {decides: whole, beside: _rows_beside(beside)}
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
        by_prompt=(*by_prompt(found[plain]), *by_prompt(found[guided])),
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
