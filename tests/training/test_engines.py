"""Engines: the gradients of one process and of whole minibatches, whoever computes them and in which parts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from tests.models.pipelines import tiny as tiny_pipelines
from tests.models.test_composed import config_of as composed_config
from tests.training.processes import together
from tests.training.runs import ROUNDS, TOKENS, Brightness, config_of, product
from unigrpo.compose import compose
from unigrpo.errors import CheckpointError, ConfigError, Stopped
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, StepScore, TextScore, TextSegment, Trajectory
from unigrpo.training import evaluation
from unigrpo.training.engines import Ddp, Fsdp
from unigrpo.training.gap import Gauge
from unigrpo.training.runner import run
from unigrpo.training.state import Share, read_latest
from unigrpo.training.trainer import Trainer

FOUR = {"rollout": {"prompts": 4, "group_size": 4}}


@dataclass(frozen=True)
class Lot(Brightness):
    """A reward of no picture, hence of no last bits, in groups of four: the text's and the place's in its group."""

    def score(self, images, prompts):
        values = [math.sin(k % 4 + len(prompt.text)) for k, prompt in enumerate(prompts)]
        return torch.tensor(values, dtype=torch.float32)[:, None]


#: Changes to the short run by what is particular about them.
RUNS = {
    "pictures": {"reward": Lot()},
    "guided, in token mean": {
        "reward": Lot(),
        "guidance": "cfg", "aggregation": "token_mean", "optim": {"context_grad": True},
        "window": {"name": "random_window", "size": 2, "low": 0, "high": 3},
    },
    "LoRA": {"reward": Lot(), "adapter": {"name": "lora", "rank": 2}},
    "stories of unlike lengths": ROUNDS["interleaved"],
    "a tree": ROUNDS["tree"],
    "codes": {**ROUNDS["codes"], "image_head": "tokens"},
    "matching": {"algorithm": "awm", "image_ratio": "ratio_norm"},
}  # fmt: skip
#: The engines that two processes try.
SHARED = {
    "ddp": Ddp(),
    "fsdp": Fsdp(),
    "fsdp, gathered at every step": Fsdp(gather_once=False, checkpoint_activations=True),
    "fsdp in parts": Fsdp(micro_batch=2),
}


def case(name, tmp_path=None):
    if name == "two modules":
        words = ["model=tests.models.composed.Composed", "guidance=cfg", "rollout.prompts=4", "rollout.group_size=4"]
        return replace(composed_config(tmp_path, *words), reward=Lot())
    return config_of(**{**FOUR, **RUNS[name]})


def pipeline(name, folder, *told):
    """A pipeline with a language model before it, or its own text encoder."""
    words = ["recipe=unigrpo", "model=diffusers", f"model.path={tiny_pipelines.saved(name, folder)}", *told]
    words += ["guidance=cfg", "rollout.prompts=4", "rollout.group_size=4", "rollout.minibatches=1", "sampler.steps=3"]
    words += ["evaluation.prompts_per_tag=1", "evaluation.images_per_prompt=1", "window.low=0", "window.high=3"]
    size = [f"sampler.{side}={tiny_pipelines.SIDE}" for side in ("height", "width")]
    return replace(compose([*words, *size, "episode.max_thinking=6"]), reward=Lot()).check()


def gradients_of(config):
    """What the first optimiser step would be made of, and what is logged of that update."""
    trainer, found = Trainer(config), {}
    whole = {False: lambda gradient: gradient.clone(), True: DTensor.full_tensor}

    def step():
        for name, parameter in trainer.policy.named_parameters():
            if parameter.grad is not None:
                found[name] = whole[isinstance(parameter.grad, DTensor)](parameter.grad)

    trainer.optimizer.step = step
    metrics = trainer.update(0)
    return found, metrics, trainer.accelerator.is_main_process


def write_gradients(config, engines, folder):
    for name, engine in engines.items():
        found, metrics, is_main = gradients_of(replace(config, engine=engine).check())
        if is_main:
            save_file(found, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(metrics))


def distance(found, expected):
    """The largest difference of an entry, where the whole gradient has a norm of 1; none is 0."""
    assert expected.keys() <= found.keys()
    size = torch.stack([tensor.norm() for tensor in expected.values()]).norm().item()
    return max((found[name] - expected.get(name, 0)).abs().max().item() for name in found) / size


@pytest.mark.parametrize("size", [2, 8], ids=["parts of groups", "groups"])
@pytest.mark.parametrize("name", RUNS)
def test_a_minibatch_in_parts_has_the_gradients_of_the_whole(name, size):
    config = case(name)
    whole, told, _ = gradients_of(config)
    found, metrics, _ = gradients_of(replace(config, engine=Ddp(micro_batch=size)))
    assert distance(found, whole) < 1e-6
    assert metrics["guard/text"] == metrics["guard/image"] == 0
    assert metrics["train/reward"] == told["train/reward"]
    assert metrics["loss/text"] == pytest.approx(told["loss/text"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["pictures", "guided, in token mean", "stories of unlike lengths"])
def test_a_minibatch_that_is_sampled_group_by_group_has_the_gradients_of_the_whole(name):
    config = case(name)
    whole, told, _ = gradients_of(replace(config, reward=Lot()))
    trainer = Trainer(replace(config, engine=Ddp(rollout_batch=4)))
    assert [len(t.prompts) for t in trainer.rollout(0, trainer.rollout_spec(0))] == [1, 1, 1, 1]
    found, metrics, _ = gradients_of(replace(config, reward=Lot(), engine=Ddp(rollout_batch=4, micro_batch=2)))
    assert distance(found, whole) < 1e-6
    assert metrics["guard/text"] == metrics["guard/image"] == 0
    assert metrics["train/reward"] == pytest.approx(told["train/reward"])


def test_denoising_steps_one_at_a_time_have_the_gradients_of_all():
    config = case("guided, in token mean")
    whole, told, _ = gradients_of(config)
    found, metrics, _ = gradients_of(replace(config, engine=Ddp(micro_batch=4, micro_steps=1)))
    assert distance(found, whole) < 1e-6
    assert metrics["guard/text"] == metrics["guard/image"] == 0
    assert {name for name in told if name.startswith("image/ratio")} <= metrics.keys()
    assert metrics["loss/text"] == pytest.approx(told["loss/text"], rel=1e-4)


@pytest.mark.parametrize("name", ["pictures", "LoRA", "stories of unlike lengths"])
def test_to_compute_activations_again_changes_no_bit(name):
    whole, _, _ = gradients_of(case(name))
    found, _, _ = gradients_of(replace(case(name), engine=Ddp(checkpoint_activations=True)))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["pictures", "LoRA", "guided, in token mean", "stories of unlike lengths", "two modules"]
)
def test_two_processes_have_the_gradients_of_one(tmp_path, name):
    """Episodes end earlier in one of them, so that one which did not keep step would wait for ever."""
    config = case(name, tmp_path)
    whole, told, _ = gradients_of(config)
    together(2, write_gradients, config, SHARED, tmp_path)
    for engine in SHARED:
        assert distance(load_file(tmp_path / f"{engine}.safetensors"), whole) < 1e-6, engine
        metrics = json.loads((tmp_path / f"{engine}.json").read_text())
        assert metrics["guard/text"] == metrics["guard/image"] == 0, engine
        for shown in ("train/reward", "grad/text", "grad/image"):
            assert metrics[shown] == pytest.approx(told[shown], rel=1e-5), (engine, shown)


def interrupted(config, folder):
    with pytest.raises(Stopped):
        run(config, folder, stop=lambda: True)
    run(config, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pictures", "LoRA"])
def test_a_run_in_parts_that_is_stopped_ends_in_the_bytes_of_one_that_is_not(tmp_path, monkeypatch, name):
    monkeypatch.setattr(evaluation, "_ROWS", 2)  # several batches, and not as many in each process
    config = replace(case(name), engine=Fsdp()).check()
    together(2, lambda: (run(config, tmp_path / "whole"), interrupted(config, tmp_path / "stopped")))
    whole, stopped = product(tmp_path / "whole"), product(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    assert all(whole[file] == stopped[file] for file in whole)
    # One process reads what they left, and finds what they found; of LoRA the sum with the weights has been rounded.
    model = {"name": "mot", "checkpoint": str(tmp_path / "whole" / "model")}
    again = run(config_of(model=model, optim={"updates": 0}, evaluation={"drift": False}), tmp_path / "alone")[
        "metrics"
    ]
    metrics = json.loads(whole["result.json"])["metrics"]
    assert {name: metrics[name] for name in again} == pytest.approx(again, rel=1e-4, abs=1e-6)
    if name == "pictures":
        assert product(tmp_path / "alone")["per_prompt.jsonl"] == whole["per_prompt.jsonl"]


@pytest.mark.slow
def test_a_checkpoint_in_parts_is_read_by_as_many_processes(tmp_path):
    config = replace(case("pictures"), engine=Fsdp()).check()

    def start():
        with pytest.raises(Stopped):
            run(config, tmp_path, stop=lambda: True)

    together(2, start)
    with pytest.raises(
        CheckpointError, match="has 2 parts, for as many processes, and 1 are to read it; start as many"
    ):
        read_latest(tmp_path / "checkpoint")
    (newest,) = (tmp_path / "checkpoint").iterdir()
    (newest / "state-2-of-2.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match="state-2-of-2"):
        read_latest(tmp_path / "checkpoint", Share(1, 2))
    assert read_latest(tmp_path / "checkpoint", Share(0, 2)).facts["update"] == 1


def test_one_process_has_nothing_to_share():
    with pytest.raises(ConfigError, match="engine=fsdp: one process has nothing to share; start several by torchrun"):
        Trainer(replace(case("pictures"), engine=Fsdp()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"engine": {"name": "ddp", "rollout_batch": 6}},
            "rollout_batch=6: expected a multiple of rollout.group_size=4",
        ),
        ({"engine": {"name": "ddp", "micro_batch": 3}}, "micro_batch=3: expected whole groups or equal parts of one"),
        (
            {"engine": {"name": "ddp", "micro_steps": 1}, "image_head": "tokens", **TOKENS},
            "no recorded denoising steps",
        ),
        ({"engine": {"name": "fsdp", "micro_steps": 1}, "algorithm": "awm"}, "no recorded denoising steps"),
        (
            {"engine": {"name": "ddp", "micro_steps": 1}, "aggregation": "trajectory_mean"},
            "takes one mean over texts and steps; use micro_batch alone",
        ),
    ],
)
def test_what_parts_cannot_be_made_is_refused_while_planning(changes, said):
    with pytest.raises(ConfigError, match=said):
        config_of(**{**FOUR, **changes}).check()


def test_sizes_below_0_are_refused():
    with pytest.raises(ConfigError, match="micro_batch=-1: expected 0 or more"):
        config_of(engine={"name": "ddp", "micro_batch": -1})


def test_what_sampling_and_training_differ_by_is_logged(monkeypatch):
    """In fp32 nothing; what another way of sampling leaves in its scores is seen, and ratios still begin at 1."""
    config = case("guided, in token mean")
    assert not [name for name in Trainer(config).update(0) if name.startswith("gap/")]
    trainer = Trainer(replace(config, engine=Ddp(micro_batch=2, micro_steps=1)))
    sample = trainer.sample

    def sampled(*args):
        trajectory = sample(*args)
        scores = [
            TextScore(score.log_prob + 0.5 * segment.mask) if isinstance(score, TextScore) else score
            for segment, score in zip(trajectory.segments, trajectory.scores, strict=True)
        ]
        return replace(trajectory, scores=tuple(scores))

    monkeypatch.setattr(trainer, "sample", sampled)
    found = trainer.update(0)
    assert found["gap/text"] == pytest.approx(0.5, abs=1e-4)
    assert found["guard/text"] == found["guard/image"] == 0


def test_a_gap_is_the_largest_log_ratio_of_what_counts():
    alive = torch.tensor([True, False])
    mean = torch.zeros(2, 1, 1, 1)
    before, now = (
        ImageScore((StepScore(3, mean, mean, torch.tensor(1.0), 0.1, torch.tensor(values)),))
        for values in ([1.0, 0.0], [0.5, 9.0])
    )
    said = [TextScore(torch.tensor([[0.0, value], [0.0, 0.0]])) for value in (-1.0, -1.25)]
    text = TextSegment(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[True, True], [False, False]]))
    image = ImageSegment((), mean, alive)
    gauge = Gauge(lambda *_: (said[1], now), (said[0], before))
    gauge(Trajectory((), 2, (text, image), (said[0], before)))
    assert gauge.found == {"gap/text": 0.25, "gap/image/3": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["a language model before it", "its own encoder"])
def test_two_processes_have_the_gradients_of_one_of_a_pipeline(tmp_path, own):
    if own:
        config = pipeline(
            "Flux2KleinPipeline",
            tmp_path,
            "model.language_model=own",
            "model.text_layers=[1]",
            "model.max_sequence_length=48",
            "optim.context_grad=true",
        )
    else:
        thinker = tiny_pipelines.language_model(tmp_path / "thinker")
        config = pipeline("StableDiffusion3Pipeline", tmp_path / "sd3", f"model.language_model={thinker}")
    whole, _, _ = gradients_of(config)
    engines = {"fsdp": Fsdp(), "in parts": Fsdp(micro_batch=2, checkpoint_activations=True)}
    together(2, write_gradients, config, engines, tmp_path)
    for engine in engines:
        assert distance(load_file(tmp_path / f"{engine}.safetensors"), whole) < 1e-6, engine
        metrics = json.loads((tmp_path / f"{engine}.json").read_text())
        assert metrics["guard/text"] == metrics["guard/image"] == 0, engine
