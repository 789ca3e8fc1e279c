"""A/A arms and arms of equal strength."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.analysis import analyse
from reports.controls import band, floor_of, strength
from reports.figures import forests
from reports.leading import LARGE, leading
from reports.metrics import Metric, Schema
from reports.pages import render
from reports.records import Arm, Contrast, Matched, Sweep
from reports.runs import Cell
from reports.statistics.noise import NoiseFloor, noise_floor

DRIFT = "drift/velocity_mse"
SCHEMA = Schema({DRIFT: Metric(DRIFT, "velocity MSE", "Drift", "lower", phrase="drift")})
NAMES = ("differences", "parts", "turns", "learning", "hacking", "drift", "penalties", "diagnostics")


def couple(arm, other):
    return Contrast(arm, other, ((arm, other),))


def arm_of(name, scores, metric="score", **fields):
    cells = tuple(Cell(name, seed, f"{name}{seed}", "done", {}, {}, {metric: x}, 5) for seed, x in enumerate(scores))
    return Arm(name, (), False, cells, **fields)


def sweep_of(*arms, planned=(), **fields):
    return Sweep(
        name="s", grid="g", question="?", recipe="r", baseline=arms[0].name, primary="score", higher_is_better=True,
        secondary=(), planned=tuple(planned), alpha=0.05, correction="bonferroni", command=("c",),
        seeds=tuple(range(len(arms[0].cells))), arms=arms, refused=(), created="", git_sha="", schema=SCHEMA, **fields,
    )  # fmt: skip


ONES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@pytest.fixture(scope="module")
def repeated():
    """A baseline that is repeated twice, once without its last seed, and two other arms."""
    first, second = [x + 0.02 for x in ONES], [x - 0.01 for x in ONES[:-1]]
    return sweep_of(
        arm_of("a", ONES),
        arm_of("b", [x + 0.3 for x in ONES], against="a"),
        arm_of("c", ONES[::-1], against="a"),
        arm_of("replicate1", first, repeats="a"),
        arm_of("replicate2", second, repeats="a"),
        planned=[couple("b", "a")],
    )


def test_the_noise_floor_by_hand():
    """Squares about their means: 2 of (1, 3) and 6 of (2, 2, 5), over 1 + 2 degrees of freedom."""
    floor = noise_floor([[1, 3], [2, 2, 5], [9]])
    assert floor == NoiseFloor(pytest.approx((8 / 3) ** 0.5), 3)
    assert floor.half_width(2 / 6) == pytest.approx(stats.t.ppf(0.975, 3) * (8 / 3 * 2 / 6) ** 0.5)
    assert noise_floor([[1], [2]]) is None
    assert noise_floor([]) is None


@pytest.mark.parametrize("repetitions", [1, 3])
def test_so_many_differences_of_equal_arms_lie_within_the_floor(repetitions):
    rng, inside = np.random.default_rng(3), []
    for _ in range(1500):
        runs = rng.normal(size=(6, 1)) + rng.normal(size=(6, 1 + repetitions))
        mean = rng.normal(0, (2 / 6) ** 0.5)
        inside.append(abs(mean) < noise_floor(runs).half_width(2 / 6))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.lists(st.integers(-99, 99), min_size=1, max_size=4), max_size=6), st.integers(-9, 9))
def test_a_floor_knows_nothing_of_what_a_seed_shares(groups, shift):
    found, moved = noise_floor(groups), noise_floor([x + shift * k for x in g] for k, g in enumerate(groups))
    assert (found is None) == (moved is None) == all(len(group) < 2 for group in groups)
    if found:
        assert (moved.sd, moved.df) == (pytest.approx(found.sd), found.df)


def test_repetitions_are_a_family_of_their_own_and_in_no_other(repeated):
    analysis = analyse(repeated)
    families = {family.key: family for family in analysis.families}
    assert [pair.name for pair in families["replicates"].pairs] == ["replicate1 − a", "replicate2 − a"]
    others = [*(family for key, family in families.items() if key != "replicates"), analysis.exploratory]
    assert not [p.name for family in others for p in family.pairs if any("replicate" in name for name in p.arms)]
    assert {"baseline", "pairs"} <= families.keys()
    assert analysis.verdict == analyse(replace(repeated, arms=repeated.arms[:3])).verdict


def test_a_band_is_as_wide_as_the_comparison_makes_it(repeated):
    """Means over seeds and levels narrow it, a difference of differences widens it, a constant has no noise."""
    floor = floor_of(repeated)
    assert floor.df == 5 * 2 + 1
    spread = 5 * np.var([0, 0.02, -0.01]) * 3 + np.var([0, 0.02]) * 2
    assert floor.sd == pytest.approx((spread / 11) ** 0.5)
    fixed = Arm("untouched", (), True, (Cell("untouched", 0, "u", "done", metrics={"score": 0.0}),))
    sweep = replace(repeated, arms=(*repeated.arms, fixed))

    def runs(contrast, seeds=6):
        return (band(floor, sweep, contrast, seeds) / floor.half_width(1)) ** 2

    assert runs(couple("b", "a")) == pytest.approx(2 / 6)
    assert runs(couple("b", "a"), seeds=3) == pytest.approx(2 / 3)
    assert runs(couple("b", "untouched")) == pytest.approx(1 / 6)
    levels = (("b", "a"), ("c", "a"))
    assert runs(Contrast("b", "a", levels)) == pytest.approx(2 / 12)
    assert runs(Contrast("x", "y", levels, summed=True)) == pytest.approx(4 / 6)


def test_every_comparison_has_its_band_and_forests_draw_it(repeated):
    analysis = analyse(repeated)
    assert all(pair.noise for family in analysis.families for pair in family.pairs)
    (pair,) = analysis.family("baseline").pairs
    assert pair.noise == pytest.approx(floor_of(repeated).half_width(2 / 6))
    drawn = {panel.name: panel for panel in forests(analysis)}
    assert f"if arms are equal, 95 % of means lie within {pair.noise:.2g} of 0" in drawn["forest_baseline"].alt
    without = analyse(replace(repeated, arms=repeated.arms[:3]))
    assert not any(pair.noise for family in without.families for pair in family.pairs)
    (plain,) = (panel for panel in forests(without) if panel.name == "forest_baseline")
    assert "A/A" not in plain.svg
    assert "(A/A)" in drawn["forest_baseline"].svg


@pytest.mark.parametrize("scale", [1.0, 7e-4, 1e-5])
def test_labels_of_a_forest_are_few_and_short_however_small_the_differences(repeated, scale):
    arms = [
        replace(arm, cells=tuple(replace(c, metrics={"score": scale * c.metrics["score"]}) for c in arm.cells))
        for arm in repeated.arms
    ]
    (panel, *_) = forests(analyse(replace(repeated, arms=tuple(arms))))
    labels = re.findall(r'id="xtick_\d+">.*?<text[^>]*>([^<]*)</text>', panel.svg, re.DOTALL)
    assert 2 <= len(labels) <= 7
    assert max(map(len, labels)) <= 5


def test_a_difference_between_equal_arms_is_a_warning(repeated):
    """A repetition differs from the baseline by one amount in every seed."""
    found = analyse(replace(repeated, arms=repeated.arms[:4]))
    (warning,) = [text for text in found.warnings if "runs of one configuration" in text]
    assert "replicate1 − a is +0.020" in warning
    assert "By chance alone that happens in 5 % of sweeps at most" in warning
    honest = arm_of("replicate1", [x + d for x, d in zip(ONES, (1, -1, 2, -2, 3, -3), strict=True)], repeats="a")
    calm = analyse(replace(repeated, arms=(*repeated.arms[:3], honest)))
    assert not [text for text in calm.warnings if "runs of one configuration" in text]


def test_of_a_large_sweep_the_repetitions_are_kept(repeated):
    many = [arm_of(f"m{k}", [k] * 6) for k in range(LARGE)]
    kept = {arm.name for arm in leading(replace(repeated, arms=(*repeated.arms, *many))).arms}
    assert {"a", "replicate1", "replicate2"} <= kept
    assert len(kept) == LARGE + 2


def matched_sweep(first, second):
    """Two arms with these drifts, called matched."""
    arms = (arm_of("kl", first, DRIFT), arm_of("mse", second, DRIFT))
    return sweep_of(*arms, matched=Matched(DRIFT, (couple("mse", "kl"),)))


def test_matched_arms_that_drift_differently_are_a_warning():
    """The review's case: a tenth more drift in the one arm, in every seed."""
    analysis = analyse(matched_sweep(ONES, [1.1 * x for x in ONES]))
    (warning,) = [text for text in analysis.warnings if "matched" in text]
    assert warning.startswith(
        "Arms that are called matched differ in drift: mse − kl is +0.035, 10% of kl's (+0.010 to"
    )
    assert strength(analysis.sweep, analysis.matched) == [warning]


def test_of_matched_arms_that_are_not_shown_to_differ_it_is_said_how_much_they_may():
    drifts = [x + d for x, d in zip(ONES, (0.07, -0.07, 0.07, -0.07, 0.07, -0.07), strict=True)]
    analysis = analyse(matched_sweep(ONES, drifts))
    assert not [text for text in analysis.warnings if "matched" in text]
    (told,) = strength(analysis.sweep, analysis.matched)
    (pair,) = analysis.matched.pairs
    assert told == (
        "Matched strength: no difference in drift is shown for mse − kl (−0.070 to +0.070); one of up to 0.070, 20% of"
        " kl's is not excluded."
    )
    assert pair.interval.largest == pytest.approx(0.07)


def test_what_is_not_known_of_matched_arms_is_said():
    few = analyse(matched_sweep(ONES[:3], ONES[:3]))
    assert strength(few.sweep, few.matched) == ["Matched strength is not testable with n = 3: mse − kl in drift."]
    unmeasured = sweep_of(arm_of("kl", ONES), arm_of("mse", ONES), matched=Matched(DRIFT, (couple("mse", "kl"),)))
    analysis = analyse(unmeasured)
    assert analysis.matched is None
    assert strength(unmeasured, None) == [
        "Nothing is known of the strength of the matched arms: no two have a seed with drift in common."
    ]
    assert strength(replace(unmeasured, matched=None), None) == []


def test_the_pages_have_both(repeated):
    drifting = replace(repeated, matched=Matched("score", (couple("c", "b"),)))
    files = render(analyse(drifting), {name: [] for name in NAMES})
    page, words = files["report.html"].decode(), files["report.md"].decode()
    assert "by 11 repeated runs of the baseline&#39;s configuration" in page.replace("'", "&#39;")
    assert "Noise: the baseline against itself (A/A)" in page
    assert "a again" in page
    assert "<h3>Matched strength</h3>" in page
    assert "## Matched strength" in words
    plain = render(analyse(replace(repeated, arms=repeated.arms[:3])), {name: [] for name in NAMES})
    assert "A/A" not in plain["report.html"].decode()
    assert "Matched strength" not in plain["report.html"].decode()
