"""A whole run in its folder: what it leaves, that only the configuration decides it, and that it survives its death."""

from __future__ import annotations

import json
import random

import pytest
import torch

from tests.training import runs
from tests.training.runs import Fate, config_of, in_a_fork, killed, product, rows
from unigrpo.errors import CheckpointError, ConfigError, Stopped
from unigrpo.models.mot import checkpoint
from unigrpo.training import runner
from unigrpo.training.runner import run
from unigrpo.training.state import read_latest

UPDATES = 4


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 1)


@pytest.fixture(scope="module")
def config(tiny_checkpoint):
    return config_of(optim={"updates": UPDATES}, evaluation={"every": 3})


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """An uninterrupted run, its result and the number of things its code did."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, Fate() as fate:
        patch.setattr(runner, "CHECKPOINT_EVERY", 1)
        result = run(config, folder)
    return folder, result, fate.count


def test_a_run_leaves_these_files(whole):
    folder, result, _ = whole
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    samples = {name for name in names if name.startswith("samples/") and name.endswith(".png")}
    assert len(samples) == 6
    assert names - samples == {
        "config.json", "content.json", "env.json", "metrics.jsonl", "timing.jsonl", "evaluation.json",
        "per_prompt.jsonl", "per_prompt_guided.jsonl", "cost.json", "result.json", "metrics_schema.json",
        "samples/index.json", "model/config.json", "model/model.safetensors", "model/autoencoder.safetensors",
        "model/tokenizer.json",
    }  # fmt: skip
    assert json.loads((folder / "result.json").read_text()) == result
    assert json.loads((folder / "cost.json").read_text()).keys() >= {"cost/wall_s", "cost/cpu_s", "cost/peak_mb"}
    assert result["updates"] == UPDATES


def test_the_model_it_leaves_is_the_one_it_evaluated(whole, config):
    folder, result, _ = whole
    trained = checkpoint.load(str(folder / "model"))
    again = run(
        config_of(model={"name": "mot", "checkpoint": str(folder / "model")}, optim={"updates": 0}),
        folder.parent / "again",
    )
    for name, value in result["metrics"].items():
        assert name.startswith("drift/") or again["metrics"][name] == value, name
    assert again["metrics"]["drift/velocity_mse"] == 0
    start = checkpoint.load(runs.CHECKPOINT)
    assert runs.moved(start.policy.state_dict(), trained.policy.state_dict())
    assert not runs.moved(start.autoencoder.state_dict(), trained.autoencoder.state_dict())


def test_rows_hold_what_reports_read(whole):
    folder, result, _ = whole
    logged = rows(folder / "metrics.jsonl")
    updates = [row for row in logged if "train/reward" in row]
    assert [row["step"] for row in updates] == list(range(UPDATES))
    for row in updates:
        steps = {name.rpartition("/")[2] for name in row if name.startswith("ratio/image_mean/")}
        assert len(steps) == 1
        assert row.keys() >= {
            "train/reward", "train/reward_std", "train/zero_std_frac", "train/strict", "train/official", "train/proxy",
            "train/length", "loss/text", "loss/image", "loss/regularizer", "loss/text_kl",
            "ratio/text_mean", "ratio/text_std", "ratio/text_clip_frac",
            *(f"ratio/image_{name}/{k}" for name in ("mean", "std", "clip_frac") for k in steps),
            "drift/latent_kl", "drift/velocity_mse", "grad/text", "grad/image",
            "cost/nfe_rollout", "cost/nfe_train", "cost/nfe_reference", "cost/images", "cost/tokens",
        }  # fmt: skip
    looks = [row for row in logged if "eval/geneval/strict" in row]
    assert [row["step"] for row in looks] == [0, 3]
    timing = rows(folder / "timing.jsonl")
    assert [row["step"] for row in timing] == list(range(UPDATES))
    assert timing[0].keys() >= {"time/rollout", "time/reward", "time/reference", "time/update"}
    tags = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    wanted = {f"geneval/{v}{tag}" for v in ("strict", "official") for tag in ("", "_soft", *(f"/{t}" for t in tags))}
    wanted |= {
        "heldout/distance_to_clean",
        "heldout/proxy",
        "heldout/extra_objects",
        "thinking/faithful",
        "thinking/length",
    }
    assert result["metrics"].keys() >= wanted | {f"guided/{name}" for name in wanted}
    assert result["metrics"].keys() >= {"drift/latent_kl", "drift/velocity_mse", "drift/text_kl"}
    assert result["cost"].keys() >= {f"cost/nfe_{kind}" for kind in ("rollout", "train", "reference", "eval")}


def test_the_schema_says_how_each_value_is_shown(whole):
    folder, result, _ = whole
    schema = json.loads((folder / "metrics_schema.json").read_text())
    names = [quantity["name"] for quantity in schema]
    assert len(set(names)) == len(names)
    logged = {quantity.name for metric in config_of().train_metrics for quantity in metric.quantities}
    assert set(names) <= result["metrics"].keys() | logged
    assert set(names) >= {"geneval/strict", "guided/geneval/strict", "heldout/proxy", "drift/velocity_mse"}
    assert {quantity["name"] for quantity in schema if quantity["headline"]} == {
        "geneval/strict", "geneval/official", "heldout/distance_to_clean",
    }  # fmt: skip
    found = [quantity for quantity in schema if quantity["name"] in result["metrics"]]
    fields = {quantity["row_field"] for quantity in found if quantity["row_field"]}
    assert all(row.keys() >= fields for row in rows(folder / "per_prompt.jsonl"))


def test_a_measure_with_rows_is_their_mean(whole):
    folder, result, _ = whole
    assert runs.means_of_rows(folder, result) >= {"guided/geneval/strict", "geneval/strict", "geneval/strict/counting"}


def test_only_the_configuration_decides_the_result(whole, config, tmp_path):
    """Not the folder, not what ran before in the process, not the global random numbers."""
    torch.manual_seed(99)
    random.seed(99)
    assert run(config, tmp_path / "elsewhere") == whole[1]
    assert product(tmp_path / "elsewhere") == product(whole[0])


def test_another_seed_trains_another_model(whole, tmp_path):
    run(config_of(seed=1, optim={"updates": UPDATES}, evaluation={"every": 3}), tmp_path)
    mine, theirs = product(tmp_path), product(whole[0])
    assert mine["model/model.safetensors"] != theirs["model/model.safetensors"]
    assert mine["per_prompt.jsonl"] != theirs["per_prompt.jsonl"]


def test_the_untouched_model_is_the_same_for_every_seed_and_recipe(tmp_path):
    found = []
    for seed, changes in enumerate(({}, {"modalities": "text_only", "sampler": {"steps": 5}})):
        found.append(run(config_of(seed=seed, optim={"updates": 0}, **changes), tmp_path / str(seed)))
        assert not (tmp_path / str(seed) / "metrics.jsonl").exists()
    assert found[0] == found[1]
    assert found[0]["cost"]["cost/nfe_rollout"] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that uses a GPU cannot be forked")
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_run_ends_in_the_bytes_of_an_uninterrupted_one(whole, config, tmp_path, seed):
    """SIGKILL at four random points, each attempt going on from what the one before left."""
    folder, _, events = whole
    fates = random.Random(seed)

    def attempt() -> None:
        with Fate(at=fates.randrange(1, events)):
            run(config, tmp_path)

    deaths = []
    for _ in range(4):
        deaths.append(in_a_fork(attempt))
        fates.random()  # the fork drew from a copy
    assert killed(deaths[0])
    assert all(status == 0 or killed(status) for status in deaths)
    assert run(config, tmp_path) == whole[1]
    assert product(tmp_path) == product(folder)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_stopped_run_goes_on_where_it_was(whole, config, tmp_path):
    folder, _, _ = whole
    seen: list[int] = []
    for expected in (1, 2):
        with pytest.raises(Stopped, match=f"after update {expected} of {UPDATES}"):
            run(config, tmp_path, progress=lambda event: seen.append(event["update"]), stop=lambda: True)
    assert not (tmp_path / "result.json").exists()
    run(config, tmp_path, progress=lambda event: seen.append(event["update"]), stop=lambda: False)
    assert seen == [1, 2, 3, 4]
    assert product(tmp_path) == product(folder)


def stopped_after(config, folder, updates: int) -> None:
    done = iter(range(1, UPDATES + 1))
    with pytest.raises(Stopped):
        run(config, folder, stop=lambda: next(done) == updates)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no facts"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, config, tmp_path, damage):
    stopped_after(config, tmp_path, 3)
    newest = tmp_path / "checkpoint" / "00000003"
    tensors = newest / "state.safetensors"
    content = tensors.read_bytes()
    if damage == "truncated":
        tensors.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        (newest / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="skipping a damaged checkpoint: .*00000003"):
        run(config, tmp_path)
    assert product(tmp_path) == product(whole[0])


def test_no_whole_checkpoint_is_an_error_that_names_the_files(config, tmp_path):
    stopped_after(config, tmp_path, 2)
    for path in tmp_path.glob("checkpoint/*/state.safetensors"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError) as caught:
        run(config, tmp_path)
    assert "00000001/state.safetensors" in str(caught.value)
    assert "00000002/state.safetensors" in str(caught.value)
    assert "delete that folder" in str(caught.value)


def test_another_configuration_is_refused_and_changes_nothing(config, tmp_path):
    stopped_after(config, tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"holds a checkpoint of another .* \(.*seed: 0 -> 5.*folder=\.\.\."):
        run(config_of(seed=5, optim={"updates": UPDATES}), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


REWARD = """
def red(images, prompts, texts, **meta):
    return [10 * image[0].mean().item() for image in images]
"""


def test_a_run_goes_on_and_is_read_with_the_reward_that_it_began_with(tmp_path, monkeypatch):
    source, folder = tmp_path / "reward_of_this_run.py", tmp_path / "run"
    source.write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    own = config_of(reward={"name": "callable", "path": "reward_of_this_run:red"}, optim={"updates": 2})

    def refused(what):
        source.write_text(REWARD.replace("10", "-10"))
        before = product(folder)
        said = (
            rf"run holds {what} of another configuration \(source of reward=callable reward_of_this_run: \w+ -> \w+\)"
        )
        with pytest.raises(CheckpointError, match=said):
            run(own, folder)
        assert product(folder) == before
        source.write_text(REWARD)

    stopped_after(own, folder, 1)
    refused("a checkpoint")
    result = run(own, folder)
    refused("the result")
    assert run(own, folder, progress=lambda event: pytest.fail("it trained")) == result


def test_a_recipes_name_is_no_other_configuration(whole, config, tmp_path):
    stopped_after(config, tmp_path, 1)
    run(config_of(recipe="renamed", optim={"updates": UPDATES}, evaluation={"every": 3}), tmp_path)
    assert product(tmp_path)["result.json"] == product(whole[0])["result.json"]


def test_a_finished_run_keeps_no_checkpoint(whole):
    assert read_latest(whole[0] / "checkpoint") is None


def test_seconds_of_earlier_attempts_count(config, tmp_path):
    stopped_after(config, tmp_path, 1)
    first = read_latest(tmp_path / "checkpoint").facts["seconds"]
    run(config, tmp_path)
    spent = json.loads((tmp_path / "cost.json").read_text())
    assert spent["cost/cpu_s"] > first["cpu"] > 0


def test_a_finished_run_is_read_not_trained_again(whole, config):
    folder, result, _ = whole
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(config, folder, progress=lambda event: pytest.fail("it trained")) == result
    with pytest.raises(CheckpointError, match=r"holds the result of another .* \(.*seed: 0 -> 9.*folder=\.\.\."):
        run(config_of(seed=9), folder)
    with pytest.raises(ConfigError, match="dynamics=ode"):  # which no other folder would mend
        run(config_of(dynamics="ode"), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
