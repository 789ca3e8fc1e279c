"""What a finished run leaves behind for reports: its evaluation, sample pictures, the trained model."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from unigrpo.io import JsonObject, write_json, write_rows
from unigrpo.metrics import Row, schema
from unigrpo.models.adapters.adapter import MODEL
from unigrpo.registry import name_of
from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart
from unigrpo.training.evaluation import Evaluation

if TYPE_CHECKING:
    from unigrpo.training.trainer import Trainer

_LOG = logging.getLogger(__name__)

#: Test prompts per task whose first episode is kept.
_SAMPLES_PER_TASK = 2


def write_final(trainer: Trainer, folder: Path) -> JsonObject:
    """Evaluate at both guidance scales and write all files but result.json, whose content is returned.

    All processes take part; the main one writes, what the others return means nothing.
    """
    with trainer.config.adapter.measured(trainer.optimizer):
        return _write_final(trainer, folder)


def _write_final(trainer: Trainer, folder: Path) -> JsonObject:
    config, policy = trainer.config, trainer.policy.eval()
    with trainer.clock("evaluation"):
        plain = trainer.evaluator(policy, 1.0, config.evaluation.images_per_prompt)
        guided = trainer.evaluator(policy, config.evaluation.guidance_scale, config.evaluation.guided_images_per_prompt)
        start = trainer.reference if config.evaluation.drift else None
        drift = {} if start is None else trainer.evaluator.drift(policy, start)
    trainer.count("eval", plain.cost + guided.cost)
    metrics = {**plain.metrics, **{f"guided/{name}": value for name, value in guided.metrics.items()}, **drift}
    if (retention := trainer.evaluator.retention()) is not None:
        with trainer.clock("evaluation"):
            kept = retention(policy, 1.0, config.evaluation.images_per_prompt)
        trainer.count("eval", kept.cost)
        metrics |= {f"retention/{q.name}": kept.metrics[q.name] for q in schema.kept(config) if q.name in kept.metrics}
    trainer.reduce_counters()
    with trainer.engine.whole(trainer.policy, trainer.accelerator):
        if trainer.accelerator.is_main_process:
            _save(trainer, folder)
    if not trainer.accelerator.is_main_process:
        return {}
    write_json(folder / "metrics_schema.json", [q.to_dict() for q in schema.described(config, metrics)])
    write_rows(folder / "per_prompt.jsonl", plain.rows)
    if config.evaluation.guidance_scale != 1:
        write_rows(folder / "per_prompt_guided.jsonl", guided.rows)
    write_samples(folder / "samples", plain, config.evaluation.images_per_prompt)
    evaluation = {
        "metrics": metrics,
        "eval_set_hash": trainer.evaluator.set_hash,
        "guidance_scale": config.evaluation.guidance_scale,
    }
    write_json(folder / "evaluation.json", evaluation)
    counts = {f"cost/{name}": value for name, value in trainer.cost.items()}
    return {"metrics": metrics, "cost": counts, "updates": config.optim.updates}


def _save(trainer: Trainer, folder: Path) -> None:
    """Write the trained model."""
    config = trainer.config
    config.adapter.save(folder, config.model, trainer.model)
    if not any((folder / MODEL).iterdir()):
        _LOG.warning(
            "model=%s: save wrote no file to %s; the trained weights are lost", name_of(config.model), folder / MODEL
        )


def write_samples(folder: Path, evaluation: Evaluation, images_per_prompt: int) -> None:
    """The first episode of a few prompts per task, the same ones in every run, with an index piece by piece."""
    folder.mkdir(exist_ok=True)
    rows: dict[str, list[Row]] = {}
    for row in evaluation.rows:
        if row["image"] == 0:
            rows.setdefault(row["prompt"], []).append(row)
    index: list[JsonObject] = []
    taken: Counter[str] = Counter()
    for decoded in evaluation.episodes:
        for k in range(0, len(decoded.prompts), images_per_prompt):
            prompt = decoded.prompts[k]
            taken[prompt.tag] += 1
            if taken[prompt.tag] > _SAMPLES_PER_TASK:
                continue
            turns = rows.get(prompt.key, [])  # of metrics that find nothing about single prompts
            index.append(
                {
                    "prompt": prompt.text,
                    "tag": prompt.tag,
                    "scores": _scores(turns),
                    "reason": "; ".join(filter(None, (turn.get("reason") for turn in turns))),
                    "strip": list(_strip(folder, decoded, k)),
                }
            )
    write_json(folder / "index.json", index)


def _scores(turns: Sequence[Row]) -> dict[str, float]:
    """What was measured of one episode, its turns averaged."""
    first = turns[0] if turns else {}
    about = ("image", "turn", "guidance")
    names = [name for name, value in first.items() if isinstance(value, int | float) and name not in about]
    return {name: fmean(turn[name] for turn in turns) for name in names}


def _strip(folder: Path, decoded: DecodedEpisodes, k: int) -> Iterator[JsonObject]:
    """One episode piece by piece; its pictures are written on the way."""
    name = decoded.prompts[k].key
    for segment, part in enumerate(decoded.parts):
        if not part.alive[k]:
            continue
        of = {"given": part.given, "turn": part.turn}
        if isinstance(part, ImagePart):
            file = f"{name}-{segment}.png"
            save_png(folder / file, part.pixels[k])
            yield {"picture": file} | of
        else:
            yield {"text": part.texts[k]} | of


def save_png(path: Path, picture: torch.Tensor) -> None:
    """Write a picture [3, H, W] in [-1, 1] (clipped)."""
    from PIL import Image

    levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()).save(path)


def drop_checkpoints(folder: Path) -> None:
    """Remove what only a resumption needs."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
