"""Nothing in a run assumes our own model: two modules of other libraries, and one file of a reader's own."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tests.models.composed import Composed, ComposedPolicy
from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.models import weights
from unigrpo.models.conformance import assert_model_conforms
from unigrpo.rewards import ImageReward
from unigrpo.training.runner import run
from unigrpo.training.trainer import Trainer

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_model.py"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Redness(ImageReward):
    component_names: ClassVar[tuple[str, ...]] = ("red",)
    component_weights: ClassVar[tuple[float, ...]] = (1.0,)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return 10 * images[:, 0].mean((1, 2))[:, None]


def config_of(folder: Path, *words: str) -> RunConfig:
    """Two updates of UniGRPO on prompts in a text file, with a reward that no judge gives."""
    (folder / "prompts.txt").write_text("\n".join(f"a red kite over {place}" for place in "ABCDEFGHIJKL"))
    small = ["optim.updates=2", "rollout.prompts=2", "rollout.group_size=2", "rollout.minibatches=1", "sampler.steps=4"]
    small += ["episode.max_thinking=5", "evaluation.prompts_per_tag=1", "evaluation.images_per_prompt=2"]
    small += ["evaluation.steps=2", "optim.text_lr=1e-3", "optim.image_lr=1e-3"]
    data = ["dataset=text_file", f"dataset.path={folder}/prompts.txt"]
    config = compose([*data, "reward=proxy", *small, *words])
    return replace(config, reward=Redness()).check()


def test_a_causal_lm_and_a_dit_conform():
    assert_model_conforms(Composed(tied=True), ("a red kite", "a boat"))


def test_they_are_trained_evaluated_and_saved(tmp_path):
    config = config_of(tmp_path, "model=tests.models.composed.Composed", "model.tied=true", "guidance=cfg")
    result = run(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["guard/text"] == rows[0]["guard/image"] == 0, "replay repeats the rollout bit for bit"
    assert rows[0]["grad/text"] > 0
    assert rows[0]["grad/image"] > 0
    assert result["metrics"]["drift/text_kl"] > 0
    assert result["metrics"]["drift/latent_kl"] > 0
    before = Composed(tied=True).load(CPU).policy.state_dict()
    after = weights.read(tmp_path / "run" / "model" / "model.safetensors")
    assert torch.equal(after["lm.lm_head.weight"], after["lm.model.embed_tokens.weight"])
    assert before.keys() == after.keys()
    assert (tmp_path / "run" / "model" / "tokenizer.json").is_file(), "a save of one's own finds its folder"
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"lm", "dit"}, "no image enters a context here, so that the connector learns nothing"


def test_images_have_the_size_that_is_asked_for(tmp_path):
    trainer = Trainer(config_of(tmp_path, "model=composed", "sampler.height=16", "sampler.width=24"))
    (trajectory,) = trainer.rollout(0, trainer.rollout_spec(0))
    assert trajectory.image.latents.shape[1:] == (3, 2, 3)
    assert trainer.evaluator.processor.decode(trajectory).images[0][1].pixels.shape[2:] == (16, 24)
    own = Trainer(config_of(tmp_path, "model=composed"))
    assert own.evaluator.set_hash != trainer.evaluator.set_hash


@pytest.mark.parametrize(
    ("words", "copies"),
    [
        (["regularizer=none", "text_kl=none", "evaluation.drift=false"], False),
        (["regularizer=none", "text_kl=none"], True),
        (["evaluation.drift=false"], True),
    ],
)
def test_a_reference_is_kept_only_where_it_is_wanted(tmp_path, words, copies):
    trainer = Trainer(config_of(tmp_path, "model=composed", *words))
    assert (trainer.reference is not None) == copies
    assert trainer.reference is not trainer.policy
    assert copies or "drift/latent_kl" not in trainer.update(0)


@pytest.mark.parametrize(("frozen", "trained"), [("image", "text"), ("text", "image")])
def test_a_modality_without_anything_to_train_is_refused_before_training(tmp_path, monkeypatch, frozen, trained):
    own = ComposedPolicy.parameters_of
    monkeypatch.setattr(ComposedPolicy, "parameters_of", lambda self, m: () if m == frozen else own(self, m))
    with pytest.raises(ConfigError, match=rf"modalities=joint: .* trainable parameter of {frozen}s, .*{trained}_only"):
        Trainer(config_of(tmp_path, "model=composed"))
    Trainer(config_of(tmp_path, "model=composed", f"modalities={trained}_only"))
    Trainer(config_of(tmp_path, "model=composed", "optim.updates=0"))


def test_nothing_is_copied_for_a_model_that_is_only_evaluated(tmp_path):
    trainer = Trainer(config_of(tmp_path, "model=composed", "optim.updates=0"))
    assert trainer.reference is trainer.policy


def test_the_model_of_the_page_is_one_file_and_conforms_and_trains(tmp_path, monkeypatch):
    shutil.copy(EXAMPLE, tmp_path / "my_model.py")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_model")
    assert_model_conforms(module.MyModel(), ("a red circle", "a kite"))
    run(config_of(tmp_path, "model=my_model.MyModel"), tmp_path / "first")
    first = json.loads((tmp_path / "first" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["guard/text"] == first["guard/image"] == 0
    assert first["grad/text"] > 0
    left = tmp_path / "first" / "model"
    on = config_of(tmp_path, "model=my_model.MyModel", f"model.weights={left}")
    kept, begun = weights.read(left / "model.safetensors"), Trainer(on).policy.state_dict()
    assert all(torch.equal(begun[name], weight) for name, weight in kept.items()), "it goes on from what was trained"
    assert on.model.digest() != module.MyModel().digest()
    with pytest.raises(ConfigError, match=r"MyModel: model\.weights=nowhere: .* no nowhere/model\.safetensors"):
        config_of(tmp_path, "model=my_model.MyModel", "model.weights=nowhere")
    with pytest.raises(ConfigError, match=r"the weights cannot be read .*nowhere/model\.safetensors"):
        module.MyModel(weights="nowhere").digest()


def test_the_package_imports_no_model_library_at_the_top():
    """Each takes seconds, of which every worker of a sweep would wait."""
    heavy = {"transformers", "diffusers"}
    for path in (EXAMPLE.parents[1] / "unigrpo").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & heavy, path
