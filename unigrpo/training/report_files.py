"""What a finished run leaves behind for reports: its evaluation, sample pictures, the trained model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unigrpo.evaluation import Evaluation
from unigrpo.files import write_json, write_rows
from unigrpo.models import checkpoint

if TYPE_CHECKING:
    from unigrpo.training.trainer import Trainer

#: Test prompts per task whose first picture is kept.
_SAMPLES_PER_TASK = 2


def write_final(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Evaluate at both guidance scales and write all files but result.json, whose content is returned."""
    config, policy = trainer.config, trainer.policy.eval()
    with trainer.clock("evaluation"):
        plain = trainer.evaluator(policy, 1.0, config.evaluation.images_per_prompt)
        guided = trainer.evaluator(policy, config.evaluation.guidance_scale, 1)
        drift = trainer.evaluator.drift(policy, trainer.reference)
    trainer.count("eval", plain.cost + guided.cost)
    metrics = {**plain.metrics, **{f"cfg/{name}": value for name, value in guided.metrics.items()}, **drift}
    write_rows(folder / "per_prompt.jsonl", plain.rows)
    write_samples(folder / "samples", plain, config.evaluation.images_per_prompt)
    checkpoint.save(folder / "model", trainer.model)
    evaluation = {
        "metrics": metrics,
        "eval_set_hash": trainer.evaluator.set_hash,
        "guidance_scale": config.evaluation.guidance_scale,
    }
    write_json(folder / "evaluation.json", evaluation)
    counts = {f"cost/{name}": value for name, value in trainer.cost.items()}
    return {"metrics": metrics, "cost": counts, "updates": config.optim.updates}


def write_samples(folder: Path, evaluation: Evaluation, images_per_prompt: int) -> None:
    """The first picture of a few prompts per task, the same ones in every run, with an index."""
    folder.mkdir(exist_ok=True)
    index: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for row, picture in zip(
        evaluation.rows[::images_per_prompt], evaluation.pictures[::images_per_prompt], strict=True
    ):
        if taken.setdefault(row["tag"], 0) < _SAMPLES_PER_TASK:
            taken[row["tag"]] += 1
            name = f"{row['prompt']}.png"
            save_png(folder / name, picture)
            said = {key: row[key] for key in ("tag", "thinking", "strict", "official", "reason")}
            index.append({"file": name, "prompt": row["text"], **said})
    write_json(folder / "index.json", index)


def save_png(path: Path, picture: torch.Tensor) -> None:
    """Write a picture [3, H, W] in [-1, 1]."""
    from PIL import Image

    levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()).save(path)


def drop_checkpoints(folder: Path) -> None:
    """Remove what only a resumption needs."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
