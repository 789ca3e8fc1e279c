"""Crossed factors: combinations, margins, and what an interaction plot shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from reports.collect import read
from reports.drawing import spread_out
from reports.factorial import along, crossed
from reports.figures import factors
from reports.records import Arm, Sweep
from reports.runs import Cell
from tests.reports.test_controls import sweep_of


def arm_of(stem: str, scores: dict[int, float], **levels: str) -> Arm:
    name = stem + ("@" + ",".join(f"{key}={level}" for key, level in levels.items()) if levels else "")
    cells = tuple(Cell(name, seed, f"{name}{seed}", "done", {}, {}, {"score": x}, 5) for seed, x in scores.items())
    return Arm(name, (), False, cells, factors={f"at.{key}": f"{key}={level}" for key, level in levels.items()})


def grid_of(*arms: Arm) -> Sweep:
    return replace(sweep_of(*arms), seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def crossing() -> Sweep:
    """Two arms at two levels of one axis; one combination lacks a seed."""
    return grid_of(
        arm_of("a", {0: 0.1, 1: 0.2, 2: 0.3}, lr="1"),
        arm_of("a", {0: 0.2, 1: 0.2, 2: 0.5}, lr="2"),
        arm_of("b", {0: 0.4, 1: 0.6}, lr="1"),
        arm_of("b", {0: 0.1, 1: 0.2, 2: 0.6}, lr="2"),
    )


def test_every_combination_has_its_mean_its_interval_and_its_seeds(crossing):
    found = crossed(crossing)
    assert (found.rows, found.columns, found.levels) == (("at.lr",), "arm", ("a", "b"))
    assert [row.levels for row in found.table] == [("1",), ("2",)]
    first = found.table[0].means[0]
    half = stats.t.ppf(0.975, 2) * np.std([0.1, 0.2, 0.3], ddof=1) / np.sqrt(3)
    assert (first.mean, first.n) == (pytest.approx(0.2), 3)
    assert (first.low, first.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert found.table[0].means[1].n == 2


def test_margins_are_over_the_seeds_that_all_of_their_combinations_have(crossing):
    found = crossed(crossing)
    assert found.table[0].margin.n == 2
    assert found.table[0].margin.mean == pytest.approx((0.25 + 0.4) / 2)
    assert found.table[1].margin.mean == pytest.approx((0.15 + 0.2 + 0.55) / 3)
    assert [margin.n for margin in found.margins] == [3, 2, 2]
    assert found.margins[0].mean == pytest.approx((0.15 + 0.2 + 0.4) / 3)
    assert found.margins[2].mean == pytest.approx(((0.1 + 0.2 + 0.4 + 0.1) / 4 + (0.2 + 0.2 + 0.6 + 0.2) / 4) / 2)


def test_a_combination_that_is_not_there_has_no_margin(crossing):
    found = crossed(replace(crossing, arms=crossing.arms[:3]))
    assert found.table[1].means[1] is None
    assert found.table[1].margin is None
    assert found.margins[0].mean == pytest.approx(0.2)  # seeds 0 and 1 of the first row, which is whole
    assert found.margins[2].n == 2


def test_arms_without_the_axis_and_repetitions_are_no_level_of_it(crossing):
    repeated = replace(crossing.arms[0], name="replicate@lr=1", repeats="a@lr=1")
    found = crossed(replace(crossing, arms=(*crossing.arms, arm_of("plain", {0: 0.5}), repeated)))
    assert found.columns == "at.lr"
    assert [row.levels for row in found.table] == [("a",), ("b",), ("plain",)]
    assert found.table[2].means == (None, None)
    assert found.table[2].margin.mean == 0.5
    assert found.margins[0].mean == pytest.approx((0.25 + 0.4) / 2)
    (only,) = along(crossing)
    assert list(only.lines) == ["a", "b"]


def test_no_axes_no_table(finished):
    assert crossed(read(finished)) is None
    assert list(along(read(finished))) == []


def test_a_line_is_averaged_over_the_other_axes_at_equal_levels():
    arms = [
        arm_of("a", dict.fromkeys(range(3), 0.1 * i), x=x, y=y)
        for i, (x, y) in enumerate([("1", "p"), ("1", "q"), ("2", "p"), ("2", "q"), ("1", "r")])
    ]
    other = [arm_of("b", {0: 0.9, 1: 0.9, 2: 0.9}, x=x, y="p") for x in ("1", "2")]
    by_x, by_y = along(grid_of(*arms, *other))
    assert (by_x.axis, by_x.by, by_x.over) == ("at.x", "arm", ("at.y",))
    # r is not there at x = 2, and has no part in the mean at x = 1.
    assert {level: mean.mean for level, mean in by_x.lines["a"].items()} == {
        "1": pytest.approx(0.05), "2": pytest.approx(0.25),
    }  # fmt: skip
    assert by_y.levels == ("p", "q", "r")
    (alone,) = along(grid_of(*arms))
    assert (alone.axis, alone.by, list(alone.lines)) == ("at.x", "at.y", ["p", "q", "r"])


def test_an_unstable_arm_has_no_mean(crossing):
    lost = tuple(Cell("b@lr=2", seed, f"lost{seed}", "failed") for seed in (1, 2))
    arms = (*crossing.arms[:3], replace(crossing.arms[3], cells=(crossing.arms[3].cells[0], *lost)))
    assert crossed(replace(crossing, arms=arms)).table[1].means[1] is None
    (only,) = along(replace(crossing, arms=arms))
    assert list(only.lines["b"]) == ["1"]


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.52, 0.5, 0.5], [0.607, 0.407, 0.507]),
        ([], []),
    ],
)
def test_labels_move_apart_and_no_further(wanted, places):
    assert spread_out(wanted, 0.1) == pytest.approx(places, abs=1e-3)


def test_the_plot_names_its_lines_at_their_ends(crossing):
    (panel,) = factors(crossing)
    assert panel.fault == ""
    assert panel.alt.startswith("Interaction plot of at.lr by arm, mean and interval over seeds. a: 1 0.2, 2 0.3; b: ")
    assert all(f">{line}<" in panel.svg for line in ("a", "b"))
