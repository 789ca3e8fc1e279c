"""``model=diffusers`` from a folder: what it finds, what it refuses, and what a run asks of it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.pipelines import tiny
from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.flow.schedule import time_points
from unigrpo.models.pipelines import Diffusers, certify
from unigrpo.models.pipelines.family import Family
from unigrpo.models.pipelines.loading import longest_context
from unigrpo.models.pipelines.rows import KLEIN, SD3
from unigrpo.training.trainer import Trainer
from unigrpo.worlds.shapes.dataset import Shapes

NAME = "StableDiffusion3Pipeline"
OWN_ROW: Family = dataclasses.replace(SD3, negative="ugly")
NO_ROW = "a word"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(NAME, tmp_path_factory.mktemp("pipelines") / "sd3")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.language_model(tmp_path_factory.mktemp("thinker"))


def words(folder: Path, *more: str) -> list[str]:
    small = ["rollout.prompts=2", "rollout.group_size=2", "rollout.minibatches=1", "sampler.steps=4"]
    size = ["sampler.height=32", "sampler.width=32"]
    return ["recipe=unigrpo", "model=diffusers", f"model.path={folder}", *size, *small, *more]


def test_an_update_trains_language_model_and_transformer_and_saves_them(folder, thinker, tmp_path):
    config = compose(words(folder, f"model.language_model={thinker}", "optim.updates=1", "guidance=cfg"))
    trainer = Trainer(config)
    before = {name: weight.clone() for name, weight in trainer.policy.state_dict().items()}
    spec = trainer.rollout_spec(0)
    trajectories = trainer.rollout(0, spec)
    advantages, _ = trainer.compute_advantages(trajectories)
    advantages = [torch.linspace(-1, 1, advantage.numel()).view_as(advantage) for advantage in advantages]
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        found = trainer.train_step(trainer.prepare([trajectory], [advantage], 0, spec), spec)
    assert found["guard/text"] == 0
    assert found["guard/image"] == 0
    after = trainer.policy.state_dict()
    moved = {name.partition(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved == {"transformer", "language"}
    config.model.save(tmp_path, trainer.model)
    again = dataclasses.replace(config.model, trained=str(tmp_path))
    assert again.digest() != config.model.digest()
    loaded = again.load(torch.device("cpu"))
    for name, weight in loaded.policy.state_dict().items():
        assert torch.equal(weight, after[name])
    assert not config.conflicts()
    (fault,) = dataclasses.replace(config, model=dataclasses.replace(again, trained=str(thinker))).conflicts()
    assert "no folder transformer there; expected the folder model/ of a finished run" in fault


def test_a_pipeline_alone_is_trained_and_measured_on_what_it_could_before(folder):
    alone = ["episode.thinking=false", "modalities=image_only", "guidance=cfg"]
    kept = ["evaluation.retention=shapes", "evaluation.retention_prompts_per_tag=1", "evaluation.images_per_prompt=1"]
    small = ["evaluation.prompts_per_tag=1", "evaluation.steps=2"]
    trainer = Trainer(compose(words(folder, *alone, *kept, *small)).check())
    assert trainer.update(0)["guard/image"] == 0
    retention = trainer.evaluator.retention()
    assert retention is not None
    assert retention(trainer.policy, 1.0, 1).cost.tokens > 0


@pytest.mark.parametrize(("told", "own"), [({}, True), ({"schedule": "shift"}, False)])
def test_the_schedule_is_the_pipelines_own_or_that_of_the_run(told, own):
    loaded = dataclasses.replace(tiny.model(NAME), own_schedule=own)
    points = loaded.time_points(4, 1.0 if own else 2.0, tiny.SIDE, tiny.SIDE)
    scheduler = tiny.euler(shift=3.0)
    scheduler.set_timesteps(4)
    wanted = scheduler.sigmas.double() if own else time_points(4, 2.0)
    assert torch.equal(points, wanted)
    assert Diffusers(**told).schedule == ("own" if own else "shift")


def test_a_scheduler_of_several_steps_gives_way_to_eulers_with_its_shift():
    from diffusers import UniPCMultistepScheduler

    pipe = tiny.TINY[NAME]()
    loaded = tiny.model(NAME)
    pipe.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    swapped = tiny.assembled(Diffusers(), pipe, SD3)
    asked = (5, 1.0, tiny.SIDE, tiny.SIDE)
    assert torch.equal(swapped.time_points(*asked), loaded.time_points(*asked))


def faults(*told: str) -> str:
    return "; ".join(compose(list(told)).conflicts())


def test_what_is_not_there_is_said_while_planning(folder, tmp_path):
    assert "model.path: expected the folder of a pipeline" in faults("recipe=unigrpo", "model=diffusers")
    assert "no model_index.json there; expected a folder in diffusers' layout" in faults(*words(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in faults(*words(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipelin"}))
    assert "no row for FluxPipelin; did you mean 'FluxPipeline'?" in faults(*words(tmp_path)).replace(" (", "; ")
    text = faults(*words(folder))
    assert "the model writes no texts; use episode.thinking=false and modalities=image_only" in text
    text = faults(*words(folder, "episode=reflect"))
    assert "episode=reflect: something follows an image, which this model cannot read" in text
    text = faults(*words(folder, "sampler.shift=3", "evaluation.shift=2"))
    assert "sampler.shift=3: the pipeline has a schedule of its own" in text
    assert "evaluation.shift=2" in text
    alone = ["episode.thinking=false", "modalities=image_only"]
    assert not faults(*words(folder, *alone))
    assert not faults(*words(folder, "model.schedule=shift", "sampler.shift=3", *alone))


def test_planning_imports_neither_torch_nor_diffusers(folder):
    program = (
        "import sys; from unigrpo.compose import compose\n"
        "config = compose(sys.argv[1:]); config.conflicts(); config.model.digest()\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *words(folder)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert ran.stdout == "[]\n"


def test_a_row_of_ones_own(folder):
    assert Diffusers(path=str(folder), family=f"{__name__}:OWN_ROW").row() == OWN_ROW
    for name, fault in ((f"{__name__}:NO_ROW", "expected a Family, got str"), ("nowhere:ROW", "expected MODULE:NAME")):
        with pytest.raises(ConfigError, match=fault):
            Diffusers(path=str(folder), family=name).row()


def test_a_damaged_folder_is_named(folder, thinker, tmp_path):
    (tmp_path / "model_index.json").write_bytes((folder / "model_index.json").read_bytes())
    with pytest.raises(ConfigError, match=r"model\.path: .* cannot be read as a pipeline of diffusers"):
        Diffusers(path=str(tmp_path)).load(torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"model\.language_model=.* cannot be read as a causal language model"):
        Diffusers(path=str(folder), language_model=str(tmp_path)).load(torch.device("cpu"))


def test_a_language_model_that_is_not_there_is_said_while_planning(folder, thinker):
    assert not faults(*words(folder, f"model.language_model={thinker}"))
    said = faults(*words(folder, "model.language_model=Qwen/Qwen3-0.6B"))
    assert "model.language_model='Qwen/Qwen3-0.6B': no config.json there; expected the folder of a causal" in said


def test_a_run_whose_prompts_a_language_model_cannot_hold_does_not_start(folder, tmp_path, monkeypatch):
    prompts = {"all": [Prompt("a", "a red kite"), Prompt("b", "a boat")]}
    monkeypatch.setattr(Shapes, "prompts", lambda self, split: prompts)
    frame = len("Suser\n") + len("E\nSassistant\n")  # a token for each letter, and for each of its special words
    most = frame + len("a red kite") + 3

    def loaded(sliding_window: int):
        tiny.mistral(sliding_window).save_pretrained(tmp_path)
        tiny.qwen_tokenizer().save_pretrained(tmp_path)
        config = compose(words(folder, f"model.language_model={tmp_path}", "episode.max_thinking=3"))
        return config, config.model.load_for(config, torch.device("cpu"))

    config, model = loaded(most)
    assert longest_context(model.processor, config) == most
    model.processor.template = None
    assert longest_context(model.processor, config) == len("a red kite") + 3 + 3
    with pytest.raises(ConfigError, match=f"reads up to {most - 1} tokens, .* prompt and reply have {most}; make them"):
        loaded(most - 1)


def test_what_is_trained_is_fp32_by_default_whatever_the_files_have(folder, tmp_path):
    model = tiny.qwen3(causal=True).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    tiny.qwen_tokenizer().save_pretrained(tmp_path)
    policy = Diffusers(path=str(folder), language_model=str(tmp_path)).load(torch.device("cpu")).policy
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}


def test_all_but_the_autoencoder_can_be_bf16_and_an_outline_is_it_too(folder, thinker):
    model = Diffusers(path=str(folder), language_model=str(thinker), dtype="bfloat16")
    loaded, outline = model.load(torch.device("cpu")), model.outline(RunConfig(), torch.device("cpu"))
    for one in (loaded, outline):
        assert {weight.dtype for weight in one.policy.parameters()} == {torch.bfloat16}
        assert {weight.dtype for weight in one.policy.pipe.vae.parameters()} == {torch.float32}
    sizes = ({p.dtype for module in one.modules for p in module.parameters()} for one in (loaded, outline))
    assert next(sizes) == next(sizes)


def test_what_the_encoders_cannot_be_told_is_refused():
    with pytest.raises(ConfigError, match=r"model\.text_layers=\(1,\): StableDiffusion3Pipeline has no such choice"):
        tiny.assembled(Diffusers(text_layers=(1,)), tiny.pipeline(NAME), SD3)
    for layers, wrong in (((1, 3), 3), ((), 9)):
        with pytest.raises(ConfigError, match=f"expected layers from 0 to 2 of the text encoder, got {wrong}"):
            tiny.assembled(Diffusers(text_layers=layers), tiny.pipeline("Flux2KleinPipeline"), KLEIN)


def test_the_digest_is_of_weights_and_settings_of_both_folders(folder, thinker):
    alone, both = Diffusers(path=str(folder)), Diffusers(path=str(folder), language_model=str(thinker))
    assert alone.digest() != both.digest()
    settings = folder / "scheduler" / "scheduler_config.json"
    kept, before = settings.read_text(), alone.digest()
    try:
        settings.write_text(kept.replace("3.0", "2.5"))
        assert alone.digest() != before
    finally:
        settings.write_text(kept)


def test_the_certificate_says_what_agreed_and_a_run_says_whether_there_is_one(folder, thinker, capsys):
    model = Diffusers(path=str(folder), language_model=str(thinker))
    assert "has no parity certificate; `unigrpo certify model=diffusers" in model.remarks()[0]
    before = model.digest()
    assert certify.main(words(folder)) == 0
    assert capsys.readouterr().out.count("agrees") == 4
    assert model.digest() == before
    assert model.remarks() == []
    (other,) = dataclasses.replace(model, family=f"{__name__}:OWN_ROW").remarks()
    assert "or another row" in other
    assert f"model.family={__name__}:OWN_ROW` holds it" in other
    file = folder / "certificate.json"
    written = json.loads(file.read_text())
    assert [one["guidance_scale"] for one in written["agreements"]] == [1.0, 1.0, 3.0, 3.0]
    file.write_text(json.dumps(written | {"digest": "another"}))
    assert "is of other weights or settings" in model.remarks()[0]
    written["agreements"][2]["holds"] = False
    file.write_text(json.dumps(written))
    assert "do not end where" in model.remarks()[0]
    assert certify.main(["recipe=unigrpo"]) == 2
    assert "expected model=diffusers" in capsys.readouterr().err
