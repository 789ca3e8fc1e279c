"""Recipes of published models: each is tried on a tiny folder of the same class in place of the big one."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from ablations.grid import Grid
from ablations.plan import make_plan
from tests.models import sizes
from tests.models.bagel import published
from tests.models.pipelines import tiny
from tests.training.runs import moved, weights_of
from unigrpo.compose import compose, load_recipe, recipes
from unigrpo.training.trainer import Trainer

pytestmark = pytest.mark.no_cover
BIG = [name for name in recipes() if load_recipe(name)["config"]["model"]["name"] != "mot"]
CLASSES = {
    "sd3_medium_geneval_lora": "StableDiffusion3Pipeline",
    "flux_lora": "FluxPipeline",
    "qwen_image_thinking_lora": "QwenImagePipeline",
}
#: What makes a copy of a run small; steps, windows, ratios, penalties and adapters stay.
SHRUNK = [
    "rollout.prompts=2", "rollout.group_size=2", "rollout.minibatches=1", "engine=ddp", "engine.micro_batch=1",
    "episode.max_thinking=4",
    "sampler.height=32", "sampler.width=32", "evaluation.prompts_per_tag=1", "evaluation.images_per_prompt=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def words_of(tmp_path_factory):
    """What a user gives besides the recipe: a folder of the model, prompts and a reward."""

    @cache
    def words(name: str) -> list[str]:
        folder = tmp_path_factory.mktemp(name)
        texts = [f"{n} red cubes" for n in range(1, 60)]
        lines = [json.dumps({"prompt": text, "tag": "counting"}) for text in texts]
        kind = load_recipe(name)["config"]["dataset"]["name"]
        (folder / "prompts").write_text("\n".join(lines if kind == "jsonl" else texts))
        return [
            *_model(name, folder / "model"),
            f"dataset.path='{folder / 'prompts'}'",
            "reward.path=my_reward:redness",
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "examples")
        yield words


def _model(name: str, folder: Path) -> list[str]:
    if name in CLASSES:
        return [f"model.path='{tiny.saved(CLASSES[name], folder)}'"]
    return [f"model.folder='{published.write(folder, side=64, dtype=torch.bfloat16)}'"]


@pytest.mark.parametrize("name", BIG)
def test_what_is_to_be_given_is_said_all_at_once(name):
    found = " ".join(compose([], name).conflicts())
    for part in ("model.folder" if "bagel" in name else "model.path", "dataset.path=", "path=my_reward:"):
        assert part in found


@pytest.mark.parametrize("name", BIG)
def test_with_that_it_can_be_planned_as_it_is(name, words_of):
    grid = Grid(
        name="mine",
        question="?",
        recipe=name,
        baseline="a",
        primary={"metric": "reward/total", "direction": "max"},
        arms={"a": (), "b": ("optim.image_lr=1e-6",)},
    )
    plan = make_plan(grid, words_of(name))
    assert {arm.name: arm.refused for arm in plan.arms if not arm.untouched} == {"a": (), "b": ()}


@pytest.mark.parametrize("name", BIG)
def test_two_updates_of_a_shrunk_copy(name, words_of):
    trainer = Trainer(compose([f"recipe={name}", *words_of(name), *SHRUNK]))
    before = weights_of(trainer.policy)
    for update in range(2):
        found = trainer.update(update)
        assert all(math.isfinite(value) for value in found.values())
        assert update or {found[f"guard/{kind}"] for kind in ("text", "image")} == {0.0}
    names = moved(before, weights_of(trainer.policy))
    assert names
    assert all(".lora_" in name for name in names) or trainer.config.adapter.name == "full"


@pytest.mark.parametrize(
    ("kind", "settings", "billions"),
    [
        ("SD3Transformer2DModel", sizes.SD3_5_MEDIUM, 2.47),
        ("FluxTransformer2DModel", sizes.FLUX_1, 11.90),
        ("QwenImageTransformer2DModel", sizes.QWEN_IMAGE, 20.43),
    ],
)
def test_published_sizes_have_the_published_number_of_weights(kind, settings, billions):
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights():
        made = getattr(diffusers, kind)(**settings)
    assert round(sum(tensor.numel() for tensor in made.state_dict().values()) / 1e9, 2) == billions
