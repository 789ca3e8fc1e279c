"""Conditions for continuous integration, and two sweeps side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports.__main__ import main
from reports.against import UnlikeError, compare
from reports.collect import read
from reports.gate import Condition, GateError, broken, conditions
from tests.reports.synthetic import ARMS, write_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("gate"), seeds=range(8), updates=2, failed=[("latent_kl", 1)])


def test_conditions_are_read():
    assert conditions("geneval/strict<-0.01 or failed > 0 or status==difference shown") == [
        Condition("geneval/strict", "<", "-0.01"),
        Condition("failed", ">", "0"),
        Condition("status", "==", "difference shown"),
    ]


@pytest.mark.parametrize("text", ["", "geneval/strict", "a<b", "a==1", "status<1", "a<nan", "a<1 and b<2", "a<1 or"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(GateError, match="fail_if"):
        conditions(text)


def test_conditions_are_of_planned_differences_and_counts(folder):
    assert broken(folder, "geneval/strict<0.01 or missing>0") == []
    told = broken(folder, "geneval/strict>0.02 or failed>=1 or status!=nothing to compare")
    assert [words.partition(" is ")[0] for words in told] == [
        "geneval/strict: latent_kl − none",
        "geneval/strict: velocity_mse − none",
        "failed",
        "status",
    ]
    assert [words.partition(":")[0] for words in broken(folder, "drift/velocity_mse<0")] == ["drift/velocity_mse"] * 2
    with pytest.raises(GateError, match="no planned comparison has a value of 'geneval/strct'"):
        broken(folder, "geneval/strct<0")
    assert broken(folder, "") == []


def test_the_command_says_which_condition_holds(folder, capsys, undrawn):
    assert main([str(folder), "--fail-if", "failed>0"]) == 3
    assert "fail_if: failed is 1" in capsys.readouterr().err
    assert main([str(folder), "--fail-if", "failed>1"]) == 0
    assert main([str(folder), "--fail-if", "failed"]) == 2
    assert "error: fail_if: expected" in capsys.readouterr().err


def test_two_sweeps_side_by_side(folder, tmp_path):
    """Arms of the same name, by seed where seeds are shared."""
    arms = {name: (ARMS[name][0], ARMS[name][1] + 0.1, *ARMS[name][2:]) for name in ("none", "velocity_mse")}
    one, two = read(folder), read(write_sweep(tmp_path, arms=arms, seeds=range(8), updates=2))
    told = compare(one, two)
    assert "none: +0.097 (95 % interval +0.0" in told
    assert "8 seeds paired" in told
    assert "latent_kl" not in told
    moved = replace(
        two,
        arms=tuple(
            replace(arm, cells=tuple(replace(cell, seed=cell.seed + 100) for cell in arm.cells)) for arm in two.arms
        ),
    )
    assert "8 and 8 runs, unpaired" in compare(one, moved)


def test_unlike_sweeps_are_refused(folder, tmp_path, capsys):
    strange = [("none", 0), ("none", 1), ("latent_kl", 0), ("latent_kl", 1), ("velocity_mse", 0), ("velocity_mse", 1)]
    other = write_sweep(tmp_path, seeds=[0, 1], strange=strange, updates=2)
    assert main(["compare", str(folder), str(other)]) == 2
    assert "evaluated on different sets" in capsys.readouterr().err
    assert main(["compare", str(folder), str(folder)]) == 0
    assert "none: 0.000" in capsys.readouterr().out
    assert main(["compare", str(folder), "nowhere"]) == 2
    sweep = read(folder)
    with pytest.raises(UnlikeError, match=r"decides by geneval/strict, .* by other"):
        compare(sweep, replace(sweep, primary="other"))
    with pytest.raises(UnlikeError, match="no finished arm of the same name"):
        compare(sweep, replace(sweep, arms=tuple(replace(arm, name=f"{arm.name}2") for arm in sweep.arms)))
