"""Reading run folders: whole, unfinished, damaged."""

import json

import pytest

from reports.collect import BrokenSweepError, read
from tests.reports.synthetic import write_sweep


def states(sweep):
    return {(cell.arm, cell.seed): cell.state for cell in sweep.cells if cell.state != "done"}


def test_finished_sweep(finished):
    sweep = read(finished)
    assert [arm.name for arm in sweep.arms] == ["none", "untouched", "latent_kl", "velocity_mse"]
    assert states(sweep) == {}
    cell = sweep.arm("latent_kl").done[3]
    assert cell.seed == 3
    assert cell.metrics["cost/cpu_s"] > 0
    assert cell.metrics["cost/nfe_train"] == 96 * 2 * 12
    assert len(cell.prompts) == 36
    assert {p.tag for p in cell.prompts.values()} >= {"counting", "colors"}
    assert cell.samples[0].picture.startswith(b"\x89PNG")


def test_states_of_cells(troubled):
    sweep = read(troubled)
    assert states(sweep) == {
        ("latent_kl", 2): "excluded",
        ("latent_kl", 5): "missing",
        ("velocity_mse", 4): "failed",
    }
    assert sorted(sweep.arm("latent_kl").values("geneval/strict")) == [0, 1, 3, 4]
    failure = next(cell.failure for cell in sweep.cells if cell.state == "failed")
    assert (failure.cause, failure.step) == ("non_finite", 17)


@pytest.fixture
def small(tmp_path):
    return write_sweep(tmp_path, seeds=[0, 1], updates=3)


def test_a_repeated_step_counts_once_and_a_torn_last_line_not_at_all(small):
    rows = [{"step": 0, "x": 1.0}, {"step": 1, "x": 2.0}, {"step": 1, "x": 5.0}, {"step": 2, "x": None, "y": True}]
    text = "\n".join(json.dumps(row) for row in rows) + '\n\n{"step": 3, "x": 7'
    (small.parent.parent / "cells" / "none0" / "metrics.jsonl").write_text(text)
    history = read(small).arm("none").done[0].history
    assert list(history) == ["x"]
    assert history["x"].steps.tolist() == [0, 1]
    assert history["x"].values.tolist() == [1, 5]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", '{"metrics": {}}'),
        ("evaluation.json", "[]"),
        ("config.json", "{"),
        ("metrics.jsonl", '{"step": 1\n{"step": 2}\n'),
        ("samples/p1.png", None),
    ],
)
def test_a_damaged_cell_is_named_and_costs_no_other(small, file, content):
    path = small.parent.parent / "cells" / "none1" / file
    path.unlink() if content is None else path.write_text(content)
    sweep = read(small)
    assert states(sweep) == {("none", 1): "broken"}
    assert sweep.arm("none").cells[1].failure.message


def test_an_unreadable_failure_is_still_a_failure(small):
    cell = small.parent.parent / "cells" / "none1"
    (cell / "DONE").unlink()
    (cell / "failure.json").write_text("oops")
    sweep = read(small)
    assert states(sweep) == {("none", 1): "failed"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ('{"schema": 99}', "schema 1"),
        ('{"schema": 1}', "missing or malformed"),
    ],
)
def test_a_broken_plan_is_a_clear_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(BrokenSweepError, match=f"sweep.json.*{message}"):
        read(tmp_path)


def edit(folder, **changes):
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_baseline_must_be_an_arm(small):
    edit(small, baseline="nobody")
    with pytest.raises(BrokenSweepError, match="nobody"):
        read(small)


def test_a_refused_arm_is_listed_but_has_no_row(small):
    plan = json.loads((small / "sweep.json").read_text())
    refused = {"name": "ode_raw", "overrides": [], "untouched": False, "cells": {}}
    edit(small, arms=[*plan["arms"], refused])
    sweep = read(small)
    assert "ode_raw" not in [arm.name for arm in sweep.arms]
    assert sweep.refused[0][0] == "ode_raw"
