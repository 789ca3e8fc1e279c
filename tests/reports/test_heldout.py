"""Learning curves on held-out prompts: their end, what they rest on, and where reward and judge part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reports.collect import read
from reports.curves import learning
from reports.heldout import held_out, parting
from reports.runs import Series
from tests.reports.synthetic import write_sweep

GOLD, PROXY = "geneval/strict", "heldout/proxy"
STEPS = np.array([0.0, 15.0, 30.0, 45.0])
#: From update 15 on the judge's score falls, while the reward rises.
FALLING = [0.40, 0.60, 0.55, 0.50]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three seeds of 60 updates, with evaluations in the loop; the judge ends near .47 under none."""
    return with_loop(read(write_sweep(tmp_path_factory.mktemp("loop"), seeds=range(3), updates=60)), FALLING)


def with_loop(sweep, judged, logged=(GOLD, PROXY)):
    curves = {GOLD: judged, PROXY: [0.4, 0.5, 0.6, 0.65]}

    def changed(cell):
        shift = 0.01 * cell.seed  # what seeds share
        loop = {f"eval/{name}": Series(STEPS, np.array(curves[name]) + shift) for name in logged}
        kept = {name: series for name, series in cell.history.items() if not name.startswith("eval/")}
        evaluation = {"loop_images_per_prompt": 1, "split": "test"}
        return dataclasses.replace(cell, history=kept | loop, config={**cell.config, "evaluation": evaluation})

    arms = (
        arm if arm.untouched else dataclasses.replace(arm, cells=tuple(map(changed, arm.cells))) for arm in sweep.arms
    )
    return dataclasses.replace(sweep, arms=tuple(arms))


def test_a_curve_ends_with_the_final_evaluation(sweep):
    found = {measure.name: measure for measure in held_out(sweep)}
    assert [*found] == [f"eval/{GOLD}", f"eval/{PROXY}"]
    for arm in sweep.trained:
        for cell in arm.cells:
            series = found[f"eval/{GOLD}"].curves[arm.name][cell.seed]
            assert series.steps.tolist() == [0, 15, 30, 45, 60]
            assert series.values[-1] == cell.metrics[GOLD]


def test_a_title_says_which_prompts_and_how_many_images_there_are(sweep):
    (images,) = sweep.evaluated.images
    first = held_out(sweep)[0]
    assert first.title.endswith(f" on test prompts, 1 image each, at the end {images}")
    unsaid = dataclasses.replace(
        sweep,
        arms=tuple(
            dataclasses.replace(a, cells=tuple(dataclasses.replace(c, config={}) for c in a.cells)) for a in sweep.arms
        ),
    )
    assert held_out(unsaid)[0].title.endswith(" on held-out prompts")


def test_the_judges_figure_marks_where_it_parts_from_the_reward(sweep):
    found = held_out(sweep)
    assert found[0].partings["none"] == 15.0
    assert not found[1].partings
    panels = {panel.name: panel for panel in learning(sweep)}
    assert "none: after update 15 the reward rises and this falls" in panels["eval_geneval_strict"].alt
    assert "the reward rises" not in panels["eval_heldout_proxy"].alt


def test_no_mark_is_drawn_where_the_judge_rises_to_the_end(sweep):
    rising = with_loop(sweep, [0.1, 0.2, 0.3, 0.35])
    assert not held_out(rising)[0].partings


def test_without_evaluations_in_the_loop_there_is_no_such_figure(sweep):
    assert held_out(with_loop(sweep, FALLING, logged=())) == []


def table(*rows):
    return {seed: Series(np.arange(len(row), dtype=float), np.array(row, dtype=float)) for seed, row in enumerate(rows)}


UP = table([0, 1, 3], [0, 1, 3.5], [0, 1, 4])


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (table([0, 5, 3], [0, 5, 2], [0, 6, 4]), 1.0),
        (table([9, 5, 3], [9, 5, 2], [9, 6, 4]), 0.0),
        # It falls in the mean, but one seed says the contrary.
        (table([0, 5, 3], [0, 5, 1], [0, 5, 6]), None),
        (table([0, 5, 3], [0, 5, 2]), None),  # too few seeds
        ({}, None),
    ],
)
def test_partings_by_hand(judged, expected):
    assert parting(UP, judged) == expected


def test_a_reward_that_does_not_rise_parts_from_nothing():
    flat = table([0, 1, 1], [0, 1, 1], [0, 1, 1])
    falling = table([0, 5, 3], [0, 5, 2], [0, 6, 4])
    assert parting(flat, falling) is None
    # Of a measure of which less is better, a fall is the better direction.
    distance = {seed: Series(series.steps, -series.values) for seed, series in falling.items()}
    assert parting(UP, distance, judged_up=False) == 1.0
    assert parting(UP, distance) == 0.0  # read as a score, its best is the start
