"""The command that trains one run: a user's mistake is exit code 2 and one line, never a traceback."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.training import runs
from unigrpo.compose import compose
from unigrpo.training import command
from unigrpo.training.command import main

BAD = {
    "config.json": ["", "[]", "{"],
    "model.safetensors": ["", "rubbish"],
    "autoencoder.safetensors": ["rubbish"],
    "tokenizer.json": ["{", None],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, bad in BAD.items() for content in bad])
def test_a_damaged_checkpoint_is_named(tmp_path, capsys, name, content):
    broken = tmp_path / "broken"
    shutil.copytree(runs.CHECKPOINT, broken)
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_text(content)
    assert main([f"model.checkpoint='{broken}'", f"folder={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert str(broken) in error
    assert "model.checkpoint" in error
    assert "Traceback" not in error


def test_weights_that_do_not_fit_are_named(tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(runs.CHECKPOINT, broken)
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(settings | {"intermediate_size": 8}))
    assert main([f"model.checkpoint='{broken}'", f"folder={tmp_path / 'run'}"]) == 2
    assert "model.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["", "{tmp}/file", "{tmp}/file/inside", "~nobody-here/run"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch, folder):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main([f"folder={folder.format(tmp=tmp_path)}"]) == 2
    assert f"folder={folder.format(tmp=tmp_path)}: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_home_is_where_it_is_and_a_finished_run_may_move(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [
        "optim.updates=0", f"model.checkpoint='{runs.CHECKPOINT}'", "evaluation.prompts_per_tag=1",
        "evaluation.images_per_prompt=1", "evaluation.steps=2", "episode.max_thinking=4",
    ]  # fmt: skip
    assert main([*words, "folder=~/a b=c ü"]) == 0
    first = tmp_path / "a b=c ü"
    assert json.loads((first / "env.json").read_text()).keys() >= {"kind", "variables", "packages"}
    first_told = capsys.readouterr().out.splitlines()
    assert first_told[1] == "prompts: measured on 6 of the 4754 of split test"
    assert not any("finished before" in line for line in first_told)
    shown = first_told[-1]
    first.rename(tmp_path / "moved")
    assert main([*words, "folder=~/moved"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == shown
    assert "finished before: nothing is trained, this is what" in told[2]
    assert main([*words, "folder=~/moved", "evaluation.steps=3"]) == 1
    assert "moved holds the result of another configuration (evaluation.steps: 2 -> 3)" in capsys.readouterr().err
    assert main([*words, "folder=~/moved", "evaluation.steps=3", "sampler.shift=0"]) == 2, "it comes before"


def test_a_run_says_on_how_many_prompts_it_trains(tmp_path):
    rows = [{"prompt": f"a {thing}", "tag": tag} for tag in "ab" for thing in (f"{tag}{k}" for k in range(10))]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = compose(["dataset=jsonl", f"dataset.path='{tmp_path / 'mine.jsonl'}'", "rollout.prompts=4"])
    assert command._sizes(config) == (
        "prompts: trains on 16 in 2 tags, 4 an update; measured on 2 of the 2 of split test; none to"
        " measure on of tag 'b'"
    )


def test_help_lists_every_key_with_its_value_and_what_it_means(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = {line.split("=")[0].strip(): line for line in lines if line.startswith("  ")}
    plain = compose().to_dict()
    for key, value in plain.items():
        inner = value if isinstance(value, dict) and "name" not in value else {"": None}
        assert {f"{key}.{name}".rstrip(".") for name in inner} <= starts.keys()
    updates = f"optim.updates={plain['optim']['updates']} Rollouts; 0 leaves the model untouched"
    assert " ".join(starts["optim.updates"].split()) == updates
    assert starts["guidance"].split() == ["guidance=cfg_free", "cfg", "|", "cfg_free", "|", "text_image_cfg"]
    assert any(line.startswith("device: a run takes a GPU where there is one") for line in lines)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_word_that_the_model_has_not_is_told_with_the_model_and_its_checkpoint(tmp_path, capsys, split):
    """Also one of the prompts that are only measured on, before anything is trained."""
    for name in ("train", "test"):
        thing = {"train": "square", "test": "circle"}[name]
        known = f"a photo of a red {thing}\na photo of a blue {thing}"
        (tmp_path / f"{name}.txt").write_text(known + ("\na red fox" if name == split else ""))
    own = ["dataset=text_file", f"dataset.path='{tmp_path}'", "reward=callable"]
    own += ["reward.path=tests.training.runs:brightness", "rollout.group_size=2"]
    wanted = 3 if split == "train" else 2
    sizes = [f"rollout.prompts={wanted}", "rollout.minibatches=1", f"model.checkpoint='{runs.CHECKPOINT}'"]
    assert main([*own, *sizes, f"folder={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert f"model=mot model.checkpoint={runs.CHECKPOINT} model.new_words=False cannot read a prompt: " in error
    assert "the model has no word 'fox' (in 'a red fox')" in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_surroundings_that_would_change_the_result_are_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert main([f"folder={tmp_path / 'run'}"]) == 2
    assert "WORLD_SIZE='2'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
