"""Training by LoRA, start to end: the first ratio, what moves, checkpoints, what a run leaves, and where it goes on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.models.composed import Composed
from tests.models.test_composed import config_of as composed_config
from tests.training import runs
from tests.training.runs import config_of, moved, product, weights_of
from unigrpo.compose import compose
from unigrpo.errors import ConfigError, Stopped
from unigrpo.models import weights
from unigrpo.models.adapters import lora
from unigrpo.models.mot import checkpoint
from unigrpo.training import runner
from unigrpo.training.runner import run
from unigrpo.training.state import read_latest
from unigrpo.training.trainer import Trainer

LORA = {"name": "lora", "rank": 2, "alpha": 4}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tiny_checkpoint):
    return config_of(adapter=LORA, optim={"updates": 2, "text_lr": 0.01, "image_lr": 0.01})


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """An uninterrupted run and its result."""
    folder = tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CHECKPOINT_EVERY", 1)
        return folder, run(config, folder)


def test_first_log_ratios_are_exactly_0_and_so_is_the_first_drift(config):
    found = Trainer(config).update(0)
    assert found["guard/text"] == found["guard/image"] == 0.0
    assert found["drift/latent_kl"] == found["drift/velocity_mse"] == 0.0
    assert found["grad/text"] > 0
    assert found["grad/image"] > 0


def test_first_log_ratios_of_two_libraries_modules_are_exactly_0(tmp_path):
    words = ["model=composed", "model.tied=true", "guidance=cfg", "adapter=lora", "adapter.rank=2"]
    trainer = Trainer(composed_config(tmp_path, *words))
    before = weights_of(trainer.policy)
    found = trainer.update(0)
    assert found["guard/text"] == found["guard/image"] == 0.0
    names = moved(before, weights_of(trainer.policy))
    assert {name.partition(".")[0] for name in names} == {"lm", "dit"}
    assert all(name.endswith(".lora_B.default.weight") for name in names), "A moves once B is not 0"


@pytest.mark.parametrize(("alone", "kept"), [("text_only", "moe_gen"), ("image_only", "lm_head")])
def test_only_matrices_of_the_trained_modality_move(config, alone, kept):
    trainer = Trainer(config_of(adapter=LORA, modalities=alone))
    before = weights_of(trainer.policy)
    trainer.update(0)
    trainer.update(1)
    names = moved(before, weights_of(trainer.policy))
    assert names
    assert all(".lora_" in name for name in names)
    assert not [name for name in names if kept in name]
    frozen = {name: tensor for name, tensor in before.items() if ".lora_" not in name}
    plain = checkpoint.load(runs.CHECKPOINT).policy.state_dict()
    assert all(torch.equal(frozen[name if name in frozen else _inner(name)], plain[name]) for name in plain)


def _inner(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{layer}.base_layer.{kind}"


def test_a_checkpoint_holds_the_matrices_and_their_moments_alone(config, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 1)
    with pytest.raises(Stopped):
        run(config, tmp_path, stop=lambda: True)
    saved = read_latest(tmp_path / "checkpoint")
    names = {name.removeprefix("policy.") for name in saved.tensors if name.startswith("policy.")}
    trained = {name for name, p in Trainer(config).policy.named_parameters() if p.requires_grad}
    assert names == trained
    assert {name.split(".", 2)[2] for name in saved.tensors if name.startswith("optimizer.")} <= trained


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(whole, config, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 1)
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", stop=lambda: True)
    run(config, tmp_path / "run")
    folder, _ = whole
    assert product(tmp_path / "run") == product(folder)


def test_a_run_leaves_the_matrices_and_the_model_with_them_inside(whole):
    folder, _ = whole
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    start, left = (checkpoint.load(place).policy.state_dict() for place in (runs.CHECKPOINT, str(folder / "model")))
    assert start.keys() == left.keys(), "a checkpoint like any other, which needs no peft"
    matrices = load_file(folder / "adapter" / "adapter_model.safetensors")
    for name in moved(start, left):
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        product_ = matrices[f"{layer}.lora_B.weight"] @ matrices[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(left[name] - start[name], 4 / 2 * product_, rtol=0, atol=1e-6)
    assert len(moved(start, left)) > len(matrices) / 4


def test_the_model_it_leaves_measures_like_the_one_that_was_trained(whole, tmp_path):
    folder, result = whole
    name = "heldout/distance_to_clean"  # of pictures, without any threshold
    untouched, left = (
        run(config_of(model={"name": "mot", "checkpoint": place}, optim={"updates": 0}), tmp_path / str(k))["metrics"][
            name
        ]
        for k, place in enumerate((runs.CHECKPOINT, str(folder / "model")))
    )
    trained = result["metrics"][name]
    assert untouched != trained
    assert abs(left - trained) < 0.01 * abs(untouched - trained)


def test_a_run_goes_on_from_the_adapter_of_another(whole, config):
    folder, _ = whole
    trainer = Trainer(config_of(adapter={**LORA, "start": str(folder / "adapter")}))
    mine = {name: p for name, p in trainer.policy.named_parameters() if p.requires_grad}
    theirs = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert len(mine) == len(theirs)
    for name, parameter in mine.items():
        assert torch.equal(parameter, theirs[f"base_model.model.{name.replace('.default', '')}"])
    found = trainer.update(0)
    assert found["guard/text"] == found["guard/image"] == found["drift/velocity_mse"] == 0.0


def test_modules_of_two_libraries_are_trained_and_left_each_by_itself(tmp_path):
    words = ["model=composed", "model.tied=true", "adapter=lora", "adapter.rank=2", "optim.updates=1"]
    run(composed_config(tmp_path, *words), tmp_path / "run")
    assert {path.parent.name for path in (tmp_path / "run" / "adapter").rglob("adapter_config.json")} == {
        "adapter", "lm", "dit",
    }  # fmt: skip
    left = weights.read(tmp_path / "run" / "model" / "model.safetensors")
    before = Composed(tied=True).load(CPU).policy.state_dict()
    assert left.keys() == before.keys()
    assert {name.partition(".")[0] for name in moved(before, left)} == {"lm", "dit"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["adapter"]["rank"] == 2


def test_without_peft_a_plan_names_the_extra(monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"adapter=lora: the package peft is not installed; pip install 'unigrpo\[lo"):
        compose(["adapter=lora", "optim.updates=0"]).check()
    compose([]).check()


def test_new_words_that_would_never_be_trained_are_refused():
    words = ["model.new_words=true", "optim.updates=1"]
    compose(words).check()
    with pytest.raises(ConfigError, match=r"new_words=true adds .* and adapter=lora leaves them so; use adapter=full"):
        compose([*words, "adapter=lora"]).check()


def test_a_start_that_is_not_there_is_refused_while_planning(tmp_path):
    with pytest.raises(ConfigError, match=r"adapter=lora: start=.*nowhere: expected the folder adapter/ of a run"):
        compose(["adapter=lora", f"adapter.start={tmp_path}/nowhere"]).check()
