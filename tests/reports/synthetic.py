"""A complete fake tree of runs with realistic numbers, for looking at reports and for testing them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
EVIL = "a red <script>alert('boo')</script> circle & a blue square"
COLOURS = {"red": (200, 60, 50), "blue": (60, 90, 200), "green": (60, 150, 80), "yellow": (220, 190, 60)}

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
) -> Path:
    """Write ``root/cells`` and ``root/sweeps/<grid>-0badcafe``; return the sweep's folder."""
    folder = root / "sweeps" / f"{grid}-0badcafe"
    entries = [{"name": "untouched", "overrides": ["optim.updates=0"], "untouched": True, "cells": {"0": "untouched0"}}]
    _write_cell(root / "cells" / "untouched0", "untouched", 0, {"name": "none"}, 0.38, 0.42, 0.0, 0, spread)
    for name, (regularizer, strict, proxy, drift) in arms.items():
        cells = {}
        for seed in seeds:
            identity = cells[str(seed)] = f"{name}{seed}".replace("_", "")
            cell = root / "cells" / identity
            if (name, seed) in missing:
                continue
            if (name, seed) in failed:
                _write_failure(cell)
                continue
            digest = "other-prompts" if (name, seed) in strange else "d41d8cd98f00"
            _write_cell(cell, name, seed, regularizer, strict, proxy, drift, updates, spread, digest)
        overrides = [f"regularizer={regularizer['name']}"]
        entries.append({"name": name, "overrides": overrides, "untouched": False, "cells": cells})
    _dump(
        folder / "sweep.json",
        {
            "schema": 1,
            "grid": grid,
            "question": "Does a velocity-MSE penalty keep the judge's score better than a latent KL of matched"
            " strength, when the reward is a proxy that can be hacked?",
            "recipe": "unigrpo",
            "baseline": "none",
            "primary": {"metric": "geneval/strict", "direction": "maximize"},
            "secondary": ["heldout/fidelity", "heldout/proxy", "drift/latent_kl"],
            "comparisons": [arm for arm in arms if arm != "none"] if planned is None else list(planned),
            "alpha": 0.05,
            "correction": "holm",
            "command": ["python", "-m", "ablations.sweep", f"grid={grid}"],
            "seeds": list(seeds),
            "arms": entries,
            "refused": [{"arm": "ode_raw", "reason": "image_ratio=raw: dynamics=ode has no density; choose flow_sde"}],
            "created": "2026-01-02T03:04:05+00:00",
            "git_sha": "0123456789abcdef0123456789abcdef01234567",
            "root": "../../cells",
        },
    )
    return folder


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
    digest: str = "d41d8cd98f00",
) -> None:
    rng = np.random.default_rng([seed, *arm.encode()])
    run = np.random.default_rng(seed).normal() * spread  # shared by the arms of a seed: pairing pays
    strict, proxy = strict + run + rng.normal() * spread / 2, proxy + rng.normal() * spread / 2
    _dump(
        cell / "config.json",
        {
            "recipe": "unigrpo",
            "seed": seed,
            "sampler": {"steps": STEPS, "shift": 1.0, "temperature": 1.0},
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
    _write_history(cell, rng, strict, proxy, drift, updates)
    prompts = _write_prompts(cell, rng, strict)
    _write_samples(cell, rng, strict)
    tags = {task: float(np.mean([s for t, s in prompts if t == task])) for task in TASKS}
    overall = float(np.mean(list(tags.values())))
    metrics = {
        "geneval/strict": overall,
        "geneval/official": min(1.0, overall + 0.06),
        "geneval/strict_soft": overall + 0.05,
        "geneval/official_soft": overall + 0.1,
        **{f"geneval/strict/{task}": score for task, score in tags.items()},
        **{f"geneval/official/{task}": min(1.0, score + 0.06) for task, score in tags.items()},
        "heldout/fidelity": 0.09 + drift + rng.normal() * 0.003,
        "heldout/proxy": proxy,
        "heldout/extra_objects": 0.1 + 4 * drift,
        "heldout/diversity": 0.31 - 2 * drift + rng.normal() * 0.004,
        "thinking/faithful": 0.7 + 0.2 * overall,
        "thinking/length": 11.5 + rng.normal() * 0.2,
        "drift/latent_kl": drift * (1 + rng.normal() * 0.1),
        "drift/velocity_mse": drift * 0.6 * (1 + rng.normal() * 0.1),
        "cfg/geneval/strict": overall + 0.04,
        "cfg/geneval/official": overall + 0.08,
        "cfg/heldout/fidelity": 0.08 + drift,
    }
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
    cell: Path, rng: np.random.Generator, strict: float, proxy: float, drift: float, updates: int
) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(updates):
        share = 1 - np.exp(-4 * step / max(updates, 1))
        noise = rng.normal(size=4) * 0.02
        row: dict[str, Any] = {
            "step": step,
            "train/reward": 0.42 + (proxy - 0.42) * share + noise[0],
            "train/proxy": 0.42 + (proxy - 0.42) * share + noise[0],
            "train/strict": 0.38 + (strict + 0.1 - 0.38) * share - 0.1 * (step / updates) ** 2 + noise[1],
            "train/official": 0.45 + (strict + 0.12 - 0.38) * share - 0.05 * (step / updates) ** 2 + noise[2],
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
                    "eval/geneval/strict": strict * share + 0.38 * (1 - share),
                    "eval/geneval/official": 0.5 + 0.1 * share,
                }
            )
    cell.mkdir(parents=True, exist_ok=True)
    (cell / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_prompts(cell: Path, rng: np.random.Generator, strict: float) -> list[tuple[str, float]]:
    scores, lines = [], []
    for t, task in enumerate(TASKS):
        for p in range(6):
            for image in range(2):
                hit = int(rng.random() < np.clip(strict + 0.3 - 0.12 * t + 0.1 * np.sin(p + t), 0, 1))
                scores.append((task, float(hit)))
                row = {"prompt": f"{task}-{p}", "tag": task, "text": EVIL, "image": image, "strict": hit, "official": 1}
                lines.append(json.dumps(row | {"fidelity": 0.1, "proxy": 0.6, "thinking": EVIL, "reason": "fine"}))
    (cell / "per_prompt.jsonl").write_text("\n".join(lines) + "\n")
    return scores


def _write_samples(cell: Path, rng: np.random.Generator, strict: float) -> None:
    index = []
    (cell / "samples").mkdir(exist_ok=True)
    for i, (task, prompt) in enumerate(
        zip(
            TASKS,
            [
                EVIL,
                "a blue square and a red circle",
                "three green triangles",
                "a yellow star",
                "a red circle left of a blue square",
                "a green square and a yellow circle",
            ],
            strict=True,
        )
    ):
        ok = bool(rng.random() < strict + 0.2)
        (cell / "samples" / f"p{i}.png").write_bytes(_picture(rng, ok))
        index.append(
            {
                "file": f"p{i}.png",
                "prompt": prompt,
                "tag": task,
                "thinking": f"{prompt}: circle red at top left",
                "strict": ok,
                "official": True,
                "reason": "as asked" if ok else "1 object too many",
            }
        )
    _dump(cell / "samples" / "index.json", index)


def _picture(rng: np.random.Generator, ok: bool) -> bytes:
    image = Image.new("RGB", (32, 32), (235, 235, 230))
    draw = ImageDraw.Draw(image)
    for colour in list(COLOURS.values())[: 2 if ok else 3]:
        x, y = rng.integers(2, 20, size=2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((int(x), int(y), int(x) + 9, int(y) + 9), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
