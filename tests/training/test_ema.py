"""Training with a moving average, start to end: what it leaves alone, what is measured and left, where it goes on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import config_of, moved, product, weights_of
from unigrpo.compose import compose
from unigrpo.errors import Stopped
from unigrpo.models.mot import checkpoint
from unigrpo.rollout.trajectory import Cost
from unigrpo.training import runner
from unigrpo.training.evaluation import Evaluation, Evaluator
from unigrpo.training.runner import run
from unigrpo.training.state import read_latest
from unigrpo.training.trainer import Trainer

LORA = {"name": "lora", "rank": 2, "alpha": 4}
UPDATES, DECAY = 3, 0.25
RATES = {"updates": UPDATES, "text_lr": 0.01, "image_lr": 0.01}


def averaged(inner, **changes):
    return config_of(adapter={"name": "ema", "inner": inner, "decay": DECAY, "every": 1}, optim=RATES, **changes)


@pytest.fixture(scope="module", params=["full", LORA], ids=["full", "lora"])
def whole(request, tiny_checkpoint, tmp_path_factory):
    """What is averaged, and the folder and the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("ema")
    return request.param, folder, run(averaged(request.param), folder)


@pytest.fixture(scope="module")
def places(whole):
    """The weights that are trained of a run without an average, before it and after each of its steps."""
    trainer = Trainer(config_of(adapter=whole[0], optim=RATES))
    found = [weights_of(trainer.policy)]
    for update in range(UPDATES):
        metrics = trainer.update(update)
        assert update or metrics["guard/text"] == metrics["guard/image"] == 0.0
        found.append(weights_of(trainer.policy))
    return found


def closed_form(places):
    """Steps 1, 2 and 3 of a decay that n/(n+9) has not passed before the third."""
    kept = [1 / 10, 2 / 11, DECAY]
    shares = [kept[0] * kept[1] * kept[2], (1 - kept[0]) * kept[1] * kept[2], (1 - kept[1]) * kept[2], 1 - kept[2]]
    return {
        name: sum(share * place[name].double() for share, place in zip(shares, places, strict=True))
        for name in moved(places[0], places[-1])
    }


def test_training_is_what_it_is_without_and_its_first_log_ratios_are_0(whole, places):
    trainer = Trainer(averaged(whole[0]))
    for update in range(UPDATES):
        found = trainer.update(update)
        assert update or found["guard/text"] == found["guard/image"] == 0.0
    assert not moved(places[-1], weights_of(trainer.policy))


def test_a_run_leaves_the_average(whole, places):
    inner, folder, _ = whole
    wanted = closed_form(places)
    if inner == "full":
        left = checkpoint.load(str(folder / "model")).policy.state_dict()
    else:
        left = load_file(folder / "adapter" / "adapter_model.safetensors")
        wanted = {f"base_model.model.{name.replace('.default', '')}": tensor for name, tensor in wanted.items()}
    assert wanted
    for name, tensor in wanted.items():
        torch.testing.assert_close(left[name].double(), tensor, rtol=0, atol=1e-7)


def test_the_average_is_measured(whole, tmp_path):
    inner, folder, result = whole
    name = "heldout/distance_to_clean"
    start = {"name": "mot", "checkpoint": str(folder / "model")}
    left = run(config_of(model=start, optim={"updates": 0}), tmp_path / "left")["metrics"][name]
    trained = run(config_of(adapter=inner, optim=RATES), tmp_path / "trained")["metrics"][name]
    found = result["metrics"][name]
    # The sum that a run of LoRA leaves is rounded.
    assert abs(left - found) < 0.01 * abs(trained - found)


def test_evaluations_in_the_loop_see_it_and_leave_the_weights_alone(whole, places, monkeypatch):
    trainer, seen = Trainer(averaged(whole[0])), []

    def look(evaluator, policy, *_):
        seen.append(weights_of(policy))
        return Evaluation({"seen": 1.0}, [], [], Cost())

    monkeypatch.setattr(Evaluator, "__call__", look)
    for update in range(UPDATES):
        trainer.update(update)
    assert trainer.evaluate_in_loop() == {"eval/seen": 1.0}
    for name, tensor in closed_form(places).items():
        torch.testing.assert_close(seen[0][name].double(), tensor, rtol=0, atol=1e-7)
    assert not moved(places[-1], weights_of(trainer.policy))


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(whole, tmp_path, monkeypatch):
    inner, folder, _ = whole
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 1)
    with pytest.raises(Stopped):
        run(averaged(inner), tmp_path / "run", stop=lambda: True)
    saved = read_latest(tmp_path / "run" / "checkpoint").tensors
    kept = {name.removeprefix("optimizer.average.") for name in saved if name.startswith("optimizer.average.")}
    assert kept == {name.removeprefix("optimizer.exp_avg.") for name in saved if name.startswith("optimizer.exp_avg.")}
    run(averaged(inner), tmp_path / "run")
    assert product(tmp_path / "run") == product(folder)


def test_it_is_composed_with_what_it_averages():
    words = ["adapter=ema", "adapter.inner=lora", "adapter.inner.rank=4", "adapter.every=1"]
    config = compose(words)
    assert (config.adapter.inner.rank, config.adapter.every) == (4, 1)
    assert config.to_dict()["adapter"]["inner"]["name"] == "lora"
    assert compose(words[:1]).adapter.inner.name == "full"
