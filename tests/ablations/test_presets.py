"""Every shipped grid runs from the command to the report, with the real trainer, in its small preset."""

from __future__ import annotations

import pytest

from ablations.grid import grids
from ablations.sweep import main

#: The grid whose report has its figures, and whose training is evaluated on the way.
WHOLE = "kl_vs_mse"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One folder for all grids: equal cells are trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.usefixtures("one_layer")
@pytest.mark.parametrize("name", grids())
def test_every_grid_runs_in_its_small_preset(name, root, capsys, request):
    arguments = [f"grid={name}", "preset=small", "seeds=1", f"root={root}", "launcher=inline", "tracker=none"]
    # The least that is still a group, and an evaluation of few steps: what is tested is that all parts meet.
    arguments += ["rollout.prompts=1", "rollout.group_size=2", "rollout.minibatches=1"]
    arguments += ["sampler.steps=4", "evaluation.steps=2"]
    if name != WHOLE:
        request.getfixturevalue("undrawn")
        arguments.append("evaluation.every=0")
    if name not in ("single_vs_multi_round", "cfg_vs_cfg_free"):  # whose arms differ in their updates
        arguments.append("optim.updates=1")
    assert main(arguments) == 0
    assert " done\n" in capsys.readouterr().out
    (report,) = root.glob(f"sweeps/{name}-*/report/report.html")
    assert report.stat().st_size > 0
