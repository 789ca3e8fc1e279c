"""What a sweep was going to test, written down with its time before its cells run: ``declaration.json``.

The file holds every content that was declared, in order, each with its hash and the number of cells that had finished
by then.  Nothing in it is changed later.  So a report can tell a measure that was declared before the runs from one
that was chosen when the results were there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.arms import Arm, digest
from ablations.cells import CellFolder
from ablations.ladder import in_words
from ablations.plan import Plan
from ablations.provenance import now
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject, locked, read_rows, write_json
from unigrpo.plain import plain_form

#: Its file in the sweep's folder.
FILE = "declaration.json"
#: Layout of the file; ``reports`` reads this one.
LAYOUT = 1


def content_of(plan: Plan) -> JsonObject:
    """What is declared of a plan: all that decides which comparison is tested, how, and on what.

    Lists whose order means nothing are sorted, so that another order is no other content.
    """
    grid = plan.grid
    # Only where there are such, so that all other grids declare what they always did.
    matched = {} if grid.matched is None else {"matched": _matched(plan, grid.matched.measure)}
    at = {} if grid.at is None else {"at": in_words(grid.at, grid.primary["metric"], plan.ladders)}
    blocks = {} if plan.blocks is None else {"blocks": plan.blocks.words}
    return {
        "question": grid.question,
        "baseline": plan.baseline,
        "primary": dict(grid.primary),
        "comparisons": sorted(contrast.words for contrast in plan.comparisons),
        "margin": grid.margin,
        "alpha": grid.alpha,
        "correction": grid.correction,
        "test": grid.test,
        "design": grid.design,
        "looks": list(grid.looks),
        "seeds": plan.planned_seeds,
        "evaluation": _evaluation(plan),
        **matched,
        **at,
        **blocks,
    }


def hash_of(content: JsonObject) -> str:
    """The SHA-256 of ``content`` as canonical JSON (sorted keys, no spaces, no NaN), in hexadecimal digits."""
    return digest(content, 64)


def revisions(folder: Path) -> list[JsonObject]:
    """What was declared for the sweep in ``folder``, oldest first; empty if nothing was.

    Raises:
        ConfigError: the file holds something else, which no command leaves behind.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != LAYOUT or not all(isinstance(one["content"], dict) for one in found["revisions"]):
            raise ValueError(f"expected schema {LAYOUT} with a list of revisions")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); restore it, or move it away: then the sweep is"
            " declared anew, with the number of cells that have finished by now"
        ) from error
    return list(found["revisions"])


def declare(folder: Path, plan: Plan, cells: Mapping[str, CellFolder]) -> str:
    """Declare the plan of the sweep in ``folder``, unless it was declared last; returns a note if that comes late.

    Args:
        folder: of the sweep.
        plan: what is declared.
        cells: all that the sweep ever had, by the names that are written down of those that are done.

    Raises:
        ConfigError: the present file cannot be read.
        OSError: the folder cannot be written.
    """
    content = content_of(plan)
    with locked(folder / "declaration.lock"):  # of two commands at once, neither overwrites the other's
        known = revisions(folder)
        if known and known[-1]["content"] == content:
            return ""
        done = sorted(name for name, cell in cells.items() if cell.is_done())
        revision = {
            "time": now(),
            "hash": hash_of(content),
            "finished": len(done),
            "done": done,
            "cells": len(cells),
            "looked": _looked(folder),
            "content": content,
        }
        write_json(folder / FILE, {"schema": LAYOUT, "revisions": [*known, revision]})
    if not (known or done):
        return ""
    changed = [key for key in content if known and content[key] != known[-1]["content"].get(key)]
    what = f"the declaration is changed ({', '.join(changed)})" if known else "the sweep is declared"
    return f"{what} when {len(done)} of {len(cells)} cells have finished; the report says so"


def _looked(folder: Path) -> list[int]:
    """Numbers of complete seeds at the looks at results so far, as reports have noted them."""
    return sorted({row["seeds"] for row in read_rows(folder / "looks.jsonl") if isinstance(row.get("seeds"), int)})


def _matched(plan: Plan, measure: str) -> str:
    return f"{', '.join(sorted(contrast.words for contrast in plan.matched))} in {measure}"


def _evaluation(plan: Plan) -> JsonObject:
    """What the arms are evaluated on and by: a digest, and in words."""
    arms = [arm for arm in plan.arms if not arm.refused]
    parts = {json.dumps(_evaluated(arm), sort_keys=True) for arm in arms}
    words = dict.fromkeys(_in_words(arm) for arm in arms)
    return {"digest": hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16], "words": "; or ".join(words)}


def _evaluated(arm: Arm) -> dict[str, Any]:
    content = arm.identities[0]["content"].items()
    return {
        **{key: arm.identities[0][key] for key in ("evaluation", "dataset")},
        "metrics": [[plain_form(metric), metric.version] for metric in arm.config.measured],
        "content": {key: value for key, value in content if key.startswith(("prompts of", *_SOURCES))},
    }


#: The sources of a user's own that measure, not those that train.
_SOURCES = ("source of metric", "source of dataset")


def _in_words(arm: Arm) -> str:
    evaluation, config = arm.config.evaluation, arm.config
    metrics = ", ".join(metric.name for metric in config.measured)
    return (
        f"{evaluation.split} prompts of {config.dataset.name}, up to {evaluation.prompts_per_tag} of each tag,"
        f" {evaluation.images_per_prompt} images each, noise of seed {evaluation.seed}; measured by {metrics}"
    )
