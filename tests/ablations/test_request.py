"""Words of the command line that are the sweeper's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ablations.plan import make_plan
from ablations.request import read
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded


def test_a_root_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(["grid=kl_vs_mse", "root=~/runs"]).root == tmp_path / "runs"
    assert read(["grid=kl_vs_mse", "root=runs"]).root == Path("runs")
    grid = tmp_path / "mine.yaml"
    grid.write_text("question: q\nrecipe: unigrpo\nbaseline: a\nprimary: {metric: m, direction: max}\narms: {a: []}\n")
    assert read(["grid=~/mine.yaml"]).grid.name == "mine"


@pytest.mark.parametrize("path", ["", "~nobody-of-this-name/x"])
def test_no_path_and_no_home_are_told(path):
    with pytest.raises(ConfigError, match=r"root=(: expected a path, got nothing|~nobody.*: there is no such home)"):
        read(["grid=kl_vs_mse", f"root={path}"])
    with pytest.raises(ConfigError):
        home_expanded("folder", path)


@pytest.mark.parametrize("name", ["what?", "100%20noise"])
def test_a_root_that_the_address_of_a_database_cannot_hold_is_refused(name, tmp_path, monkeypatch):
    command = ["grid=kl_vs_mse", f"root={tmp_path / name}"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="means something else in the address of MLflow's database"):
        read(command)
    assert read([*command, "tracker=none"]).root == tmp_path / name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert read(command).root == tmp_path / name


@pytest.mark.parametrize("name", ["10% noise", "a#b", "it's", "é 运"])
def test_other_odd_letters_reach_the_database_as_they_are(name, tmp_path):
    from sqlalchemy.engine import make_url

    root = read(["grid=kl_vs_mse", f"root={tmp_path / name}"]).root
    assert make_url(f"sqlite:///{(root / 'mlflow.db').resolve()}").database == str(root / "mlflow.db")


GRID = """
question: q
recipe: unigrpo
baseline: a
primary: {metric: geneval/strict, direction: max}
arms: {a: [reward=callable, "reward.path=reward_beside_a_grid:mine"]}
"""


def test_modules_beside_a_grid_file_are_found_here_and_in_workers(tmp_path, monkeypatch):
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "reward_beside_a_grid.py").write_text("def mine(images, prompts, texts, **meta): return []")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "/first")
    request = read([f"grid={tmp_path / 'grid.yaml'}"])
    assert make_plan(request.grid).arms[1].refused == ()
    assert os.environ["PYTHONPATH"] == f"/first{os.pathsep}{tmp_path}"
    assert sys.path[-1] == str(tmp_path), "what is there already comes first"


def test_a_grid_of_the_present_folder_and_a_device_are_no_riddle(tmp_path, monkeypatch):
    (tmp_path / "my_grid.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"unknown grid 'my_grid'; .*: grid=my_grid\.yaml$"):
        read(["grid=my_grid"])
    with pytest.raises(ConfigError, match="unknown key 'device': a run takes a GPU where there is one"):
        read(["grid=kl_vs_mse", "device=cpu"])


def test_one_key_twice_in_a_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"launcher.sbatch: line 1: the key 'nice' comes twice"):
        read(["grid=kl_vs_mse", "launcher=slurm", "launcher.sbatch={nice: 1, nice: 2}"])
