"""Short runs of the real trainer: two prompts, two samples each, three denoising steps."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
import torch

from unigrpo.compose import load_recipe
from unigrpo.config import RunConfig
from unigrpo.metrics.metric import by_tag
from unigrpo.rewards import ImageReward, RewardOutput
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.training.trainer import Trainer


@dataclass(frozen=True)
class Brightness(ImageReward):
    """A reward that tells any two pictures apart, as no judge does with those of a random model."""

    component_names: ClassVar[tuple[str, ...]] = ("red",)
    component_weights: ClassVar[tuple[float, ...]] = (1.0,)

    def score(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        return 10 * images[:, 0].mean((1, 2))[:, None]


@dataclass(frozen=True)
class Whim:
    """A reward that tells any two episodes apart: every text earns its length, every picture its redness."""

    needs: ClassVar[frozenset[str]] = frozenset()
    component_names: ClassVar[tuple[str, ...]] = ("words", "red")
    component_weights: ClassVar[tuple[float, ...]] = (0.1, 10.0)

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        steps = torch.zeros(len(decoded.prompts), len(decoded.parts), 2)
        has_reward = torch.zeros(steps.shape[:2], dtype=torch.bool)
        for k, words in decoded.texts:
            has_reward[:, k], steps[:, k, 0] = torch.tensor(words.alive), torch.tensor(words.lengths).float()
        for k, pictures in decoded.images:
            has_reward[:, k] = torch.tensor(pictures.alive)
            steps[:, k, 1] = pictures.pixels[:, 0].mean((1, 2)).where(has_reward[:, k], 0.0)
        return RewardOutput(steps.sum(1), steps, has_reward)


#: The folders of tiny random models that paint by denoising, and token by token; set by the fixture.
CHECKPOINT = CODES = ""

BASE: dict[str, Any] = {
    "sampler": {"steps": 3},
    "rollout": {"prompts": 2, "group_size": 2, "minibatches": 1},
    "optim": {"updates": 3, "text_lr": 1e-3, "image_lr": 1e-3},
    "evaluation": {"prompts_per_tag": 1, "images_per_prompt": 1, "steps": 2},
    "train_metrics": ["geneval_mini"],
    "episode": {"name": "single_round", "max_thinking": 8},
    "window": {"name": "random_window", "size": 1, "low": 0, "high": 2},
    "reward": Brightness(),
    "text_trust_region": {"name": "ppo_clip", "low": 0.2, "high": 0.2},
    "image_trust_region": {"name": "ppo_clip", "low": 0.02, "high": 0.02},
    "regularizer": {"name": "velocity_mse", "weight": 0.1},
    "text_kl": {"name": "k3", "weight": 0.1},
}


#: Changes that make the short run one of pictures by tokens.
TOKENS: dict[str, Any] = {"image_head": "tokens", "dynamics": "ode", "image_ratio": "raw", "regularizer": "none"}

#: Changes that make the short run one of many rounds.
ROUNDS: dict[str, dict[str, Any]] = {
    "interleaved": {
        "episode": {"name": "interleaved", "max_pictures": 2, "max_text": 16},
        "reward": Whim(),
        "credit": "suffix_sum",
        "evaluation": {"prompts_per_tag": 2, "retention": "shapes", "retention_prompts_per_tag": 1},
        "dataset": {"name": "shapes", "task": "stories"},
        "train_metrics": ["shapes_interleaved"],
    },
    "editing": {
        "episode": {"name": "editing", "turns": 2, "test_turns": 3, "max_thinking": 6},
        "reward": Whim(),
        "credit": "broadcast",
        "evaluation": {"retention": "shapes", "retention_prompts_per_tag": 1},
        "dataset": {"name": "shapes", "task": "edits"},
        "train_metrics": ["shapes_edit"],
    },
    "reflect": {
        "episode": {"name": "reflect", "rounds": 2, "max_thinking": 6, "max_reflection": 16},
        "credit": {"name": "improvement", "right": 1.0},
    },
    "tree": {
        "episode": {"name": "reflect", "rounds": 2, "max_thinking": 6, "max_reflection": 16, "start": "shared"},
        "reward": Whim(),
        "credit": "per_turn",
    },
}


ROUNDS["codes"] = ROUNDS["interleaved"] | TOKENS


def config_of(**changes: Any) -> RunConfig:
    """The short run with some sections replaced, field by field where both are mappings of one strategy."""
    data = {
        "model": {"name": "mot", "checkpoint": CODES if changes.get("image_head") == "tokens" else CHECKPOINT}
    } | BASE
    for key, value in changes.items():
        old = data.get(key)
        merge = isinstance(old, dict) and isinstance(value, dict) and value.get("name") in (None, old.get("name"))
        data[key] = {**old, **value} if merge else value
    return RunConfig.from_dict(data)


def recipe_of(name: str) -> RunConfig:
    """A shipped recipe in the short run's sizes (but with its own steps, windows, ratios and penalties)."""
    plain = dict(load_recipe(name)["config"])
    plain |= {"model": {"name": "mot", "checkpoint": CHECKPOINT}, "reward": Brightness(), "episode": BASE["episode"]}
    shared = plain["rollout"]["shared_noise"]
    plain |= {"rollout": {**BASE["rollout"], "shared_noise": shared}, "evaluation": BASE["evaluation"]}
    return RunConfig.from_dict(plain)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def digest_of(module: torch.nn.Module) -> str:
    sha = hashlib.sha256()
    for tensor in module.state_dict().values():
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def trained(config: RunConfig, updates: int) -> dict[str, torch.Tensor]:
    """The policy's weights after some updates, without any evaluation."""
    trainer = Trainer(config)
    for update in range(updates):
        trainer.update(update)
    return weights_of(trainer.policy)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def means_of_rows(folder: Path, result: dict[str, Any]) -> set[str]:
    """The measures that name rows, each shown to be their mean: over all that its entry names, or over tags."""
    found = rows(folder / "per_prompt.jsonl") + rows(folder / "per_prompt_guided.jsonl")
    assert {row["guidance"] for row in found} == {1.0, 2.0}
    assert all(row["meaning"] for row in found)
    schema = json.loads((folder / "metrics_schema.json").read_text())
    told = [q for q in schema if q["row_field"] and q["name"] in result["metrics"]]
    for quantity in told:
        field, wanted = quantity["row_field"], {"guidance": 1.0} | quantity["rows"]
        of = [row for row in found if wanted.items() <= row.items() and field in row]
        means = fmean(row[field] for row in of), fmean(by_tag(of, field).values())
        assert result["metrics"][quantity["name"]] in [pytest.approx(mean) for mean in means], quantity["name"]
    return {quantity["name"] for quantity in told}


def product(folder: Path) -> dict[str, bytes]:
    """What a finished run leaves, byte for byte; what tells of time and memory is left out."""
    ignored = {"cost.json", "timing.jsonl", "env.json"}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ignored)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def in_a_fork(action: Callable[[], object]) -> int:
    """Do something in a process of its own; 0 if it ended well, else its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class Fate:
    """Counts what the training code does (calls and returns, of C functions too), and kills the process at one."""

    def __init__(self, at: int | None = None):
        self.at, self.count = at, 0

    def __enter__(self) -> Fate:
        sys.setprofile(self._encode_pending_image)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _encode_pending_image(self, frame: Any, event: str, argument: Any) -> None:
        if "unigrpo/training/" in frame.f_code.co_filename:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def brightness(images: torch.Tensor, prompts: list[str], texts: list[str], **meta: Any) -> list[float]:
    """A reward as users write it."""
    assert images.shape[0] == len(prompts) == len(texts)
    assert 0 <= images.min() <= images.max() <= 1
    return [image.mean().item() for image in images]
