"""Sweeps that are hard to show: one with everything on it, and ones with next to nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.reports.families import EDITING, EVIL, Random, Row
from tests.reports.synthetic import ARMS, write_sweep

LONG = "Pneumono" * 1250  # 10,000 characters without a place to break
HOSTILE = ("<script>alert('boo')</script>", "שלום \u202egnol \u2067 العربية", LONG)


def _samples(rng: Random, quality: float) -> list[Row]:
    found = EDITING.samples(rng, quality)
    long = EDITING.samples(rng, quality)[0] | {
        "prompt": f"{LONG} & {EVIL}",
        "reason": f"{HOSTILE[1]} {LONG}",
        "tag": HOSTILE[0],
    }
    return [*found, long]


def everything(root: Path) -> Path:
    """Axes, a repeated baseline, matched arms, edits in turns, hostile names and texts, an arm that always fails."""
    crossed = {f"{arm}@weight={level}": ARMS["none"] for arm in ("plain", HOSTILE[0]) for level in (1, 2)}
    arms = crossed | {HOSTILE[1]: ARMS["latent_kl"], LONG: ARMS["velocity_mse"], "again": ARMS["none"]}
    arms["dies"] = ARMS["none"]
    family = replace(EDITING, samples=_samples)
    failed = [("dies", 0), ("dies", 1)]
    folder = write_sweep(root, arms=arms, seeds=range(2), updates=3, family=family, failed=failed, grid="everything")
    plan: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    entries = {entry["name"]: entry for entry in plan["arms"]}
    entries["again"] |= {"repeats": plan["baseline"], "against": None}
    plan["comparisons"] = [one for one in plan["comparisons"] if one["arm"] != "again"]
    plan["matched"] = {"measure": "drift/velocity_mse", "comparisons": plan["comparisons"][:1], "words": "two"}
    plan["question"] += f" {LONG}"
    (folder / "sweep.json").write_text(json.dumps(plan))
    return folder


def nothing(root: Path) -> dict[str, Path]:
    """Name -> a sweep of which little is there."""
    names = [*ARMS]
    none = write_sweep(root / "none", seeds=[0, 1], missing=[(name, seed) for name in names for seed in (0, 1)])
    (root / "none" / "cells" / "untouched0" / "DONE").unlink()
    return {
        "no cell": none,
        "one seed": write_sweep(root / "one", seeds=[0], updates=2),
        "an arm lost": write_sweep(root / "lost", seeds=[0, 1], updates=2, failed=[(names[1], 0), (names[1], 1)]),
    }
