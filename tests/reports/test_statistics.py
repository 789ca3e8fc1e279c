"""Known answers and laws of the statistics."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports import statistics
from reports.statistics import power, quantiles

scores = st.integers(-1000, 1000).map(lambda k: k / 1000)
samples = st.lists(scores, min_size=2, max_size=8)
p_values = st.lists(st.floats(1e-6, 1), min_size=1, max_size=12)


@st.composite
def paired(draw, min_size=2):
    n = draw(st.integers(min_size, 8))
    return tuple(draw(st.lists(scores, min_size=n, max_size=n)) for _ in range(2))


def test_mean_interval_by_hand():
    # mean 3, s = sqrt(2.5), t(0.975; 4) = 2.776445
    interval = statistics.mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.n == 5
    assert interval.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert interval.excludes(0.9)
    assert not interval.excludes(1.1)
    assert interval.within(5) == (interval.high < 5)
    assert not interval.within(4)
    assert interval.largest == interval.high


def test_one_value_has_no_interval():
    interval = statistics.mean_interval([0.3])
    assert (interval.mean, interval.low, interval.high, interval.half_width) == (0.3, None, None, None)
    assert not interval.excludes(0)
    assert not interval.within(1)
    assert interval.largest is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_must_be_there_and_finite(values):
    with pytest.raises(ValueError, match="finite"):
        statistics.mean_interval(values)


@given(samples)
def test_mean_interval_is_scipys(values):
    ours = statistics.mean_interval(values, 0.9)
    if len(set(values)) > 1:
        theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)
    else:
        assert ours.low == pytest.approx(ours.high)


def test_t_interval_covers_at_its_nominal_rate():
    draws = np.random.default_rng(1).normal(0.3, 2.0, size=(6, 20_000))
    covered = np.abs(draws.mean(axis=0) - 0.3) <= statistics.t_half_width(draws)
    assert covered.mean() == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1, 2, 3], 2 / 8), ([1, 2, -1], 6 / 8), ([5], 1.0), ([0, 0, 0], 1.0), ([3, 1, 4, 1, 5, 9], 2 / 64)],
)
def test_sign_flip_by_hand(differences, p):
    assert statistics.sign_flip(differences).p() == pytest.approx(p)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=7), st.integers(-9, 9))
def test_sign_flip_is_the_full_enumeration(differences, effect):
    shifted = [d - effect for d in differences]
    sums = [
        sum(s * d for s, d in zip(signs, shifted, strict=True))
        for signs in itertools.product((1, -1), repeat=len(shifted))
    ]
    # Doubling the smaller tail is the same as counting both, as every sum has its mirror image.
    expected = np.mean([abs(total) >= abs(sum(shifted)) for total in sums])
    assert statistics.sign_flip(differences).p(effect) == pytest.approx(expected)


@given(st.lists(scores, min_size=2, max_size=9))
def test_sign_flip_is_scipys(differences):
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=10**6).pvalue
    assert statistics.sign_flip(differences).p() == pytest.approx(theirs)


@settings(max_examples=15)
@given(st.lists(scores, min_size=2, max_size=4), st.lists(scores, min_size=2, max_size=4))
def test_unpaired_is_scipys(arm, other):
    theirs = stats.permutation_test(
        (arm, other), lambda a, b: np.mean(a) - np.mean(b), permutation_type="independent", n_resamples=10**6
    ).pvalue
    # SciPy doubles the smaller tail as well, and counts what is equal but for rounding.
    assert statistics.unpaired(arm, other).p() == pytest.approx(theirs)


@given(st.lists(scores, min_size=2, max_size=9))
def test_paired_t_is_scipys(differences):
    evidence = statistics.paired_t(differences)
    if len(set(differences)) > 1:
        theirs = stats.ttest_1samp(differences, 0)
        low, high = theirs.confidence_interval(0.9)
        assert evidence.p() == pytest.approx(theirs.pvalue)
        assert (evidence.interval(0.9).low, evidence.interval(0.9).high) == pytest.approx((low, high))
    else:
        assert evidence.p() == (0.0 if differences[0] else 1.0)


@given(paired(), st.sampled_from(list(statistics.TESTS)), st.floats(0.01, 0.5), scores)
def test_an_interval_holds_the_effects_that_its_test_does_not_reject(pair, test, alpha, effect):
    evidence = statistics.compare(*pair, test=test).evidence
    interval = evidence.interval(1 - alpha)
    if abs(evidence.p(effect) - alpha) > 1e-9:
        assert interval.excludes(effect) == (evidence.p(effect) < alpha)
    if interval.low is not None:
        assert interval.low <= interval.mean + 1e-12
        assert interval.mean <= interval.high + 1e-12


@given(paired(), st.sampled_from(list(statistics.TESTS)))
def test_no_p_is_below_the_floor(pair, test):
    evidence = statistics.compare(*pair, test=test).evidence
    assert evidence.p() >= evidence.floor
    assert not evidence.floor or not evidence.interval(1 - 0.99 * evidence.floor).excludes(0)


def test_ties_raise_the_floor():
    """Three ties of six seeds leave eight different sums, whatever the others are."""
    assert statistics.sign_flip([0, 0, 0, 1, 2, 3]).floor == 0.25
    assert statistics.sign_flip([1, 2, 3, 4, 5, 6]).floor == 2 / 64
    assert statistics.sign_flip([0, 0, 0, 1, 2, 3]).p() == 0.25


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=10), st.sampled_from([1, -1]))
def test_one_common_sign_gives_the_smallest_p(magnitudes, sign):
    p = statistics.sign_flip([sign * m for m in magnitudes]).p()
    assert p == pytest.approx(statistics.smallest_p(len(magnitudes))) == pytest.approx(min(1, 2 / 2 ** len(magnitudes)))


@pytest.mark.parametrize("test", ["sign_flip", "unpaired"])
def test_many_seeds_are_sampled_with_a_fixed_key(test):
    rng = np.random.default_rng(0)
    pair = rng.normal(0.5, 1, size=24), rng.normal(0, 1, size=24)
    evidence = statistics.compare(*pair, test=test).evidence
    assert evidence.p() == statistics.compare(*pair, test=test).evidence.p()
    theirs = stats.ttest_rel(*pair) if test == "sign_flip" else stats.ttest_ind(*pair)
    assert evidence.p() == pytest.approx(theirs.pvalue, abs=0.02)
    low, high = theirs.confidence_interval(0.95)
    assert (evidence.interval(0.95).low, evidence.interval(0.95).high) == pytest.approx((low, high), abs=0.05)


@pytest.mark.parametrize(("level", "seeds"), [(0.05, 6), (0.05 / 3, 7), (0.05 / 6, 8), (0.05 / 10, 9)])
def test_seeds_needed(level, seeds):
    assert statistics.seeds_needed(level) == seeds
    assert statistics.smallest_p(seeds - 1) > level >= statistics.smallest_p(seeds)


def test_bonferroni_by_hand():
    found = statistics.correct([0.01, 0.04, 0.3], 0.06, "bonferroni")
    assert found.level == pytest.approx(0.02)
    assert found.adjusted == pytest.approx((0.03, 0.12, 0.9))
    # A comparison that could not be made was planned all the same.
    assert statistics.correct([0.01], 0.05, "bonferroni", comparisons=4).adjusted == (0.04,)


def test_without_a_correction_nothing_changes():
    assert statistics.correct([0.02, 0.5], 0.05, "none") == statistics.Corrected(0.05, (0.02, 0.5))


def test_unknown_corrections_are_refused():
    with pytest.raises(ValueError, match="bonferroni, bh, none"):
        statistics.correct([0.1], 0.05, "bonferoni")


@given(p_values)
def test_benjamini_hochberg_is_scipys(raw):
    assert statistics.correct(raw, 0.05, "bh").adjusted == pytest.approx(stats.false_discovery_control(raw))
    assert statistics.correct([], 0.05, "bh").adjusted == ()


@given(p_values, st.sampled_from(statistics.CORRECTIONS), st.floats(0.01, 0.5))
def test_the_level_of_a_family_agrees_with_its_adjusted_p(raw, correction, alpha):
    found = statistics.correct(raw, alpha, correction)
    for p, adjusted in zip(raw, found.adjusted, strict=True):
        assert p <= adjusted <= 1
        if abs(adjusted - alpha) > 1e-9:
            assert (p <= found.level) == (adjusted <= alpha)


def test_how_many_of_a_bh_family_must_be_at_the_floor():
    assert statistics.tests_needed(2 / 64, 0.05, 38) == 24  # as in a report of six seeds
    assert statistics.tests_needed(2 / 256, 0.05, 38) == 6
    assert statistics.tests_needed(0.25, 0.05, 38) == 39  # not even all of them


@pytest.mark.parametrize(
    ("looks", "z"),
    [
        ([6, 12, 18], [3.7103, 2.5114, 1.9930]),
        ([2, 4, 6, 8, 10], [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ([8], [1.9600]),
    ],
)
def test_bounds_of_several_looks_are_those_of_the_tables(looks, z):
    """Reboussin, DeMets, Kim and Lan (2000), the O'Brien-Fleming-type spending function, two-sided 0.05."""
    levels = statistics.nominal_levels(0.05, tuple(looks))
    assert stats.norm.isf(np.array(levels) / 2) == pytest.approx(z, abs=2e-4)


@pytest.mark.parametrize("looks", [[], [0, 2], [4, 4], [8, 6]])
def test_looks_must_ascend(looks):
    with pytest.raises(ValueError, match="ascending"):
        statistics.nominal_levels(0.05, tuple(looks))


def test_all_looks_together_keep_the_level():
    draws = np.random.default_rng(5).normal(size=(40_000, 12)).cumsum(axis=1)
    looks = [4, 8, 12]
    levels = statistics.nominal_levels(0.05, tuple(looks))
    z = np.abs(draws[:, [look - 1 for look in looks]]) / np.sqrt(looks)
    rejected = (2 * stats.norm.sf(z) <= levels).any(axis=1)
    assert rejected.mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("test", ["sign_flip", "paired_t", "unpaired"])
@pytest.mark.parametrize("n", [6, 8])
def test_the_promised_power_is_that_of_the_test(test, n):
    """Against fresh simulated sweeps, judged by the tests themselves."""
    effect = power.smallest_effect(test, n, 0.05)
    rng = np.random.default_rng(100)
    judged = []
    for _ in range(400):
        arm, other = rng.normal(size=(2, n)) / 2**0.5
        judged.append(statistics.compare(arm + effect, other, test=test).evidence.interval(0.95).excludes(0))
    assert power.power(test, n, 0.05, effect) == pytest.approx(0.8, abs=0.001)
    assert np.mean(judged) == pytest.approx(0.8, abs=0.06)


def test_power_by_the_noncentral_t():
    """The review's figure: 58 % for .05 at a standard deviation of .0445 and six seeds."""
    n, effect = 6, 0.05 / 0.0445
    t = stats.t.isf(0.025, n - 1)
    exact = stats.nct.sf(t, n - 1, effect * n**0.5)
    assert power.power("paired_t", n, 0.05, effect) == pytest.approx(exact, abs=0.02)


def test_six_seeds_show_an_effect_of_five_points_in_four_of_ten_sweeps():
    """As the review found, by the sign-flip test at the spread of kl_vs_mse; 80 % takes nine, or an effect of .080."""
    assert power.power("sign_flip", 6, 0.05, 0.05 / 0.0445) == pytest.approx(0.43, abs=0.03)
    enough = [n for n in range(6, 11) if power.power("sign_flip", n, 0.05, 0.05 / 0.0445) >= 0.8]
    assert enough == [9, 10]
    assert 0.0445 * power.smallest_effect("sign_flip", 6, 0.05) == pytest.approx(0.08, abs=0.001)


def test_too_few_seeds_show_nothing():
    assert power.smallest_effect("sign_flip", 5, 0.05) is None
    assert power.smallest_margin("sign_flip", 3, 0.05) is None
    assert power.power("sign_flip", 5, 0.05, 10.0) == 0


@pytest.mark.parametrize("n", [11, 30])
def test_power_beyond_the_listed_seeds_is_that_of_the_t_test(n):
    t, effect = stats.t.isf(0.005, n - 1), 0.9
    exact = stats.nct.sf(t, n - 1, effect * n**0.5)
    for test in ("sign_flip", "paired_t"):
        assert power.power(test, n, 0.01, effect) == pytest.approx(exact, abs=0.02)


@given(st.floats(0.51, 0.9999), st.integers(1, 400))
def test_quantiles_are_scipys(p, df):
    assert quantiles.student(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-7)
    for share in (p, 1 - p):
        assert quantiles.chi_square(share, df) == pytest.approx(stats.chi2.ppf(share, df), rel=1e-7)


@pytest.mark.parametrize("df", [1, 2, 5, 8])
@pytest.mark.parametrize("x", [0.0, 0.3, 4.0])
def test_distribution_functions_are_scipys(x, df):
    assert quantiles.chi_square_cdf(x, df) == pytest.approx(stats.chi2.cdf(x, df))
    assert quantiles.student_cdf(x, df) == pytest.approx(stats.t.cdf(x, df))


def test_the_range_of_a_spread_by_hand():
    """Tables: the quantiles of chi-square with 5 degrees of freedom are .831 and 12.83."""
    low, high = power.spread_range(0.0445, 5)
    assert low == pytest.approx(0.0445 * (5 / 12.833) ** 0.5, rel=1e-4)
    assert high == pytest.approx(0.0445 * (5 / 0.8312) ** 0.5, rel=1e-4)


def test_seeds_for_a_margin():
    needed = power.seeds_for_margin("paired_t", 0.8, 0.05)
    assert power.smallest_margin("paired_t", needed, 0.05) < 0.8 <= power.smallest_margin("paired_t", needed - 1, 0.05)
    assert power.seeds_for_margin("paired_t", 0.001, 0.05) is None


def test_comparison_by_hand():
    found = statistics.compare([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert found.mean == pytest.approx(0.2)
    assert found.effect == pytest.approx(0.2 / 0.1)
    assert found.improved == 3
    assert found.evidence.p() == pytest.approx(0.25)
    assert found.p_t == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)
    assert found.correlation == pytest.approx(1)
    assert found.differences == pytest.approx((0.1, 0.2, 0.3))


def test_comparison_with_a_constant_is_one_sample():
    found = statistics.compare([0.5, 0.7, 0.3], 0.4, higher_is_better=False)
    assert found.mean == pytest.approx(0.1)
    assert found.improved == 1
    assert found.correlation is None
    assert statistics.compare([0.5, 0.7, 0.3], 0.4, test="unpaired").evidence.p() == found.evidence.p()


def test_rounding_is_a_tie_not_an_improvement():
    found = statistics.compare([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert found.improved == 0
    assert found.differences == (0, 0)
    assert found.effect is None
    assert found.evidence.p() == 1


def test_pairs_need_equal_shapes():
    with pytest.raises(ValueError, match="equal shapes"):
        statistics.compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="sign_flip, paired_t, unpaired"):
        statistics.compare([1, 2], [1, 2], test="wilcoxon")


@given(paired())
def test_swapping_labels_flips_the_difference_and_keeps_p(pair):
    there, back = statistics.compare(*pair), statistics.compare(*reversed(pair))
    assert there.mean == -back.mean
    assert there.evidence.p() == back.evidence.p()
    ahead, behind = there.evidence.interval(0.6), back.evidence.interval(0.6)
    if ahead.low is not None:
        assert ahead.low == pytest.approx(-behind.high)
    assert there.correlation == pytest.approx(back.correlation)
    assert there.improved == statistics.compare(*reversed(pair), higher_is_better=False).improved


def test_interquartile_mean_ignores_the_outer_quarters():
    assert statistics.iqm([0, 1, 2, 3, 4, 5, 6, 1000]) == pytest.approx(3.5)


def test_prompt_weights_give_the_unweighted_mean_of_group_means():
    weights = statistics.prompt_weights(["a", "a", "a", "b"])
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert weights @ [1, 1, 1, 0] == pytest.approx(0.5)


def test_reading_one_measure_at_equal_levels_of_another():
    found = statistics.at_equal([0.9, 0.5, 0.7], [0.4, 0.6, 0.8], [0.6, 0.9, 0.95])
    assert found[:2] == pytest.approx([0.7, 0.4])
    assert np.isnan(found[2])


def test_differences_that_are_equal_but_for_rounding_have_no_effect_size():
    assert statistics.compare([0.5, 1 / 3], [1 / 3, 1 / 6]).effect is None
