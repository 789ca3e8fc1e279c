"""Ladders in a grid: what they may be, what a plan compares, and what is declared of them."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from ablations import declaration
from ablations.foresight import known_spread
from ablations.grid import Tune, load_grid
from ablations.ladder import At
from ablations.plan import make_plan
from ablations.record import write_sweep
from ablations.tuning import candidates
from reports import history
from tests.ablations.test_foresight import finished
from tests.ablations.test_plan import grid_of, plan_of, write_grid
from unigrpo.errors import ConfigError

ARMS = {
    "free": ("regularizer=none",),
    "a_low": ("regularizer=latent_kl", "regularizer.weight=0.1"),
    "a_high": ("regularizer=latent_kl", "regularizer.weight=0.2"),
    "b_low": ("regularizer=velocity_mse", "regularizer.weight=0.1"),
    "b_high": ("regularizer=velocity_mse", "regularizer.weight=0.2"),
}
RUNGS = {"a": ("free", "a_low", "a_high"), "b": ("free", "b_low", "b_high")}
AT = At("heldout/proxy", 0.75, RUNGS)


def ladder_grid(at=AT, **changes):
    return grid_of(**{"baseline": "a_low", "arms": ARMS, "at": at} | changes)


def test_ladders_are_compared_in_the_place_of_arms():
    """One comparison, and so no correction for five arms."""
    plan = make_plan(ladder_grid())
    assert [(each.arm, each.other, each.couples) for each in plan.comparisons] == [("b", "a", (("b", "a"),))]
    assert {ladder.name: ladder.arms for ladder in plan.ladders} == RUNGS


def test_an_axis_makes_a_ladder_at_each_of_its_levels_and_one_main_effect():
    plan = make_plan(ladder_grid(axes={"optim.image_lr": (1e-4, 2e-4)}))
    levels = [f"image_lr={level}" for level in ("0.0001", "0.0002")]
    assert [ladder.name for ladder in plan.ladders] == [f"{name}@{level}" for name in "ab" for level in levels]
    (only,) = plan.comparisons
    assert only.couples == tuple((f"b@{level}", f"a@{level}") for level in levels)


def test_rungs_that_never_meet_are_told():
    """The arm without a penalty has no weight to vary, so that it lies at no point with the others."""
    arms = {name: overrides[:1] for name, overrides in ARMS.items() if not name.endswith("high")}
    rungs = {"a": ("free", "a_low"), "b": ("free", "b_low")}
    plan = make_plan(
        ladder_grid(dataclasses.replace(AT, ladders=rungs), arms=arms, axes={"regularizer.weight": (1, 2)})
    )
    assert not plan.comparisons
    assert [note for note in plan.notes if note.startswith("at: at no point of the axes")]


@pytest.mark.parametrize(
    ("at", "changes", "told"),
    [
        ({"level": math.nan}, {}, "at.level: expected a finite number, in units of heldout/proxy, got nan"),
        ({"ladders": {"a": RUNGS["a"]}}, {}, "at.ladders: expected two or more to compare, got 1"),
        ({"ladders": RUNGS | {"free": RUNGS["b"]}}, {}, "'free' is the name of an arm; give the ladder another one"),
        ({"ladders": RUNGS | {"c@1": RUNGS["b"]}}, {}, "without '@', got 'c@1'"),
        (
            {"ladders": RUNGS | {"b": ("free", "b_lo")}},
            {},
            "at.ladders.b: no arm is called 'b_lo'; did you mean 'b_low'?",
        ),
        ({"ladders": RUNGS | {"b": ("free",)}}, {}, "at.ladders.b: expected two arms or more, each once, got ['free']"),
        ({"ladders": RUNGS | {"b": ("free", "free")}}, {}, "each once, got ['free', 'free']"),
        ({}, {"comparisons": ("b_low",)}, "comparisons: with at, its ladders are compared; leave out ['b_low']"),
    ],
)
def test_ladders_that_make_no_sense_are_refused(at, changes, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        ladder_grid(dataclasses.replace(AT, **at), **changes)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{measure: m, level: 1}", "at: expected the keys measure, level, ladders, got measure, level"),
        ("{measure: m, level: high, ladders: {}}", "at.level: expected a number, got 'high'"),
        ("{measure: m, level: 1, ladders: {x: a}}", "at.ladders.x: expected a list, got 'a'"),
    ],
)
def test_a_key_of_the_wrong_form_is_refused(tmp_path, written, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_grid(write_grid(tmp_path, f"at: {written}"))


def test_a_measure_that_no_arm_has_is_refused():
    with pytest.raises(ConfigError, match=r"at.measure: no arm measures 'heldout/prox'; did you mean 'heldout/proxy'"):
        make_plan(ladder_grid(dataclasses.replace(AT, measure="heldout/prox")))


def test_another_level_is_another_declaration_and_the_order_of_rungs_is_none(tmp_path):
    plan, again, higher = (
        make_plan(ladder_grid(dataclasses.replace(AT, **changes)))
        for changes in ({}, {"ladders": {name: rungs[::-1] for name, rungs in RUNGS.items()}}, {"level": 0.8})
    )
    content = declaration.content_of(plan)
    assert content["at"] == (
        "geneval/strict where heldout/proxy is 0.75, along a: a_high, a_low, free; b: b_high, b_low, free"
    )
    assert declaration.hash_of(content) == declaration.hash_of(declaration.content_of(again))
    assert declaration.hash_of(content) != declaration.hash_of(declaration.content_of(higher))
    # A report asks sweep.json for the same content, whose hash it compares.
    written = json.loads((write_sweep(tmp_path, plan, "sweep") / "sweep.json").read_text())
    assert history.content_of(written) == content
    assert written["at"]["ladders"] == {name: [*rungs] for name, rungs in RUNGS.items()}


def test_other_grids_declare_what_they_always_did():
    assert "at" not in declaration.content_of(plan_of())


def test_settings_are_tried_of_arms_and_not_of_ladders():
    settings = dict.fromkeys(ARMS, (("optim.image_lr=1e-4",), ("optim.image_lr=2e-4",)))
    grid = ladder_grid(tune=Tune((100, 101), settings))
    assert candidates(grid).at is None


def test_the_spread_of_finished_ladders_by_hand(tmp_path):
    """Level .75 lies in the middle of two rungs, so that a ladder is worth their mean; seed 4 does not reach it."""
    plan = make_plan(ladder_grid(seeds=(0, 1, 2, 3, 4)))
    scores = {
        "a_low": [1.0, 2, 3, 4, 9],
        "a_high": [3.0, 2, 5, 4, 9],
        "b_low": [2.0, 4, 4, 8, 9],
        "b_high": [4.0, 6, 8, 8, 9],
    }
    proxies = {"a_low": 0.8, "a_high": 0.7, "b_low": 0.76, "b_high": 0.74, "free": 0.9}
    rows = {name: [(proxies[name], score) for score in found] for name, found in scores.items()}
    rows["free"] = [(0.9, 0.0)] * 5
    rows["b_high"][4] = (0.755, 9.0)
    finished(tmp_path, plan, rows, lambda row: {"heldout/proxy": row[0], "geneval/strict": row[1]})
    differences = [3 - 2, 5 - 2, 6 - 4, 8 - 4]
    assert known_spread(plan, tmp_path).sd == pytest.approx(np.std(differences, ddof=1))
