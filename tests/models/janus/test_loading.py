"""``model=janus`` from a folder: what it finds, what it refuses, what a run trains and leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.janus import tiny
from unigrpo.compose import compose
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.models import Janus, LoadedModel
from unigrpo.models.policy import Policy
from unigrpo.training.trainer import Trainer

CPU = torch.device("cpu")
TOKENS = ["image_head=tokens", "dynamics=ode", "image_ratio=raw", "regularizer=none"]
SMALL = ["rollout.prompts=2", "rollout.group_size=2", "rollout.minibatches=1", "episode.max_thinking=6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("janus") / "tiny")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def words(folder: Path, *more: str) -> list[str]:
    return ["recipe=unigrpo", "model=janus", f"model.path={folder}", *TOKENS, *SMALL, *more]


def updated(trainer: Trainer) -> tuple[dict[str, float], set[str]]:
    """What the first step of an update measured, and which parts of the model it moved."""
    before = {name: weight.clone() for name, weight in trainer.policy.state_dict().items()}
    spec = trainer.rollout_spec(0)
    (trajectory,) = trainer.rollout(0, spec)
    advantages, _ = trainer.compute_advantages([trajectory])
    advantage = torch.linspace(-1, 1, advantages[0].numel()).view_as(advantages[0])
    found = trainer.train_step(trainer.prepare([trajectory], [advantage], 0, spec), spec)
    after = trainer.policy.state_dict()
    moved = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    return found, {name.removeprefix("language.model.").removeprefix("model.").partition(".")[0] for name in moved}


PAINTING = {"language_model", "generation_embeddings", "generation_aligner", "generation_head"}


def test_an_update_of_both_modalities_begins_at_ratio_1_and_leaves_a_folder_to_go_on_from(folder, tmp_path):
    config = compose(words(folder, "optim.updates=1", "guidance=cfg", "optim.context_grad=true"))
    trainer = Trainer(config)
    found, moved = updated(trainer)
    assert found["guard/text"] == found["guard/image"] == 0
    assert moved == {*PAINTING, "lm_head"}
    config.model.save(tmp_path, trainer.model)
    again = Janus(path=str(tmp_path)).load(CPU)
    assert all(map(torch.equal, again.policy.state_dict().values(), trainer.policy.state_dict().values()))
    prompts = [Prompt("a", "a red cube")]
    assert torch.equal(again.processor.encode(prompts)[0].tokens, trainer.model.processor.encode(prompts)[0].tokens)


def test_an_update_of_images_alone_trains_the_backbone_too(folder):
    alone = ["modalities=image_only", "episode.thinking=false", "optim.updates=1"]
    trainer = Trainer(compose(words(folder, *alone)))
    found, moved = updated(trainer)
    assert found["guard/image"] == 0
    assert moved == PAINTING
    assert not trainer.policy.janus.lm_head.weight.requires_grad


@torch.no_grad()
def code_logits(model: LoadedModel, policy: Policy | None = None) -> torch.Tensor:
    policy = policy or model.policy
    context, alive = policy.start(1), torch.ones(1, dtype=torch.bool)
    return policy.extend_codes(context, torch.tensor([[tiny.CODES, 5, 6]]), alive)[0]


def test_an_update_of_matrices_beside_its_layers_leaves_a_folder_without_them(folder, tmp_path):
    config = compose(words(folder, "optim.updates=1", "adapter=lora", "adapter.rank=2", "optim.image_lr=0.01"))
    trainer = Trainer(config)
    before = code_logits(trainer.model)
    found, moved = updated(trainer)
    assert found["guard/text"] == found["guard/image"] == 0
    assert moved == PAINTING - {"generation_embeddings"} | {"lm_head"}
    after = code_logits(trainer.model)
    assert not torch.equal(after, before)
    assert torch.equal(code_logits(trainer.model, trainer.model.reference()), before)
    config.adapter.save(tmp_path, config.model, trainer.model)
    again = Janus(path=str(tmp_path / "model")).load(CPU)
    torch.testing.assert_close(code_logits(again), after, atol=1e-5, rtol=0)


def faults(*told: str) -> str:
    return "; ".join(compose(list(told)).conflicts())


def test_what_is_not_there_or_cannot_be_is_said_while_planning(folder, tmp_path):
    assert "model.path: expected the folder of a Janus" in faults("recipe=unigrpo", "model=janus")
    assert "no config.json there; expected a folder of transformers' Janus" in faults(*words(tmp_path))
    config = tmp_path / "config.json"
    for content, fault in (
        ("{", "config.json cannot be read"),
        ("[]", "config.json cannot be read"),
        ('{"model_type": "multi_modality"}', "expected model_type 'janus' in config.json, got 'multi_modality'"),
    ):
        config.write_text(content)
        assert fault in faults(*words(tmp_path))
    assert not faults(*words(folder))
    assert "images that are painted in tokens have one size only" in faults(
        *words(folder, "sampler.height=8", "sampler.width=8")
    )
    assert "something follows an image, which this model cannot read" in faults(*words(folder, "episode=reflect"))
    assert "use image_head=tokens" in faults("recipe=unigrpo", "model=janus", f"model.path={folder}")


def test_planning_imports_neither_torch_nor_transformers(folder):
    program = (
        "import sys; from unigrpo.compose import compose\n"
        "config = compose(sys.argv[1:]); config.conflicts(); config.model.digest()\n"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *words(folder)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert ran.stdout == "[]\n"


def test_the_digest_is_of_weights_and_settings(copied):
    model = Janus(path=str(copied))
    found = [model.digest()]
    for name in ("chat_template.jinja", "tokenizer_config.json", "model.safetensors"):
        file = copied / name
        file.write_bytes(file.read_bytes() + b" ")
        found.append(model.digest())
    assert len(set(found)) == 4


def test_a_damaged_folder_is_named(copied):
    weights, settings = copied / "model.safetensors", copied / "tokenizer_config.json"
    model, kept = Janus(path=str(copied)), load_file(weights)
    save_file({k: v for k, v in kept.items() if "generation_head.proj_out" not in k}, weights, {"format": "pt"})
    fault = r"2 weights are missing, such as model\.generation_head\.proj_out\.bias"
    with pytest.raises(ConfigError, match=fault):
        model.load(CPU)
    weights.write_bytes(b"{}")
    with pytest.raises(ConfigError, match="cannot be read as a Janus"):
        model.load(CPU)
    save_file(kept, weights, {"format": "pt"})
    named = json.loads(settings.read_text())
    settings.write_text(json.dumps({k: v for k, v in named.items() if k not in ("boi_token", "extra_special_tokens")}))
    with pytest.raises(ConfigError, match=r"names no boi_token; expected all of .*tokenizer_config\.json"):
        model.load(CPU)
    settings.write_text(json.dumps(named))
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="expected a chat template"):
        model.load(CPU)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (copied / file).unlink()
    with pytest.raises(ConfigError, match=r"model\.path: .* has no tokenizer that can be read"):
        model.load(CPU)


def test_a_tokenizer_of_another_model_is_refused(folder):
    from unigrpo.models.janus import loading

    own = tiny.model()
    own.config.text_config.vocab_size = 100
    with pytest.raises(ConfigError, match="the tokenizer there is not of its model: the tokenizer has 264 tokens"):
        loading.assembled(own, tiny.words(), tiny.CHAT)


def test_a_system_prompt_stands_before_every_request(folder):
    loaded = Janus(path=str(folder), system_prompt="Plan the picture.").load(CPU, torch.bfloat16)
    assert loaded.policy.janus.dtype == torch.bfloat16
    (request,) = loaded.processor.encode([Prompt("a", " a red cube ")])
    text = loaded.processor.tokenizer.inner.decode(request.tokens[0].tolist(), skip_special_tokens=False)
    assert text == "System: Plan the picture.\n\n<|User|>: a red cube\n\n<|Assistant|>"
    ids = loaded.processor.ids
    assert (ids.prompt, ids.image, ids.pad) == tuple(map(tiny.SPECIAL.index, (tiny.BOS, tiny.BOI, tiny.PAD)))
    assert loaded.processor.tokenizer.inner.decode([ids.bos]) == ":"
