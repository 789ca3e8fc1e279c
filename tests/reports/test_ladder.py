"""Ladders of arms, compared at one declared level of another measure: by hand, and with seeds that do not reach it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reports
from reports import statistics
from reports.analysis import analyse
from reports.collect import read
from reports.figures import forests
from reports.ladder import derived
from reports.records import Sweep
from tests.reports.synthetic import write_sweep

SEEDS = range(8)
#: Arm -> (regularizer, strict, proxy, drift), with rungs at proxies of .8, .75 and .7.
ARMS = {
    "none": ({"name": "none"}, 0.5, 0.80, 0.04),
    **{
        f"{kind}_{rung}": ({"name": kind, "weight": weight}, 0.5, proxy, 0.01)
        for kind in ("latent_kl", "velocity_mse")
        for rung, weight, proxy in (("low", 0.01, 0.75), ("high", 0.03, 0.70))
    },
}
LADDERS = {kind: ["none", f"{kind}_low", f"{kind}_high"] for kind in ("latent_kl", "velocity_mse")}
#: (arm, seed) -> (proxy, strict): the frontier ``strict = 1 - proxy``, velocity MSE's .1 above it.
POINTS = {
    (arm, seed): (
        proxy + 0.001 * seed,
        round(1 - proxy - 0.001 * seed + 0.1 * arm.startswith("velocity") + 0.004 * (seed % 3), 4),
    )
    for arm, (_, _, proxy, _) in ARMS.items()
    for seed in SEEDS
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    written = write_sweep(tmp_path_factory.mktemp("rungs"), arms=ARMS, seeds=SEEDS, updates=2, grid="rungs")
    plan = json.loads((written / "sweep.json").read_text())
    arm, other = "velocity_mse", "latent_kl"
    plan |= {
        "at": {"measure": "heldout/proxy", "level": 0.74, "ladders": LADDERS, "words": "strict where proxy is 0.74"},
        "comparisons": [{"arm": arm, "other": other, "couples": [[arm, other]], "words": f"{arm} − {other}"}],
    }
    (written / "sweep.json").write_text(json.dumps(plan))
    return written


@pytest.fixture(scope="module")
def written(folder) -> Sweep:
    return read(folder)


def at_points(sweep: Sweep, points=POINTS, **changes) -> Sweep:
    """The sweep with these scores, and its ladders as its files would have them."""

    def moved(cell):
        proxy, strict = points.get((cell.arm, cell.seed), (0.5, 0.5))
        return replace(cell, metrics={**cell.metrics, "heldout/proxy": proxy, "geneval/strict": strict})

    arms = tuple(replace(arm, cells=tuple(map(moved, arm.cells))) for arm in sweep.arms)
    return replace(sweep, arms=arms, derived=derived(arms, sweep.at, sweep.primary, sweep.seeds), **changes)


def test_each_seed_is_read_between_its_own_rungs(written):
    """By hand: seed s has rungs at .70 and .75 and .80, all + s/1000; the lines between them are straight."""
    sweep = at_points(written)
    analysis = analyse(sweep)
    (pair,) = analysis.family("baseline").pairs
    assert (pair.name, pair.seeds) == ("velocity_mse − latent_kl", tuple(SEEDS))
    for arm in sweep.derived:
        for seed, value in arm.values("geneval/strict").items():
            wanted = 0.26 + 0.1 * (arm.name == "velocity_mse") + 0.004 * (seed % 3)
            assert value == pytest.approx(wanted, abs=1e-9)
    assert pair.comparison.differences == pytest.approx([0.1] * len(SEEDS))
    assert analysis.verdict.status == "difference shown"
    assert analysis.verdict.sentence.startswith("Strict overall score where proxy (held out) is 0.74: velocity_mse is")
    assert not [warning for warning in analysis.warnings if "reach" in warning]


def test_a_ladder_is_no_arm_of_the_sweep(written):
    """Nothing has run under its name: it has no row, no cell and no cost, but a mark on the forest plot."""
    assert not {arm.name for arm in written.arms} & {*LADDERS}
    assert written.complete_seeds == tuple(SEEDS)
    (forest,) = [panel for panel in forests(analyse(at_points(written))) if panel.name == "forest_baseline"]
    assert "velocity_mse minus latent_kl" in forest.alt


def test_the_page_says_what_decides(folder, undrawn):
    reports.write(folder)
    text = (folder / "report" / "report.html").read_text()
    assert "One measure, strict overall score where proxy (held out) is 0.74, decides" in text
    assert "velocity_mse: none, velocity_mse_low, velocity_mse_high" in text


def test_one_seed_in_five_may_be_out_of_reach_and_is_said(written):
    """Seed 7 of one ladder ends below the level: of both it counts no more."""
    analysis = analyse(at_points(written, POINTS | {(arm, 7): (0.6, 0.4) for arm in LADDERS["velocity_mse"]}))
    (pair,) = analysis.family("baseline").pairs
    assert pair.seeds == tuple(SEEDS)[:-1]
    assert [warning for warning in analysis.warnings if warning.startswith("Of 8 seeds 1 (seed 7)")]


def test_with_more_seeds_out_of_reach_there_is_no_verdict(written):
    """Of one ladder one seed, of the other another: 2 of 8 are more than 1 in 5, though 1 of 8 is not."""
    points = POINTS | {
        ("velocity_mse_low", 6): (0.73, 0.4),
        ("none", 6): (0.735, 0.4),
        ("latent_kl_low", 6): (0.75, 0.3),
    }
    points |= {("latent_kl_low", 7): (0.75, 0.3), ("latent_kl_high", 7): (0.76, 0.3)}
    analysis = analyse(at_points(written, points))
    assert analysis.family("baseline") is None
    assert analysis.verdict.status == "not testable"
    assert analysis.verdict.sentence.startswith("Of 8 seeds 2 (seed 6, seed 7) have a ladder whose rungs do not reach")
    assert "no verdict" in analysis.verdict.sentence


def test_a_seed_without_one_of_its_rungs_is_missing_and_not_out_of_reach(written):
    cut = [
        replace(arm, cells=arm.cells[:-1]) if arm.name == "velocity_mse_low" else arm for arm in at_points(written).arms
    ]
    states = {arm.name: arm.cells[-1].state for arm in derived(cut, written.at, written.primary, written.seeds)}
    assert states == {"latent_kl": "done", "velocity_mse": "missing"}


def test_equality_at_the_level_has_the_grids_margin(written):
    points = {
        (arm, seed): (proxy, strict - 0.1 * arm.startswith("velocity") + 0.001 * (seed % 2))
        for (arm, seed), (proxy, strict) in POINTS.items()
    }
    assert analyse(at_points(written, points, margin=0.05)).verdict.status == "equal within margin"


@given(st.permutations(range(4)), st.floats(0.71, 0.79), st.floats(-3, 3), st.floats(-3, 3))
def test_along_is_numpys_interpolation_whatever_the_order_of_rungs(order, level, slope, offset):
    xs = np.array([0.7, 0.72, 0.76, 0.8])
    ys = slope * xs + offset
    found = statistics.along([{3: xs[k], 5: xs[k]} for k in order], [{3: ys[k]} for k in order], level)
    assert found.keys() == {3}
    assert found[3] == pytest.approx(slope * level + offset, abs=1e-9)


def test_outside_its_rungs_a_seed_has_no_value():
    held, read_off = [{0: 0.7, 1: 0.5}, {0: 0.8, 1: 0.6}], [{0: 1.0, 1: 1.0}, {0: 2.0, 1: 2.0}]
    found = statistics.along(held, read_off, 0.7)
    assert found[0] == 1.0
    assert np.isnan(found[1])
