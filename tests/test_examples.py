"""The examples run as their page says, each in a folder outside of the source, from the command to the report."""

from __future__ import annotations

import shutil
import sys

import pytest

from ablations.sweep import main as sweep
from tests.pages import ROOT, SMALL_RUN, commands
from unigrpo.training.command import main as train

PAGE = ROOT / "examples" / "README.md"
MINE = ("my_reward", "my_metric", "my_algorithm", "my_model")
#: What the column of the primary measure is called on the report.
SAYS = {"primary=reward/total": "Reward", "primary=brightness": "Brightness"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the examples, as a user's present folder."""
    shutil.copytree(PAGE.parent, tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(str(tmp_path / "examples"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path / "examples"
    for name in MINE:
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.usefixtures("one_layer")
@pytest.mark.parametrize("words", commands(PAGE), ids=" ".join)
def test_an_example_runs(words, folder, undrawn):
    python, flag, module, *arguments = words
    assert (python, flag) == ("python", "-m")
    if module == "unigrpo.train":
        assert train([*arguments, *SMALL_RUN, "folder=run"]) == 0
        assert (folder / "run" / "result.json").is_file()
        return
    small = ["preset=small", "seeds=1", "optim.updates=1", "rollout.group_size=2", "evaluation.steps=2"]
    assert sweep([*arguments, *small, "launcher=inline", "tracker=none"]) == 0
    (report,) = (folder / "runs" / "sweeps").glob("*/report/report.html")
    (said,) = [label for word, label in SAYS.items() if word in arguments]
    assert said in report.read_text(encoding="utf-8")


def test_every_example_is_on_its_page():
    page = PAGE.read_text(encoding="utf-8")
    assert [
        path.name for path in PAGE.parent.iterdir() if path.name not in page and path.suffix in (".py", ".txt")
    ] == []
