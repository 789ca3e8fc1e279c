"""A complete fake tree of runs with realistic numbers, for looking at reports and for testing them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reports import history
from tests.reports.families import PICTURES, Family

#: Arm -> (regularizer, final strict, final proxy, final drift).
ARMS: dict[str, tuple[dict[str, Any], float, float, float]] = {
    "none": ({"name": "none"}, 0.47, 0.88, 4e-2),
    "latent_kl": (
        {"name": "latent_kl", "weight": 0.02, "dt_in_denominator": True, "reduction": "mean"},
        0.55,
        0.74,
        1.1e-2,
    ),
    "velocity_mse": ({"name": "velocity_mse", "weight": 0.01, "reduction": "mean"}, 0.58, 0.77, 1.4e-2),
}
LADDER: dict[str, tuple[dict[str, Any], float, float, float]] = {
    "none": ARMS["none"],
    **{
        f"{name}-{weight:g}": (
            {"name": name, "weight": weight, "reduction": "mean"},
            0.46 + gain * (i + 1),
            0.84 - 0.05 * i,
            2e-2 / (i + 1),
        )
        for name, gain in (("latent_kl", 0.03), ("velocity_mse", 0.04))
        for i, weight in enumerate((0.003, 0.01, 0.03))
    },
}
STEPS = 8


def write_sweep(
    root: Path,
    *,
    arms: dict[str, tuple[dict[str, Any], float, float, float]] = ARMS,
    seeds: Sequence[int] = range(6),
    failed: Sequence[tuple[str, int]] = (),
    missing: Sequence[tuple[str, int]] = (),
    strange: Sequence[tuple[str, int]] = (),
    updates: int = 60,
    grid: str = "kl_vs_mse",
    spread: float = 0.02,
    planned: Sequence[str] | None = None,
    family: Family = PICTURES,
    warm: Sequence[str] = (),
) -> Path:
    """Write ``root/cells`` and ``root/sweeps/<grid>-0badcafe``, first arm the baseline; return the sweep's folder.

    Seeds start from the models ``warm`` in turn, if there are any; each is better by .05 than the one before.
    """
    baseline = next(iter(arms))
    folder = root / "sweeps" / f"{grid}-0badcafe"
    starts = {seed: seed % len(warm) for seed in seeds} if warm else {}
    fixed = {str(block): f"untouched{block}" for block in sorted({*starts.values()} or {0})}
    entries = [_entry("untouched", ["optim.updates=0"], fixed, None)]
    for block, identity in fixed.items():
        cell, strict = root / "cells" / identity, 0.38 + 0.05 * int(block)
        _write_cell(cell, "untouched", int(block), {"name": "none"}, strict, 0.42, 0.0, 0, spread, family)
        _start(cell, warm, int(block))
    for name, (regularizer, strict, proxy, drift) in arms.items():
        cells = {}
        for seed in seeds:
            identity = cells[str(seed)] = _identity(name, seed)
            cell = root / "cells" / identity
            if (name, seed) in missing:
                continue
            if (name, seed) in failed:
                _write_failure(cell)
                continue
            digest = "other-prompts" if (name, seed) in strange else "d41d8cd98f00"
            gain = 0.05 * starts.get(seed, 0)
            _write_cell(cell, name, seed, regularizer, strict + gain, proxy, drift, updates, spread, family, digest)
            _start(cell, warm, seed)
        overrides = [f"regularizer={regularizer['name']}"]
        entries.append(_entry(name, overrides, cells, None if name == baseline else baseline))
    plan = {
        "schema": 2,
        "grid": grid,
        "question": "Does a velocity-MSE penalty keep the judge's score better than a latent KL of matched"
        " strength, when the reward is a proxy that can be hacked?",
        "recipe": "unigrpo",
        "baseline": baseline,
        "primary": {"metric": family.primary, "direction": "maximize"},
        "secondary": list(family.secondary),
        "comparisons": [
            {"arm": arm, "other": baseline, "couples": [[arm, baseline]], "words": f"{arm} − {baseline}"}
            for arm in (arms if planned is None else planned)
            if arm != baseline
        ],
        "alpha": 0.05,
        "correction": "bonferroni",
        "margin": None,
        "test": "sign_flip",
        "design": "fixed",
        "looks": [],
        "planned_seeds": sorted(seeds),
        "candidates": {},
        "tuning": None,
        "evaluation": {"digest": "0123456789abcdef", "words": "test prompts of shapes"},
        "command": ["python", "-m", "ablations.sweep", f"grid={grid}"],
        "seeds": list(seeds),
        "arms": entries,
        "refused": [{"arm": "ode_raw", "reason": "image_ratio=raw: dynamics=ode has no density; choose flow_sde"}],
        "created": "2026-01-02T03:04:05+00:00",
        "git_sha": "0123456789abcdef0123456789abcdef01234567",
        "root": "../../cells",
    }
    if warm:
        of = {str(seed): warm[seed % len(warm)] for seed in sorted({*seeds, *map(int, fixed)})}
        plan["blocks"] = {"key": "model.checkpoint", "of": of, "words": f"by seed, of {', '.join(warm)}"}
    _dump(folder / "sweep.json", plan)
    _declare(folder, plan)
    return folder


def _start(cell: Path, warm: Sequence[str], seed: int) -> None:
    if warm:
        config = json.loads((cell / "config.json").read_text())
        config["model"]["checkpoint"] = warm[seed % len(warm)]
        _dump(cell / "config.json", config)


def _declare(folder: Path, plan: dict[str, Any]) -> None:
    """What the first command would have left: the plan, declared before any cell had finished."""
    content = history.content_of(plan)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    cells = sum(len(arm["cells"]) for arm in plan["arms"])
    revision = {"time": "2026-01-02T03:04:05Z", "hash": hashlib.sha256(text.encode()).hexdigest(), "content": content}
    revision |= {"finished": 0, "done": [], "cells": cells, "looked": []}
    _dump(folder / "declaration.json", {"schema": 1, "revisions": [revision]})


def _entry(name: str, overrides: list[str], cells: dict[str, str], against: str | None) -> dict[str, object]:
    entry = {"name": name, "overrides": overrides, "untouched": name == "untouched", "cells": cells}
    levels = [level for level in name.partition("@")[2].split(",") if "=" in level]  # as in none@lr=1,weight=2
    return entry | {"factors": {f"optim.{level.partition('=')[0]}": level for level in levels}, "against": against}


def _identity(name: str, seed: int) -> str:
    plain = f"{name}{seed}".replace("_", "")
    return (
        plain
        if re.fullmatch(r"[\w.\-]{,40}", plain, re.ASCII)
        else hashlib.sha256(ascii(name + plain).encode()).hexdigest()[:12]
    )


def _write_failure(cell: Path) -> None:
    _dump(
        cell / "failure.json",
        {
            "cause": "non_finite",
            "message": "loss/image is nan at update 17 <b>not bold</b>",
            "traceback": "Traceback (most recent call last):\n  ...\nNonFiniteLoss: loss/image is nan at update 17",
            "step": 17,
        },
    )


def _write_cell(
    cell: Path,
    arm: str,
    seed: int,
    regularizer: dict[str, Any],
    strict: float,
    proxy: float,
    drift: float,
    updates: int,
    spread: float,
    family: Family,
    digest: str = "d41d8cd98f00",
) -> None:
    rng = np.random.default_rng([seed, *arm.encode("utf-8", "surrogatepass")])
    run = np.random.default_rng(seed).normal() * spread  # shared by the arms of a seed: pairing pays
    strict, proxy = strict + run + rng.normal() * spread / 2, proxy + rng.normal() * spread / 2
    _dump(
        cell / "config.json",
        {
            "recipe": "unigrpo",
            "seed": seed,
            "sampler": {"steps": STEPS, "shift": 1.0, "temperature": 1.0},
            "model": {"checkpoint": "tiny-shapes"},
            "optim": {"updates": updates, "text_lr": 1e-4, "image_lr": 1e-4},
            "dynamics": {"name": "flow_sde", "a": 0.8, "reduction": "mean"},
            "regularizer": regularizer,
            "reward": {"name": "proxy"},
        },
    )
    _dump(
        cell / "env.json",
        {"git_sha": "0123456789abcdef", "versions": {"python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6"}},
    )
    _write_history(cell, rng, strict, proxy, drift, updates, family)
    rows = family.rows(rng, strict)
    (cell / "per_prompt.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    _write_samples(cell, family.samples(rng, strict))
    metrics = family.finals(rows) | {
        "heldout/distance_to_clean": 0.09 + drift + rng.normal() * 0.003,
        "heldout/proxy": proxy,
        "heldout/extra_objects": 0.1 + 4 * drift,
        "heldout/diversity": 0.31 - 2 * drift + rng.normal() * 0.004,
        "thinking/length": 11.5 + rng.normal() * 0.2,
        "drift/latent_kl": drift * (1 + rng.normal() * 0.1),
        "drift/velocity_mse": drift * 0.6 * (1 + rng.normal() * 0.1),
        "guided/heldout/distance_to_clean": 0.08 + drift,
    }
    _dump(cell / "metrics_schema.json", [q.to_dict() for q in family.schema if q.name in metrics])
    reference = 96 * 2 * updates if regularizer.get("weight") else 0
    cost = {
        "cost/nfe_rollout": 96 * STEPS * updates,
        "cost/nfe_train": 96 * 2 * updates,
        "cost/nfe_reference": reference,
        "cost/nfe_eval": 576 * STEPS * 3,
        "cost/images": 96 * updates,
        "cost/tokens": 96 * 12 * updates,
    }
    seconds = {"cost/cpu_s": 30 + 0.9 * updates + rng.normal(), "cost/wall_s": 33 + 0.95 * updates, "cost/update_s": 20}
    _dump(cell / "cost.json", seconds | {"cost/peak_mb": 910.0})
    _dump(cell / "evaluation.json", {"metrics": metrics, "eval_set_hash": digest, "guidance_scale": 2.0})
    _dump(cell / "result.json", {"metrics": metrics, "cost": cost, "updates": updates})
    (cell / "DONE").write_text("")


def _write_history(
    cell: Path, rng: np.random.Generator, strict: float, proxy: float, drift: float, updates: int, family: Family
) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(updates):
        share = 1 - np.exp(-4 * step / max(updates, 1))
        noise = rng.normal(size=4) * 0.02
        row: dict[str, Any] = {
            "step": step,
            "train/reward": (reward := 0.42 + (proxy - 0.42) * share + noise[0]),
            **family.logged(0.38 + (strict + 0.1 - 0.38) * share - 0.1 * (step / updates) ** 2 + noise[1], reward),
            "train/zero_std_frac": 0.1 + 0.2 * share + abs(noise[3]),
            "drift/latent_kl": drift * share,
            "drift/velocity_mse": 0.6 * drift * share,
            "grad/text": 0.8 + noise[0],
            "grad/image": 0.3 + noise[1],
            "cost/nfe_rollout": 96 * STEPS * (step + 1),
            "cost/nfe_train": 96 * 2 * (step + 1),
        }
        for k in range(3):
            row[f"ratio/image_mean/{k}"] = 1 - 1e-4 * (3 - k) + noise[2] * 1e-4
            row[f"ratio/image_std/{k}"] = 2e-4 * (3 - k) * (1 + noise[2])
            row[f"ratio/image_clip_frac/{k}"] = 0.02 * (3 - k) + abs(noise[3]) * 0.1
        rows.append(row)
        if step % 10 == 9:
            rows.append(
                {
                    "step": step,
                    f"eval/{family.primary}": strict * share + 0.38 * (1 - share),
                }
            )
    cell.mkdir(parents=True, exist_ok=True)
    (cell / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_samples(cell: Path, samples: list[dict[str, Any]]) -> None:
    (cell / "samples").mkdir(exist_ok=True)
    pieces = [piece for sample in samples for piece in sample["strip"] if "picture" in piece]
    for number, piece in enumerate(pieces):
        (cell / "samples" / f"p{number}.png").write_bytes(piece["picture"])
        piece["picture"] = f"p{number}.png"
    _dump(cell / "samples" / "index.json", samples)


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
