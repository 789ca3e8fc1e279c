"""Two processes (gloo) take the steps that one process takes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.training.processes import together
from unigrpo.config import RunConfig
from unigrpo.training.runner import run

SHORT = {
    "optim": {"updates": 1},
    "rollout": {"prompts": 4, "group_size": 3, "minibatches": 1},
    "evaluation": {"prompts_per_tag": 1, "images_per_prompt": 1, "steps": 1},
}
PICTURES = SHORT | {
    "train_metrics": ["geneval_mini"],
    "advantage": {"name": "global_std"},
}
#: Of unequal lengths, so that the ranks walk different numbers of turns.
STORIES = SHORT | {
    "model": {"name": "mot", "checkpoint": "tiny-interleaved"},
    "episode": {"name": "interleaved"},
    "reward": {"name": "hybrid"},
    "credit": {"name": "suffix_sum"},
    "dataset": {"name": "shapes", "task": "stories"},
    "train_metrics": ["shapes_interleaved"],
}


def _launch(config, folder, processes):
    together(processes, lambda: run(RunConfig.from_dict(config), folder))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "watched"), [(PICTURES, "train/strict"), (STORIES, "train/structure")], ids=["pictures", "stories"]
)
def test_two_processes_take_the_steps_of_one(tmp_path, config, watched):
    (alone,) = _launch(config, tmp_path / "one", 1)
    (together,) = _launch(config, tmp_path / "two", 2)
    assert together["cost/images"] == alone["cost/images"] >= 12
    for name in ("train/reward", "train/reward_std", watched, "loss/text", "grad/text", "grad/image"):
        assert together[name] == pytest.approx(alone[name], rel=2e-3, abs=1e-6), name
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    moved = [torch.dist(first[name], second[name]).item() for name in first]
    assert max(moved) < 0.05
