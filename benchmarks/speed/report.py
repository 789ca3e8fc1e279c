"""``python -m benchmarks.speed.report``: how long reports of real-sized sweeps take, and how large they are."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unigrpo import console
from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.metrics import schema

#: Arms of the grid, which differ in their regularizer, and what their scores are about.
ARMS = {"none": 0.47, "latent_kl": 0.52, "velocity_mse": 0.54}
#: Sweeps that are timed: levels of an axis that all arms are crossed with, and seeds.
SIZES = ((1, 6), (20, 10))

_UPDATES = 60
_PRIMARY = "geneval/strict"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One report, written twice."""

    cells: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    """Largest resident memory of the processes so far."""
    page_mb: float
    all_mb: float
    """All files of the report."""
    equal: bool
    """Whether both times gave the same bytes."""


def write_sweep(root: Path, levels: int, seeds: int, *, prompts_per_tag: int = 24, images: int = 16) -> Path:
    """Write what a sweep of ``3 * levels * seeds + 1`` cells leaves behind, with drawn numbers; return its folder.

    Prompts are the test prompts of the shapes, the files and their fields those of real runs.
    """
    config = compose(["reward=proxy", f"optim.updates={_UPDATES}"])
    axis = {"optim.image_lr": [f"image_lr={1e-5 * (i + 1):.2g}" for i in range(levels)]} if levels > 1 else {}
    cells = _Cells(root / "cells", config, prompts_per_tag, images)
    arms = [_arm("untouched", {"0": cells.write("untouched", 0, 0.4, updates=0)}, {}, None)]
    for stem, score in ARMS.items():
        for level in axis.get("optim.image_lr", [""]):
            name, factors = (f"{stem}@{level}", {"optim.image_lr": level}) if level else (stem, {})
            written = {str(seed): cells.write(name, seed, score, updates=_UPDATES) for seed in range(seeds)}
            arms.append(_arm(name, written, factors, None if stem == "none" else name.replace(stem, "none", 1)))
    planned = [
        {"arm": stem, "other": "none", "couples": couples, "words": f"{stem} − none"}
        for stem in list(ARMS)[1:]
        if (couples := [[arm["name"], arm["against"]] for arm in arms if arm["name"].partition("@")[0] == stem])
    ]
    plan = {
        "schema": 2, "grid": "speed", "question": "How long does a report take?", "recipe": "unigrpo",
        "baseline": arms[1]["name"], "primary": {"metric": _PRIMARY, "direction": "max"},
        "secondary": ["geneval/official", "heldout/proxy"], "comparisons": planned, "alpha": 0.05,
        "correction": "bonferroni", "margin": 0.05, "test": "sign_flip", "design": "fixed", "looks": [],
        "planned_seeds": [*range(seeds)], "candidates": {}, "tuning": None, "command": ["python", "-m", "ablations"],
        "evaluation": {"digest": "0" * 16, "words": "drawn numbers"}, "seeds": [*range(seeds)], "arms": arms,
        "refused": [], "created": "2026-01-02T03:04:05+00:00", "git_sha": "0" * 40, "root": "../../cells",
    }  # fmt: skip
    folder = root / "sweeps" / f"speed-{len(arms):08d}"
    folder.mkdir(parents=True)
    _dump(folder / "sweep.json", plan)
    return folder


def _arm(name: str, cells: dict[str, str], factors: dict[str, str], against: str | None) -> dict[str, Any]:
    overrides = [] if name == "untouched" else [f"regularizer={name.partition('@')[0]}"]
    told = {"name": name, "overrides": overrides, "untouched": name == "untouched", "cells": cells}
    return told | {"factors": factors, "against": against, "repeats": None}


class _Cells:
    """Writes cells as finished runs leave them."""

    def __init__(self, root: Path, config: RunConfig, prompts_per_tag: int, images: int):
        by_tag = config.dataset.prompts("test")
        self.prompts = [prompt for prompts in by_tag.values() for prompt in prompts[:prompts_per_tag]]
        self.sampled = [prompt for prompts in by_tag.values() for prompt in prompts[: min(2, prompts_per_tag)]]
        self.root, self.config, self.images = root, config, images

    def write(self, arm: str, seed: int, score: float, updates: int) -> str:
        """One cell; returns its name."""
        identity = hashlib.sha256(f"{arm}/{seed}".encode()).hexdigest()[:12]
        folder, rng = self.root / identity, np.random.default_rng([seed, *arm.encode()])
        (folder / "samples").mkdir(parents=True)
        weight = 0.0 if arm.startswith(("none", "untouched")) else 0.02
        regularizer = {"name": arm.partition("@")[0], "weight": weight, "reduction": "mean"}
        config = self.config.to_dict() | {"seed": seed} | ({"regularizer": regularizer} if weight else {})
        rows = [self._row(rng, prompt, image, score) for prompt in self.prompts for image in range(self.images)]
        guided = [row | {"guidance": 2.0} for row in rows if row["image"] == 0]
        metrics = self._finals(rows) | {f"guided/{name}": value for name, value in self._finals(guided).items()}
        metrics |= {"drift/latent_kl": 0.01 * rng.random(), "drift/velocity_mse": 0.01 * rng.random()}
        _lines(folder / "per_prompt.jsonl", rows)
        _lines(folder / "per_prompt_guided.jsonl", guided)
        _lines(folder / "metrics.jsonl", [self._update(rng, step, score) for step in range(updates)])
        _dump(folder / "samples" / "index.json", [self._sample(folder, rng, p, score) for p in self.sampled])
        _dump(folder / "config.json", config)
        _dump(folder / "env.json", {"kind": "drawn", "versions": {"python": sys.version.split()[0]}})
        _dump(folder / "metrics_schema.json", [q.to_dict() for q in schema.described(self.config, metrics)])
        _dump(folder / "evaluation.json", {"metrics": metrics, "eval_set_hash": "0" * 12, "guidance_scale": 2.0})
        _dump(folder / "cost.json", {"cost/cpu_s": 60 + rng.random(), "cost/wall_s": 70.0, "cost/peak_mb": 900.0})
        cost = {f"cost/{name}": 1000 for name in ("nfe_rollout", "nfe_train", "nfe_eval", "images", "tokens")}
        _dump(folder / "result.json", {"metrics": metrics, "cost": cost, "updates": updates})
        (folder / "DONE").write_text(hashlib.sha256((folder / "result.json").read_bytes()).hexdigest())
        return identity

    def _row(self, rng: np.random.Generator, prompt: Any, image: int, score: float) -> dict[str, Any]:
        strict = int(rng.random() < score)
        thinking = "top right green square . bottom left blue triangle . bottom right white yellow triangle ."
        return {
            "prompt": prompt.key, "tag": prompt.tag, "text": prompt.text, "image": image, "thinking": thinking,
            "length": 17, "faithful": strict, "strict": strict, "official": max(strict, int(rng.random() < 0.2)),
            "strict_soft": float(rng.random()), "official_soft": float(rng.random()),
            "distance_to_clean": float(rng.random()), "extra": int(rng.integers(3)), "proxy": float(rng.random()),
            "reason": "" if strict else "expected 1 x circle, found 0", "meaning": prompt.meaning or prompt.key,
            "guidance": 1.0,
        }  # fmt: skip

    @staticmethod
    def _finals(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        tags = dict.fromkeys(row["tag"] for row in rows)
        found: dict[str, float] = {}
        for field in ("strict", "official"):
            means = {tag: float(np.mean([row[field] for row in rows if row["tag"] == tag])) for tag in tags}
            found |= {f"geneval/{field}": float(np.mean([*means.values()]))}
            found |= {f"geneval/{field}/{tag}": mean for tag, mean in means.items()}
        other = {
            "heldout/distance_to_clean": "distance_to_clean",
            "heldout/proxy": "proxy",
            "thinking/length": "length",
        }
        return found | {name: float(np.mean([row[field] for row in rows])) for name, field in other.items()}

    @staticmethod
    def _update(rng: np.random.Generator, step: int, score: float) -> dict[str, Any]:
        measured = (
            "strict",
            "official",
            "strict_soft",
            "official_soft",
            "distance_to_clean",
            "proxy",
            "extra",
            "length",
        )
        row: dict[str, Any] = {"step": step, "train/reward": score + 0.1 * rng.random()}
        row |= {f"train/{name}": float(rng.random()) for name in (*measured, "reward_std", "zero_std_frac")}
        for part in ("text", "image"):
            row |= {f"{name}/{part}": float(rng.random()) for name in ("loss", "guard", "grad")}
        for k in range(2, 4):
            row |= {f"ratio/image_{name}/{k}": 1 + 1e-4 * rng.random() for name in ("mean", "std", "clip_frac")}
        row |= {f"drift/{name}": 1e-4 * step * rng.random() for name in ("latent_kl", "velocity_mse")}
        return row | {f"cost/nfe_{name}": 768 * (step + 1) for name in ("rollout", "train", "reference")}

    def _sample(self, folder: Path, rng: np.random.Generator, prompt: Any, score: float) -> dict[str, Any]:
        from PIL import Image

        row, png, size = self._row(rng, prompt, 0, score), io.BytesIO(), self.config.sampler.height or 32
        # Noise does not compress: pictures of a trained model are smaller.
        Image.fromarray(rng.integers(100, 164, (size, size, 3), dtype=np.uint8)).save(png, "png")
        (folder / "samples" / f"{prompt.key}-2.png").write_bytes(png.getvalue())
        strip = [
            {"given": True, "turn": 0, "text": prompt.text},
            {"given": False, "turn": 0, "text": row["thinking"]},
            {"given": False, "turn": 0, "picture": f"{prompt.key}-2.png"},
        ]
        scores = {name: row[name] for name in ("strict", "official", "strict_soft", "proxy")}
        return {"prompt": prompt.text, "tag": prompt.tag, "scores": scores, "reason": row["reason"], "strip": strip}


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def measure(folder: Path, cells: int) -> Measured:
    """Write the report of the sweep in ``folder`` twice, each in a process of its own on one thread."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    first = _report(folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Measured(
        cells=cells,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        wall_s=wall,
        peak_mb=after.ru_maxrss / 1024,
        page_mb=len(first["report.html"]) / 1e6,
        all_mb=sum(map(len, first.values())) / 1e6,
        equal=_report(folder) == first,
    )


def _report(folder: Path) -> dict[str, bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "reports", str(folder)], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    written = (path for path in (folder / "report").rglob("*") if path.is_file())
    return {str(path.relative_to(folder / "report")): path.read_bytes() for path in written}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write sweeps of several sizes, measure their reports, and print."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.report", description=__doc__)
    parser.parse_args(arguments)
    for levels, seeds in SIZES:
        with tempfile.TemporaryDirectory() as root:
            found = measure(write_sweep(Path(root), levels, seeds), len(ARMS) * levels * seeds + 1)
        print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
