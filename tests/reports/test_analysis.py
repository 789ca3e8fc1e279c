"""What is concluded from a sweep."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.stats import ttest_ind, ttest_rel

from reports.analysis import analyse
from reports.collect import read
from reports.records import Arm, Contrast
from reports.runs import Cell
from reports.statistics import nominal_levels
from tests.reports.synthetic import ARMS, write_sweep


@pytest.fixture(scope="module")
def troubled_analysis(troubled):
    return analyse(read(troubled))


def pairs(analysis, key):
    return {(pair.arm, pair.other): pair for pair in analysis.family(key).pairs}


def edit(folder, **changes):
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def against(other, *arms):
    """Planned comparisons, as sweep.json has them."""
    return [{"arm": arm, "other": other, "couples": [[arm, other]], "words": f"{arm} − {other}"} for arm in arms]


def test_families(finished):
    analysis = analyse(read(finished))
    assert set(pairs(analysis, "baseline")) == {("latent_kl", "none"), ("velocity_mse", "none")}
    assert {arm for arm, _ in pairs(analysis, "untouched")} == {"none", "latent_kl", "velocity_mse"}
    assert len(pairs(analysis, "pairs")) == 3


def test_pairs_are_made_by_seed(troubled_analysis):
    pair = pairs(troubled_analysis, "pairs")["velocity_mse", "latent_kl"]
    assert pair.seeds == (0, 1, 3)
    sweep = troubled_analysis.sweep
    mine, theirs = (sweep.arm(name).values("geneval/strict") for name in ("velocity_mse", "latent_kl"))
    assert pair.comparison.differences == pytest.approx([mine[s] - theirs[s] for s in pair.seeds])


def test_the_untouched_model_is_a_constant(troubled_analysis):
    sweep = troubled_analysis.sweep
    pair = pairs(troubled_analysis, "untouched")["none", "untouched"]
    constant = sweep.untouched.values("geneval/strict")[0]
    values = sweep.arm("none").values("geneval/strict")
    assert pair.comparison.mean == pytest.approx(np.mean(list(values.values())) - constant)
    assert pair.comparison.correlation is None
    assert pair.seeds == (0, 1, 2, 3, 4, 5)


def test_prompt_level_intervals_are_about_the_same_difference(finished):
    pair = pairs(analyse(read(finished)), "baseline")["velocity_mse", "none"]
    assert pair.crossed.mean == pytest.approx(pair.comparison.mean)
    assert pair.new_prompts.mean == pytest.approx(pair.comparison.mean)
    assert pair.new_prompts.n == 36


@pytest.mark.parametrize("family", ["stories", "edits", "reflections"])
def test_prompt_level_intervals_of_every_family(family, request):
    analysis = analyse(read(request.getfixturevalue(family)))
    for key in ("baseline", "untouched"):
        for pair in analysis.family(key).pairs:
            assert pair.crossed.mean == pytest.approx(pair.comparison.mean)
            assert pair.new_prompts.mean == pytest.approx(pair.comparison.mean)


def test_prompt_level_intervals_are_of_the_rows_that_make_the_metric(edits, tmp_path):
    """Of the third turn's alone; and there are none if the rows say nothing about the metric, such as the second's."""
    shutil.copytree(edits.parents[1], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "sweeps" / edits.name
    edit(folder, primary={"metric": "editing/turn/3/O", "direction": "max"})
    pair = pairs(analyse(read(folder)), "baseline")["velocity_mse", "none"]
    assert pair.crossed.mean == pair.new_prompts.mean == pytest.approx(pair.comparison.mean)
    for path in tmp_path.glob("cells/*/metrics_schema.json"):
        path.write_text(path.read_text().replace('"turn": 3', '"turn": 2'))
    pair = pairs(analyse(read(folder)), "baseline")["velocity_mse", "none"]
    assert pair.comparison.mean > 0
    assert pair.crossed is None
    assert pair.new_prompts is None


def test_trouble_is_said(troubled_analysis):
    text = "\n".join(troubled_analysis.warnings)
    assert "failed: velocity_mse/4" in text
    assert "not finished: latent_kl/5" in text
    assert "another evaluation set than the rest: excluded, never paired: latent_kl/2" in text
    assert "Under-powered: with n = 4 the smallest possible p is 0.12" in text
    assert "more than 0.025, as each of 2 comparisons is tested at that level; 7 seeds are needed" in text
    assert "Unequal compute, velocity evaluations in training relative to none: latent_kl 1.20×" in text


def test_six_seeds_cannot_carry_two_comparisons(finished):
    verdict = analyse(read(finished)).verdict
    assert verdict.status == "not testable"
    assert "not testable with n = 6" in verdict.sentence
    assert "nterval" not in verdict.sentence  # where there is none


def test_one_planned_comparison_is_not_corrected_for_the_others(tmp_path):
    analysis = analyse(read(write_sweep(tmp_path, planned=["velocity_mse"], updates=2)))
    (pair,) = analysis.family("baseline").pairs
    assert (pair.arm, pair.comparison.evidence.floor) == ("velocity_mse", 2 / 2**6)
    assert analysis.verdict.status != "not testable"
    assert {p.arm for p in analysis.family("untouched").pairs} == {"none", "latent_kl", "velocity_mse"}


def test_a_clear_difference_is_shown(tmp_path):
    arms = {name: ARMS[name] for name in ("none", "velocity_mse")}
    arms["velocity_mse"] = (*arms["velocity_mse"][:1], 0.8, *arms["velocity_mse"][2:])
    analysis = analyse(read(write_sweep(tmp_path, arms=arms, updates=2)))
    assert analysis.verdict.status == "difference shown"
    assert analysis.significant == {"velocity_mse"}
    assert analysis.family("pairs") is None  # it would only repeat the one comparison


def planned(*arms):
    return tuple(Contrast(arm, "none", ((arm, "none"),)) for arm in arms)


def judged(folder, **changes):
    """The verdict and the planned family of a sweep that was declared otherwise."""
    analysis = analyse(replace(read(folder), **changes))
    return analysis.verdict, analysis.family("baseline")


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Two arms that differ by .2, a third that is like the first; eight seeds."""
    arms = {name: ARMS[name] for name in ("none", "latent_kl", "velocity_mse")}
    arms["latent_kl"] = (*arms["latent_kl"][:1], arms["none"][1] + 0.2, *arms["latent_kl"][2:])
    arms["velocity_mse"] = (*arms["velocity_mse"][:1], arms["none"][1], *arms["velocity_mse"][2:])
    return write_sweep(tmp_path_factory.mktemp("eight"), arms=arms, seeds=list(range(8)), updates=2)


def test_equal_within_the_margin(eight):
    verdict, family = judged(eight, planned=planned("velocity_mse"), margin=0.1)
    assert verdict.status == "equal within margin"
    assert "velocity_mse and none are equal within the margin of ±0.100" in verdict.sentence
    (pair,) = family.pairs
    # Two one-sided tests at the family's level are the interval at twice the level; no narrower one will do.
    wide, narrow = (pair.comparison.evidence.interval(1 - k * family.level).largest for k in (2, 4))
    assert narrow < wide
    for margin, equal in ((wide * 1.01, True), ((wide + narrow) / 2, False)):
        assert judged(eight, planned=planned("velocity_mse"), margin=margin)[1].pairs[0].equal == equal
    verdict, _ = judged(eight, planned=planned("velocity_mse"), margin=1e-4)
    assert verdict.status == "no difference shown"


def test_what_is_not_shown_has_a_bound(eight):
    verdict, family = judged(eight, planned=planned("velocity_mse"))
    (pair,) = family.pairs
    assert verdict.status == "no difference shown"
    assert (
        f"an effect up to {max(abs(pair.interval.low), abs(pair.interval.high)):.3f} is not excluded"
        in verdict.sentence
    )


def test_a_difference_can_be_shown_and_lie_within_the_margin(eight):
    verdict, _ = judged(eight, planned=planned("latent_kl"), margin=0.5)
    assert verdict.status == "difference shown"
    assert "which lies within the margin of ±0.500" in verdict.sentence


def test_without_a_correction_all_must_differ(eight):
    """An intersection-union test says nothing about one of its comparisons: no arm is bold."""
    verdict, family = judged(eight, correction="none")
    assert [pair.shown for pair in family.pairs] == [True, False]
    assert family.shown == ()
    assert verdict.status == "no difference shown"
    assert analyse(replace(read(eight), correction="none")).significant == frozenset()
    assert judged(eight, correction="none", planned=planned("latent_kl"))[0].status == "difference shown"


def test_a_comparison_that_is_lost_was_to_be_made(eight):
    """All must differ, or be equal: of one that could not be made nothing is known."""
    lost = planned("latent_kl", "gone")
    assert judged(eight, correction="none", planned=lost)[0].status == "no difference shown"
    lost = planned("velocity_mse", "gone")
    assert judged(eight, planned=lost, margin=0.2)[0].status == "no difference shown"
    assert judged(eight, planned=planned("velocity_mse"), margin=0.2)[0].status == "equal within margin"


def test_intervals_hold_for_the_family_together(eight):
    verdict, family = judged(eight)
    assert family.level == 0.05 / 2
    assert "95 % for all 2 together" in verdict.sentence
    for pair in family.pairs:
        assert pair.interval == pair.comparison.evidence.interval(1 - family.level)
        assert pair.shown == (pair.p <= family.level) == (pair.p_adjusted <= 0.05)


def test_an_arm_that_has_no_result_was_planned_all_the_same(eight):
    """Leaving it out of the correction would reward losing it."""
    _, family = judged(eight, planned=planned("latent_kl", "velocity_mse", "gone"))
    assert len(family.pairs) == 2
    assert family.level == 0.05 / 3


def test_looks_spend_the_level(eight):
    sweep = {"design": "group_sequential", "planned": planned("latent_kl")}
    _, family = judged(eight, **sweep, looks=(4, 8, 12))
    assert family.alpha == pytest.approx(nominal_levels(0.05, (4, 8, 12))[1])
    assert judged(eight, **sweep, looks=(4, 8))[1].alpha == pytest.approx(nominal_levels(0.05, (4, 8))[1])
    verdict, family = judged(eight, **sweep, looks=(10, 20))
    assert family.alpha == 0
    assert verdict.status == "not testable"


def test_the_declared_test_decides(eight):
    for test in ("paired_t", "unpaired"):
        _, family = judged(eight, test=test)
        for pair in family.pairs:
            mine, theirs = (
                [sweep_arm.values("geneval/strict")[seed] for seed in pair.seeds]
                for sweep_arm in (read(eight).arm(pair.arm), read(eight).arm(pair.other))
            )
            expected = ttest_rel(mine, theirs) if test == "paired_t" else ttest_ind(mine, theirs)
            assert pair.p == pytest.approx(expected.pvalue, abs=1e-9 if test == "paired_t" else 0.05)


def test_no_difference_shown_is_a_verdict(tmp_path):
    arms = {"none": ARMS["none"], "same": ARMS["none"]}
    analysis = analyse(read(write_sweep(tmp_path, arms=arms, updates=2)))
    assert analysis.verdict.status == "no difference shown"
    assert "No difference shown between same and none" in analysis.verdict.sentence
    assert not analysis.significant


def test_lower_is_better_counts_the_other_way(tmp_path):
    folder = write_sweep(tmp_path, updates=2)
    edit(folder, primary={"metric": "heldout/distance_to_clean", "direction": "min"})
    pair = pairs(analyse(read(folder)), "baseline")["latent_kl", "none"]
    assert pair.comparison.mean < 0
    assert pair.comparison.improved == 6


def test_an_arm_with_two_failures_is_unstable_and_not_averaged(tmp_path):
    analysis = analyse(read(write_sweep(tmp_path, failed=[("latent_kl", 1), ("latent_kl", 2)], updates=2)))
    assert "latent_kl" not in analysis.intervals
    assert set(pairs(analysis, "baseline")) == {("velocity_mse", "none")}
    assert any("latent_kl is unstable" in warning for warning in analysis.warnings)


@pytest.mark.parametrize(
    ("failed", "planned", "unstable"), [(2, 20, False), (2, 10, False), (2, 7, True), (1, 4, True)]
)
def test_an_arm_is_unstable_by_the_share_of_its_seeds_that_failed(failed, planned, unstable):
    cells = (Cell("arm", seed, f"c{seed}", "failed" if seed < failed else "done", updates=1) for seed in range(planned))
    arm = Arm("arm", (), False, tuple(cells))
    assert arm.unstable == unstable
    # A model that is not trained has no unlucky seeds: those of its blocks that were evaluated count.
    assert not replace(arm, untouched=True).unstable
    assert not replace(arm, cells=tuple(replace(cell, updates=0) for cell in arm.cells)).unstable


def test_failures_of_arms_are_compared(tmp_path):
    lost = [("latent_kl", seed) for seed in range(5)] + [("velocity_mse", 0)]
    text = "\n".join(analyse(read(write_sweep(tmp_path, failed=lost, updates=2))).warnings)
    p = stats.fisher_exact([[5, 1], [0, 6]]).pvalue
    assert p == pytest.approx(2 * 6 / 792)  # by hand: of C(12, 5) ways, C(6, 5) have all five in one arm, either arm
    assert "Failed cells, against 0 of 6 of none, by Fisher's exact test without correction: latent_kl 5 of 6" in text
    assert "latent_kl 5 of 6 (p 0.015), velocity_mse 1 of 6 (p 1.00)" in text


def test_no_cell_that_is_to_come_no_yet(tmp_path):
    """All that could be compared failed: waiting does not help."""
    everything = [(arm, seed) for arm in ARMS for seed in range(2)]
    analysis = analyse(read(write_sweep(tmp_path, seeds=[0, 1], failed=everything, updates=2)))
    assert analysis.verdict.sentence == "No arm can be compared with the baseline."


def test_nothing_to_compare(tmp_path):
    everything = [(arm, seed) for arm in ARMS for seed in range(2)]
    analysis = analyse(read(write_sweep(tmp_path, seeds=[0, 1], missing=everything, updates=2)))
    assert analysis.verdict.status == "nothing to compare"
    assert analysis.families == ()


def test_untouched_as_baseline_is_compared_once(tmp_path):
    folder = write_sweep(tmp_path, updates=2)
    edit(folder, baseline="untouched", comparisons=against("untouched", *ARMS))
    analysis = analyse(read(folder))
    assert len(pairs(analysis, "baseline")) == 3
    assert analysis.family("untouched") is None


@pytest.fixture
def two_models(tmp_path):
    """Arms of two checkpoints: "latent_kl" is not trained, and is where "velocity_mse" began."""
    folder = write_sweep(tmp_path, updates=2)
    plan = json.loads((folder / "sweep.json").read_text())
    plan["arms"][2]["cells"] = {"0": plan["arms"][2]["cells"]["0"]}
    edit(folder, arms=plan["arms"])
    for name, values in (
        ("latentkl0/result.json", {"updates": 0}),
        *((f"{arm}/config.json", {"model": {"checkpoint": "other"}}) for arm in ("latentkl0", "velocitymse0")),
    ):
        path = tmp_path / "cells" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def test_an_arm_that_did_not_train_is_a_constant(two_models):
    """No seed changes it: one value, no interval, nothing to be tested against another constant."""
    analysis = analyse(read(two_models))
    assert [arm.name for arm in analysis.sweep.trained] == ["none", "velocity_mse"]
    assert analysis.intervals["latent_kl"]["geneval/strict"].low is None
    pair = pairs(analysis, "baseline")["latent_kl", "none"]
    constant = analysis.sweep.arm("latent_kl").values("geneval/strict")[0]
    others = analysis.sweep.arm("none").values("geneval/strict")
    assert pair.comparison.differences == pytest.approx([constant - others[seed] for seed in range(6)])
    assert pair.crossed is not None
    edit(two_models, baseline="latent_kl", comparisons=against("latent_kl", "none"))
    assert set(pairs(analyse(read(two_models)), "baseline")) == {("none", "latent_kl")}
    edit(two_models, baseline="untouched", comparisons=against("untouched", "none", "latent_kl"))
    assert set(pairs(analyse(read(two_models)), "baseline")) == {("none", "untouched")}


def test_what_training_changed_is_seen_against_the_same_model(two_models):
    assert set(pairs(analyse(read(two_models)), "untouched")) == {("none", "untouched"), ("velocity_mse", "latent_kl")}


def test_models_that_have_no_checkpoint_are_told_apart(two_models):
    for arm, rank in (("latentkl0", 4), ("velocitymse0", 4), ("none0", 8), ("untouched0", 8)):
        path = two_models.parents[1] / "cells" / arm / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"name": "mine.Model", "rank": rank}}))
    found = pairs(analyse(read(two_models)), "untouched")
    assert set(found) == {("none", "untouched"), ("velocity_mse", "latent_kl")}


def test_one_model_with_adapters_from_several_places_is_several(two_models):
    """How an arm is trained is another matter: one with an adapter that starts at nothing starts from the model."""
    lora = {"name": "lora", "rank": 8}
    for arm, adapter in (
        ("latentkl0", lora | {"start": "warm"}),
        ("velocitymse0", {"name": "ema", "inner": lora | {"start": "warm"}}),
        ("none0", lora | {"start": ""}),
    ):
        path = two_models.parents[1] / "cells" / arm / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"checkpoint": "one"}, "adapter": adapter}))
    path = two_models.parents[1] / "cells" / "untouched0" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"checkpoint": "one"}}))
    found = pairs(analyse(read(two_models)), "untouched")
    assert set(found) == {("none", "untouched"), ("velocity_mse", "latent_kl")}


def test_without_a_correction_only_all_of_the_tests_together_show_a_difference(tmp_path):
    arms = {"none": ARMS["none"], "better": ({"name": "none"}, 0.9, 0.5, 0.1), "same": ARMS["none"]}
    folder = write_sweep(tmp_path, arms=arms, updates=2)
    edit(folder, correction="none")
    assert analyse(read(folder)).verdict.status == "no difference shown"
    edit(folder, comparisons=against("none", "better"))
    assert analyse(read(folder)).verdict.status == "difference shown"


def test_code_that_differs_is_said(tmp_path):
    folder = write_sweep(tmp_path, seeds=[0, 1], updates=2)
    (tmp_path / "cells" / "none0" / "env.json").write_text('{"git_sha": "fedcba9876543210+"}')
    warnings = "\n".join(analyse(read(folder)).warnings)
    assert "uncommitted changes" in warnings
    assert "2 different commits" in warnings


def test_ladder_and_gold_at_equal_proxy(ladder):
    analysis = analyse(read(ladder))
    assert [weight for weight, _ in analysis.ladders["latent_kl"]] == [0, 0.003, 0.01, 0.03]
    assert analysis.ladders["velocity_mse"][0] == (0, "none")
    levels = [entry.level for entry in analysis.equal_proxy]
    assert levels == sorted(levels)
    assert len(levels) == 3
    for entry in analysis.equal_proxy:
        seeds = entry.difference.n
        assert entry.unreached == 6 - seeds
        assert seeds <= 6
        if all(gold.n == seeds for gold in entry.gold.values()):
            golds = entry.gold["latent_kl"].mean - entry.gold["velocity_mse"].mean
            assert entry.difference.mean == pytest.approx(golds)
    assert analysis.verdict.sentence.count("−") < 6  # many arms are counted, not listed


def test_no_ladder_without_two_weights(finished):
    analysis = analyse(read(finished))
    assert analysis.ladders == {}
    assert analysis.equal_proxy == ()


def test_exploratory_measures_are_corrected_together(finished):
    family = analyse(read(finished)).exploratory
    assert "geneval/strict" not in {pair.metric for pair in family.pairs}
    assert family.correction == "bh"
    assert all(pair.p_adjusted >= pair.p for pair in family.pairs)
    # By t tests: 24 of 38 exact ones would have to be at their floor before any is shown with six seeds.
    assert all(pair.p == pytest.approx(pair.comparison.p_t) for pair in family.pairs)
    assert family.shown == tuple(pair for pair in family.pairs if pair.p_adjusted <= 0.05)


@pytest.fixture(scope="module")
def factorial(tmp_path_factory):
    """Two penalties at two dynamics, which differ by .1; the penalties differ at the second dynamics only."""
    strict = {"a@1": 0.6, "b@1": 0.6, "a@2": 0.7, "b@2": 0.9}
    arms = {name: (*ARMS["none"][:1], score, *ARMS["none"][2:]) for name, score in strict.items()}
    root = tmp_path_factory.mktemp("factorial")
    folder = write_sweep(root, arms=arms, seeds=list(range(8)), updates=2)
    edit(
        folder, comparisons=[{"arm": "b", "other": "a", "couples": [["b@1", "a@1"], ["b@2", "a@2"]], "words": "b − a"}]
    )
    return folder


def test_a_main_effect_is_averaged_over_the_other_factor_within_each_seed(factorial):
    analysis = analyse(read(factorial))
    (pair,) = analysis.family("baseline").pairs
    value = {arm.name: arm.values("geneval/strict") for arm in analysis.sweep.arms}
    expected = [(value["b@1"][s] - value["a@1"][s] + value["b@2"][s] - value["a@2"][s]) / 2 for s in range(8)]
    assert pair.comparison.differences == pytest.approx(expected)
    assert pair.name == "b − a"
    assert analysis.verdict.status == "difference shown"
    assert analysis.significant == frozenset()  # a main effect makes no single arm bold


def test_levels_and_interactions_are_families_of_their_own(factorial):
    analysis = analyse(read(factorial))
    assert set(pairs(analysis, "levels")) == {("b@1", "a@1"), ("b@2", "a@2")}
    (interaction,) = analysis.family("interactions").pairs
    assert interaction.name == "(b@2 − a@2) − (b@1 − a@1)"
    at = {arm: pair.comparison.differences for (arm, _), pair in pairs(analysis, "levels").items()}
    assert interaction.comparison.differences == pytest.approx(np.subtract(at["b@2"], at["b@1"]))
    assert interaction.shown


def test_other_measures_are_held_against_the_baseline_at_equal_levels(factorial):
    sweep = read(factorial)
    arms = tuple(replace(arm, against={"b@1": "a@1", "b@2": "a@2"}.get(arm.name)) for arm in sweep.arms)
    family = analyse(replace(sweep, arms=arms)).exploratory
    assert {(pair.arm, pair.other) for pair in family.pairs} == {("b@1", "a@1"), ("b@2", "a@2")}
