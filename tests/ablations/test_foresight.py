"""What a plan says of power: known answers, and where the spread is from."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablations.costs import Cost, Estimates
from ablations.foresight import foresight, known_spread
from ablations.grid import Spread
from ablations.plan import make_plan
from tests.ablations.test_plan import grid_of

ARMS = {"a": (), "b": ("optim.image_lr=2e-4",), "c": ("optim.image_lr=3e-4",)}
RECORD = Spread(0.0445, 6, "docs/results.md")


def finished(root, plan, scores, metrics=lambda score: {"geneval/strict": score}):
    """Leave cells behind as if arms had these scores, seed by seed."""
    arms = {arm.name: arm for arm in plan.arms}
    for name, values in scores.items():
        for seed, score in enumerate(values):
            folder = root / "cells" / arms[name].cell(seed).id
            folder.mkdir(parents=True, exist_ok=True)
            result = json.dumps({"metrics": metrics(score)}).encode()
            (folder / "result.json").write_bytes(result)
            (folder / "DONE").write_text(hashlib.sha256(result).hexdigest())


def told(plan, root, estimates=None):
    return [*foresight(plan, root, estimates or Estimates(plan.cells()))]


def test_the_spread_of_finished_cells_by_hand(tmp_path):
    """Differences 1, 2, 3, 6 of b (squares about the mean 3: 14) and 0, 0, 2, 2 of c (4): 18 over 6 degrees."""
    plan = make_plan(grid_of(arms=ARMS))
    finished(tmp_path, plan, {"a": [10, 20, 30, 40], "b": [11, 22, 33, 46], "c": [10, 20, 32, 42]})
    known = known_spread(plan, tmp_path)
    assert known.sd == pytest.approx(3**0.5)
    # Two comparisons with one baseline: 4/5 of the degrees that they would have apart.
    assert known.df == 4
    assert known.words == "of finished cells of this root (4 seeds, 2 comparisons)"


def test_the_spread_of_arms_that_are_not_paired_is_their_own(tmp_path):
    scores = {"a": [1.0, 2.0, 3.0, 6.0], "b": [5.0, 5.0, 7.0, 7.0]}
    plan = make_plan(grid_of(arms={name: ARMS[name] for name in scores}, test="unpaired"))
    finished(tmp_path, plan, scores)
    expected = sum(np.var(values, ddof=1) for values in scores.values()) ** 0.5
    assert known_spread(plan, tmp_path).sd == pytest.approx(expected)


def test_the_spread_of_a_main_effect_is_that_of_its_mean_over_the_levels(tmp_path):
    plan = make_plan(grid_of(axes={"dynamics": ("flow_sde", "dance_sde")}))
    flow, dance = [1.0, 2.0, 3.0, 6.0], [3.0, 2.0, 1.0, 6.0]
    level = "@dynamics="
    scores = {f"b{level}flow_sde": flow, f"b{level}dance_sde": dance}
    finished(tmp_path, plan, scores | {f"a{level}{name}": [0.0] * 4 for name in ("flow_sde", "dance_sde")})
    assert known_spread(plan, tmp_path).sd == pytest.approx(np.std([2, 2, 2, 6], ddof=1))


def test_differences_that_do_not_vary_tell_no_spread(tmp_path):
    plan = make_plan(grid_of())
    finished(tmp_path, plan, {"a": [0.0] * 6, "b": [1.0] * 6})
    assert known_spread(plan, tmp_path) is None
    assert "finished cells here tell no spread" in told(plan, tmp_path)[0]


def test_what_is_not_trained_counts_for_every_seed(tmp_path):
    plan = make_plan(grid_of(arms={"a": (), "b": ("optim.updates=0",)}))
    finished(tmp_path, plan, {"a": [1.0, 2.0, 3.0, 6.0], "b": [9.0]})
    assert known_spread(plan, tmp_path).sd == pytest.approx(np.std([1, 2, 3, 6], ddof=1))


def test_repetitions_of_the_baseline_do_not_count(tmp_path):
    plan = make_plan(grid_of(replicate=1))
    finished(tmp_path, plan, {"a": [0.0] * 4, "b": [1.0, 2.0, 3.0, 6.0], "replicate1": [0.0, 99.0, 0.0, 99.0]})
    assert known_spread(plan, tmp_path).sd == pytest.approx(np.std([1, 2, 3, 6], ddof=1))


def test_the_record_counts_until_four_seeds_have_finished(tmp_path):
    plan = make_plan(grid_of(spread=RECORD))
    assert known_spread(plan, tmp_path).words == "as docs/results.md has it from 6 seeds"
    scores = {"a": [0.1, 0.2, 0.4], "b": [0.3, 0.3, 0.3]}
    finished(tmp_path, plan, scores)
    assert (known_spread(plan, tmp_path).sd, known_spread(plan, tmp_path).df) == (0.0445, 5)
    finished(tmp_path, plan, {name: [*values, 0.5] for name, values in scores.items()})
    assert known_spread(plan, tmp_path).sd == pytest.approx(np.std([0.2, 0.1, -0.1, 0.0], ddof=1))


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_cell_without_the_measure_does_not_count(tmp_path, score):
    plan = make_plan(grid_of(spread=RECORD))
    finished(tmp_path, plan, {"a": [0.1, 0.2, 0.4, 0.5], "b": [0.3, 0.3, 0.3, score]})
    assert known_spread(plan, tmp_path).sd == 0.0445


@settings(max_examples=10)
@given(st.lists(st.tuples(*3 * [st.integers(-50, 50)]), min_size=4, max_size=6), st.integers(-9, 9), st.integers(1, 9))
def test_a_spread_knows_no_shift_of_an_arm_and_grows_with_the_scale(tmp_path_factory, rows, shift, scale):
    root, plan = tmp_path_factory.mktemp("root"), make_plan(grid_of(arms=ARMS), seeds=tuple(range(len(rows))))
    scores = dict(zip("abc", map(list, zip(*rows, strict=True)), strict=True))
    finished(root, plan, scores)
    before = known_spread(plan, root)
    finished(root, plan, {arm: [scale * x + shift * (arm == "b") for x in values] for arm, values in scores.items()})
    after = known_spread(plan, root)
    assert (before is None) == (after is None)
    if before:
        assert after.sd == pytest.approx(scale * before.sd)
        pooled = np.array([np.var(np.subtract(scores[arm], scores["a"]), ddof=1) for arm in "bc"]).mean() ** 0.5
        assert before.sd == pytest.approx(pooled)


def test_the_smallest_effect_is_that_of_the_noncentral_t(tmp_path):
    plan = make_plan(grid_of(test="paired_t", spread=Spread(1.0, 6, "x")), seeds=tuple(range(12)))
    first, *_ = told(plan, tmp_path)
    effect = float(re.match(r"12 seeds show a difference of ([\d.]+) with 80 % power", first)[1])
    exact = stats.nct.sf(stats.t.isf(0.025, 11), 11, effect * 12**0.5)
    assert exact == pytest.approx(0.8, abs=0.01)


def test_each_comparison_of_a_family_has_its_share_of_alpha(tmp_path):
    """And all of alpha where all must differ."""

    def level(**changes):
        plan = make_plan(grid_of(arms=ARMS, spread=RECORD, **changes), seeds=tuple(range(10)))
        return re.search(r"by sign_flip at level ([\d.]+)", told(plan, tmp_path)[0])[1]

    assert (level(), level(correction="bh"), level(correction="none")) == ("0.025", "0.025", "0.05")


def test_of_several_looks_the_last_counts(tmp_path):
    looks = {"design": "group_sequential", "looks": (4, 8), "seeds": tuple(range(8))}
    (first, *_) = told(make_plan(grid_of(spread=RECORD, **looks), seeds=(0, 1, 2, 3)), tmp_path)
    assert first.startswith("8 seeds show a difference of ")
    assert first.endswith("by sign_flip at level 0.049 of the last look")


def test_the_seeds_of_the_margin_and_what_they_cost(tmp_path):
    plan = make_plan(grid_of(spread=RECORD, margin=0.05))
    estimates = Estimates(plan.cells())
    estimates.learn(plan.cells()[1], Cost(1, seconds=600.0))
    smallest, margin, spread = told(plan, tmp_path, estimates)
    # The page of the review: .080 with six seeds.
    assert smallest == (
        "6 seeds show a difference of 0.08 with 80 % power (0.05 to 0.2 over the range of the spread), by sign_flip at"
        " level 0.05; its cells take 2.0 h of one CPU worker"
    )
    assert margin == (
        "equal arms are found equal within 0.05 with 80 % power from 9 seeds on; its cells take 3.0 h of one CPU worker"
    )
    assert spread == (
        "by a spread from seed to seed of 0.0445, 95 % range 0.028 to 0.11, as docs/results.md has it from 6 seeds"
    )
    estimates.learn(plan.cells()[1], Cost(1, seconds=600.0, gpu_seconds=1200.0))
    assert told(plan, tmp_path, estimates)[0].endswith("its cells take 4 GPU-hours")


def test_what_no_number_of_seeds_shows_is_said(tmp_path):
    plan = make_plan(grid_of(spread=RECORD, margin=0.0001), seeds=(0, 1, 2))
    smallest, margin, _ = told(plan, tmp_path)
    assert smallest == "3 seeds cannot show an effect of any size, by sign_flip at level 0.05"
    assert margin == "equal arms are found equal within 0.0001 with 80 % power from more than 1,000 seeds on"


def test_an_unknown_spread_is_said_to_be_unknown_and_what_would_tell(tmp_path):
    (line,) = told(make_plan(grid_of()), tmp_path)
    assert "is not known" in line
    assert "seeds=4 root=pilot" in line
    assert not told(make_plan(grid_of(arms={"a": ()})), tmp_path)


def test_a_plan_shows_it(sandbox, capsys):
    sandbox.inline("seeds=4")
    capsys.readouterr()
    assert sandbox.inline("seeds=8", "action=plan", "only=none:*") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("power ")]
    assert re.match(r"power     8 seeds show a difference of [\d.]+ with 80 % power", lines[0])
    assert lines[-1].endswith("of finished cells of this root (4 seeds)")
