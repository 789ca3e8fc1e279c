"""Known answers and laws of the statistics."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports import statistics

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


def test_one_value_has_no_interval():
    interval = statistics.mean_interval([0.3])
    assert (interval.mean, interval.low, interval.high, interval.half_width) == (0.3, None, None, None)
    assert not interval.excludes(0)


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
    assert statistics.sign_flip_p(differences) == pytest.approx(p)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=7))
def test_sign_flip_is_the_full_enumeration(differences):
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([total >= abs(sum(differences)) for total in sums])
    assert statistics.sign_flip_p(differences) == pytest.approx(expected)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=10), st.sampled_from([1, -1]))
def test_one_common_sign_gives_the_smallest_p(magnitudes, sign):
    p = statistics.sign_flip_p([sign * m for m in magnitudes])
    assert p == pytest.approx(statistics.smallest_p(len(magnitudes))) == pytest.approx(min(1, 2 / 2 ** len(magnitudes)))


def test_many_pairs_are_sampled_with_a_fixed_key():
    differences = np.random.default_rng(0).normal(0.5, 1, size=24)
    p = statistics.sign_flip_p(differences)
    assert p == statistics.sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_sign_flip_rejects_no_more_often_than_it_says():
    draws = np.random.default_rng(2).normal(size=(300, 6))
    rejected = np.mean([statistics.sign_flip_p(row) <= 0.05 for row in draws])
    assert rejected <= 0.05  # the level within reach with six seeds is 2/64


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (3, 7), (6, 8), (10, 9)])
def test_seeds_needed_under_holm(comparisons, seeds):
    assert statistics.seeds_needed(0.05, comparisons, "holm") == seeds
    assert statistics.smallest_adjusted_p(seeds - 1, comparisons, "holm") > 0.05
    assert statistics.seeds_needed(0.05, comparisons, "bh") == 6


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_by_hand():
    assert statistics.benjamini_hochberg([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04] * 4)
    assert statistics.benjamini_hochberg([]) == []


@given(p_values)
def test_holm_is_at_least_raw_monotone_and_at_most_one(raw):
    adjusted = statistics.holm(raw)
    assert all(r <= a <= 1 for r, a in zip(raw, adjusted, strict=True))
    by_raw = [a for _, a in sorted(zip(raw, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)


@given(p_values)
def test_holm_is_never_below_benjamini_hochberg(raw):
    pairs = zip(statistics.holm(raw), statistics.benjamini_hochberg(raw), strict=True)
    assert all(holm >= bh - 1e-12 for holm, bh in pairs)


def test_corrections_by_name():
    assert statistics.adjust([0.02, 0.5], "none") == [0.02, 0.5]
    assert statistics.adjust([0.02, 0.5], "holm") == [0.04, 0.5]
    with pytest.raises(ValueError, match="holm, bh, none"):
        statistics.adjust([0.1], "bonferoni")


def test_comparison_by_hand():
    found = statistics.compare([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert found.difference.mean == pytest.approx(0.2)
    assert found.effect == pytest.approx(0.2 / 0.1)
    assert found.improved == 3
    assert found.p == pytest.approx(0.25)
    assert found.correlation == pytest.approx(1)
    assert found.differences == pytest.approx((0.1, 0.2, 0.3))


def test_comparison_with_a_constant_is_one_sample():
    found = statistics.compare([0.5, 0.7, 0.3], 0.4, higher_is_better=False)
    assert found.difference.mean == pytest.approx(0.1)
    assert found.improved == 1
    assert found.correlation is None


def test_rounding_is_a_tie_not_an_improvement():
    found = statistics.compare([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert found.improved == 0
    assert found.differences == (0, 0)
    assert found.effect is None
    assert found.p == 1


def test_pairs_need_equal_shapes():
    with pytest.raises(ValueError, match="equal shapes"):
        statistics.compare([1, 2, 3], [1, 2])


@given(paired())
def test_swapping_labels_flips_the_difference_and_keeps_p(pair):
    there, back = statistics.compare(*pair), statistics.compare(*reversed(pair))
    assert there.difference.mean == -back.difference.mean
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.p == back.p
    assert there.correlation == pytest.approx(back.correlation)
    assert there.improved == statistics.compare(*reversed(pair), higher_is_better=False).improved


@given(paired(min_size=3))
def test_comparison_is_scipys_paired_t(pair):
    differences = np.subtract(*pair)
    if np.unique(differences.round(9)).size > 1:
        low, high = stats.ttest_rel(*pair).confidence_interval(0.95)
        found = statistics.compare(*pair).difference
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-7, abs=1e-12)


def test_interquartile_mean_ignores_the_outer_quarters():
    assert statistics.iqm([0, 1, 2, 3, 4, 5, 6, 1000]) == pytest.approx(3.5)


def test_prompt_weights_give_the_unweighted_mean_of_group_means():
    weights = statistics.prompt_weights(["a", "a", "a", "b"])
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert weights @ [1, 1, 1, 0] == pytest.approx(0.5)


def test_bootstrap_of_a_constant_has_no_width():
    interval = statistics.two_level_bootstrap(np.full((4, 6), 0.25), list("aabbbb"), resamples=200)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_resamples_both_levels():
    rng = np.random.default_rng(3)
    seeds, prompts, tags = rng.normal(size=(8, 1)), rng.normal(size=(1, 40)), ["a"] * 40

    def width(table):
        interval = statistics.two_level_bootstrap(table, tags)
        assert interval == statistics.two_level_bootstrap(table, tags)
        return interval.high - interval.low

    only_seeds, only_prompts = width(seeds + 0 * prompts), width(0 * seeds + prompts)
    assert only_seeds == pytest.approx(2 * 1.96 * seeds.std() / 8**0.5, rel=0.1)
    assert only_prompts == pytest.approx(2 * 1.96 * prompts.std() / 40**0.5, rel=0.1)
    assert width(seeds + prompts) == pytest.approx(math.hypot(only_seeds, only_prompts), rel=0.1)


@pytest.mark.parametrize("table", [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2)), np.full((2, 3), np.nan)])
def test_bootstrap_refuses_other_shapes(table):
    with pytest.raises(ValueError, match=r"seeds, 3"):
        statistics.two_level_bootstrap(table, ["a", "b", "c"])


def test_reading_one_measure_at_equal_levels_of_another():
    found = statistics.at_equal([0.9, 0.5, 0.7], [0.4, 0.6, 0.8], [0.6, 0.9, 0.95])
    assert found[:2] == pytest.approx([0.7, 0.4])
    assert np.isnan(found[2])


def test_differences_that_are_equal_but_for_rounding_have_no_effect_size():
    assert statistics.compare([0.5, 1 / 3], [1 / 3, 1 / 6]).effect is None
