"""What a run needs: estimates against what PyTorch's allocator hands out while the real trainer works."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.models import tiny
from tests.models.pipelines import tiny as pipelines
from tests.training import runs
from unigrpo.errors import ConfigError
from unigrpo.models.model import LoadedModel, Model
from unigrpo.models.mot import checkpoint
from unigrpo.models.mot.configuration import BAGEL_7B_MOT
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.training.estimate import command
from unigrpo.training.estimate.needs import Estimate, estimate
from unigrpo.training.trainer import Trainer

SIZES = {"prompts": 4, "group_size": 4, "minibatches": 2}
#: Of what the allocator hands out: kernels take a little for themselves, as the estimate's page says.
WITHIN = 0.08


class Patient(Rollout):
    """Texts go on to their limit, token by token."""

    def __init__(self, policy: Any, spec: RolloutSpec, batch: int, **settings: Any):
        super().__init__(policy, replace(spec, eos=-1), batch, **settings)


class PatientTrainer(Trainer):
    def start(self, spec: RolloutSpec, batch: int) -> Rollout:
        return Patient(self.policy, spec, batch)


def _bytes(tensors: Any) -> int:
    return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _peak(work: Any) -> int:
    """The most bytes that the allocator has handed out at a time, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measured(config: Any) -> tuple[dict[str, int], Trainer]:
    """The peaks of a first update and of a guided evaluation that follows."""
    trainer = PatientTrainer(config)
    trainer.evaluator.rollouts = Patient
    copies = [one for one in (trainer.reference,) if isinstance(one, torch.nn.Module)]
    weights = [
        tensor for module in (*trainer.model.modules, *copies) for tensor in (*module.parameters(), *module.buffers())
    ]
    update = _bytes(weights) + _peak(lambda: trainer.update(0))
    gradients = [p.grad for found in trainer.parameters.values() for p in found if p.grad is not None]
    states = [tensor for state in trainer.optimizer.state.values() for tensor in state.values()]

    def evaluate() -> None:
        settings = config.evaluation
        batch = trainer.evaluator.first_batch(trainer.policy, settings.guidance_scale, settings.images_per_prompt)
        trainer.evaluator.processor.decode(batch)

    return {"update": update, "evaluation": _bytes([*weights, *gradients, *states]) + _peak(evaluate)}, trainer


def check(found: Estimate, config: Any) -> None:
    peaks, trainer = measured(config)
    assert max(found.peaks[name] for name in found.peaks if name != "evaluation") == pytest.approx(
        peaks["update"], rel=WITHIN
    )
    assert found.peaks["evaluation"] == pytest.approx(peaks["evaluation"], rel=WITHIN)
    counted = {name: trainer.cost[f"nfe_{name}"] for name in found.velocities}
    assert (found.velocities, found.images) == (counted, trainer.cost["images"])


@pytest.fixture(autouse=True)
def one_layer(tmp_path, monkeypatch):
    """A random checkpoint of one layer: an estimate takes time for every operation."""
    checkpoint.save(tmp_path / "one", tiny.model(num_hidden_layers=1))
    monkeypatch.setattr(runs, "CHECKPOINT", str(tmp_path / "one"))


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": "lora", "guidance": "cfg", "optim": {"precision": "bf16"}},
        {"algorithm": "awm", "dynamics": "ode"},
        runs.TOKENS,
    ],
    ids=["lora, guided, bf16", "awm, two epochs", "codes"],
)
def test_memory_and_velocities_are_those_of_an_update(changes):
    if changes.get("algorithm"):
        changes = changes | {"rollout": SIZES | {"epochs": 2}}
    config = runs.config_of(**{"rollout": SIZES, "evaluation": {"images_per_prompt": 8}} | changes)
    check(estimate(config), config)


@pytest.fixture
def pipeline(tmp_path):
    """A short run of a pipeline behind a language model."""
    (tmp_path / "prompts.txt").write_text("".join(f"{n} red cubes\n" for n in range(20)))
    settings = {
        "name": "diffusers",
        "path": str(pipelines.saved("StableDiffusion3Pipeline", tmp_path / "sd3")),
        "language_model": str(pipelines.language_model(tmp_path / "qwen3")),
    }
    dataset = {"name": "text_file", "path": str(tmp_path / "prompts.txt")}
    return runs.config_of(model=settings, dataset=dataset, rollout=SIZES, train_metrics=[], metrics=["lengths"])


def test_memory_is_that_of_a_pipeline_behind_a_language_model(pipeline):
    check(estimate(pipeline), pipeline)


def test_no_weights_of_a_pipeline_are_read(pipeline, tmp_path):
    loaded = pipeline.model.load(torch.device("cpu"))
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    outline = pipeline.model.outline(pipeline, torch.device("cpu"))
    assert all(p.is_meta for module in outline.modules for p in module.parameters())
    for mine, theirs in zip(outline.modules, loaded.modules, strict=True):
        assert type(mine) is type(theirs)
        shapes = ({n: (p.shape, p.dtype) for n, p in one.named_parameters()} for one in (mine, theirs))
        assert next(shapes) == next(shapes)


def test_parts_are_sums_over_parameters_and_texts_have_all_their_tokens():
    settings = {"modalities": "image_only", "regularizer": "none", "text_kl": "none", "evaluation": {"drift": False}}
    config = runs.config_of(**settings, rollout=SIZES, episode={"max_thinking": 5})
    found = estimate(config)
    policy = config.model.load(torch.device("cpu")).policy
    trained = sum(p.numel() for p in policy.parameters_of("image"))
    whole = sum(p.numel() for p in policy.parameters())
    assert found.parameters == {"policy": whole, "trained, image": trained}
    # A step count besides for each parameter.
    steps = 4 * len(list(policy.parameters_of("image")))
    parts = {name: found.parts[name] for name in ("weights", "gradients", "optimiser")}
    assert parts == {"weights": 4 * whole, "gradients": 4 * trained, "optimiser": 8 * trained + steps}
    assert "reference" not in found.parts
    assert (found.images, found.tokens) == (16, 16 * 5)
    # Keys and values of the longer of two prompts, of the text, and of the token that begins each; 8 rows.
    sizes = policy.config
    token = 8 * 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * 4
    trainer = Trainer(config)
    (prompts,) = trainer.evaluator.encode(trainer.prompts(0)[:2])
    places = prompts.tokens.shape[1] + 1 + 5 + 1
    # And which of them hold, and the position of the next.
    assert found.contexts == token * places + 8 * places + 8 * 8


@pytest.fixture
def bagel(tmp_path):
    """BAGEL's widths in one of its 28 layers, with latents of 512 x 512 pixels; a folder without weights."""
    shutil.copytree(runs.CHECKPOINT, tmp_path / "bagel")
    (tmp_path / "bagel" / "model.safetensors").unlink()
    own = json.loads((tmp_path / "bagel" / "config.json").read_text())
    ids = {key: value for key, value in own.items() if key.endswith("_id")}
    sizes = BAGEL_7B_MOT | ids | {"num_hidden_layers": 1, "latent_channels": own["latent_channels"]}
    (tmp_path / "bagel" / "config.json").write_text(json.dumps(sizes | {"latent_size": (64, 64)}))
    return runs.config_of(model={"name": "mot", "checkpoint": str(tmp_path / "bagel")})


def test_sizes_of_seven_billion_take_no_memory(bagel):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = estimate(bagel)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
    hidden, wide, head, kv = 3584, 18944, 128, 4 * 128
    expert = 2 * hidden * hidden + hidden + 2 * (hidden + 1) * kv + 3 * hidden * wide + 2 * head + 2 * hidden
    assert found.parameters["policy"] == pytest.approx(2 * expert + 2 * 152064 * hidden, rel=0.03)
    assert found.peak > 2**33


@dataclass(frozen=True)
class Undecided(Model):
    """A model that cannot be had without looking at values."""

    checkpoint: str = ""

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
        loaded = checkpoint.load(self.checkpoint, device)
        velocity = loaded.policy.velocity
        loaded.policy.velocity = lambda context, x, t: velocity(context, x, t) * len(velocity(context, x, t).unique())
        return loaded


def test_what_no_estimate_can_know_is_refused():
    config = replace(runs.config_of(), model=Undecided(runs.CHECKPOINT))
    with pytest.raises(ConfigError, match="decides by the values of tensors"):
        estimate(config)
    with pytest.raises(ConfigError, match=r"optim.updates=0"):
        estimate(runs.config_of(optim={"updates": 0}))


FOUND = Estimate({"policy": 3}, {"weights": 2**30}, {"update": 79 * 2**30}, 5, 6, 7, {"train": 8})


@pytest.fixture
def asked(monkeypatch):
    """Configurations that an estimate was asked for."""
    heard = []
    monkeypatch.setattr("unigrpo.training.estimate.needs.estimate", lambda config: heard.append(config) or FOUND)
    return heard


def test_the_command_says_it_all_and_whether_it_fits(asked, capsys):
    assert command.main(["recipe=unigrpo", "gpu_gb=80", "optim.updates=3"]) == 0
    told = capsys.readouterr().out
    assert asked[0].optim.updates == 3
    assert "does not fit on a GPU of 80 GiB: 79.00 GiB of 80.00 GiB" in told
    assert "6 images, at most 7 tokens" in told
    assert command.main(["recipe=unigrpo", "gpu_gb=88"]) == 0
    assert "\nfits on a GPU of 88 GiB" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["", "big", "0", "-3", "nan"])
def test_a_gpu_of_no_size_is_refused(size):
    with pytest.raises(ConfigError, match="gpu_gb"):
        command.main(["recipe=unigrpo", f"gpu_gb={size}"])


def test_a_sweep_asks_once_for_every_arm_that_trains(asked, capsys, tmp_path):
    from ablations.sweep import main

    assert main(["grid=cfg_vs_cfg_free", "preset=small", "action=estimate", f"root={tmp_path / 'runs'}"]) == 0
    arms = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert arms[:2] == ["cfg_free", "cfg"]
    assert len(asked) == len(arms)
    assert "untouched" not in arms
    assert not (tmp_path / "runs").exists()
