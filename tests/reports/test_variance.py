"""Training, evaluation and prompts: the parts of an arm's spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.statistics import Spread, variance_split

TAGS, MEANINGS = list("aaabb"), list("xxyuv")


def parts(spread):
    return spread.seeds, spread.training, spread.evaluation, spread.prompts


def test_the_parts_by_hand():
    """Scores 2.5 and 4; interactions of seed and image 1/2 and 1 in the two prompts; meanings' means 1.5 and 5."""
    found = variance_split([[[0, 2], [4, 4]], [[2, 2], [4, 8]]], ["a", "a"], ["x", "y"])
    assert found.seeds == pytest.approx(1.125)
    assert found.evaluation == pytest.approx((4 * 0.5**2 + 4 * 1**2) / 4 / 2)
    assert found.training == pytest.approx(1.125 - 0.625)
    assert found.prompts == pytest.approx(3.5**2 / 4 - 0.0625)
    assert found.share == pytest.approx(0.625 / 1.125)


def test_the_parts_are_unbiased():
    """Against the truth of simulated scores, to four standard errors; the truths make negative estimates rare."""
    rng, runs = np.random.default_rng(0), []
    tags, meanings = ["a"] * 12 + ["b"] * 12, [f"m{k // 2}" for k in range(24)]
    for _ in range(1500):
        seeds, images = rng.normal(0, 1, (8, 1, 1)), rng.normal(0, 2, (1, 24, 3))  # image noise that all seeds share
        by_meaning = np.repeat(rng.normal(0, 3, (1, 12, 1)), 2, axis=1)
        noise = rng.normal(0, 2, (8, 24, 3))
        runs.append(parts(variance_split(seeds + by_meaning + images + noise, tags, meanings)))
    evaluation = 4 / 24 / 3
    truth = np.array([1 + evaluation, 1, evaluation, 9 / 12])
    assert np.all(np.abs(np.mean(runs, axis=0) - truth) < 4 * np.std(runs, axis=0) / 1500**0.5)


def test_a_negative_estimate_is_given_as_nothing():
    """All of the spread is noise of the images, and more of it than the scores show."""
    found = variance_split([[[0, 2], [1, 1]], [[2, 0.5], [1, 1]]], ["a", "a"], ["x", "y"])
    assert (found.training, found.share) == (0, 1)
    assert found.evaluation == found.seeds
    found = variance_split([[[0, 2], [2, 0]], [[0, 2], [2, 0]]], ["a", "a"], ["x", "y"])
    assert parts(found) == (0, 0, 0, 0)
    assert found.share == 0


def test_a_tag_of_one_meaning_leaves_other_prompts_open():
    found = variance_split(np.random.default_rng(0).normal(size=(3, 2, 2)), ["a", "a"], ["x", "x"])
    assert found.prompts is None
    assert found.seeds > 0


@pytest.mark.parametrize(
    "table",
    [np.zeros((2, 5)), np.zeros((1, 5, 2)), np.zeros((2, 5, 1)), np.zeros((2, 4, 2)), np.full((2, 5, 2), np.inf)],
)
def test_other_shapes_are_refused(table):
    with pytest.raises(ValueError, match=r"seeds, 5"):
        variance_split(table, TAGS, MEANINGS)


IMAGES = st.lists(
    st.lists(st.lists(st.integers(-20, 20), min_size=3, max_size=3), min_size=5, max_size=5), min_size=2, max_size=4
)


@given(table=IMAGES, data=st.data())
def test_order_does_not_matter(table, data):
    """Of seeds, of prompts, and of images where all seeds have them in one order."""
    seeds, prompts, images = (data.draw(st.permutations(range(n))) for n in (len(table), 5, 3))
    other = np.array(table)[seeds][:, prompts][:, :, images]
    found = variance_split(other, [TAGS[k] for k in prompts], [MEANINGS[k] for k in prompts])
    assert parts(found) == pytest.approx(parts(variance_split(table, TAGS, MEANINGS)), abs=1e-8)


@given(table=IMAGES, offsets=st.lists(st.integers(-9, 9), min_size=4, max_size=4))
def test_an_offset_by_meaning_moves_nothing_but_prompts(table, offsets):
    by_prompt = np.array([offsets["xyuv".index(meaning)] for meaning in MEANINGS])
    one, other = (variance_split(t, TAGS, MEANINGS) for t in (table, np.array(table) + by_prompt[:, None]))
    assert parts(other)[:3] == pytest.approx(parts(one)[:3], abs=1e-8)


@given(table=IMAGES, offsets=st.lists(st.integers(-9, 9), min_size=15, max_size=15))
def test_noise_that_all_seeds_share_spreads_none_of_them(table, offsets):
    one, other = (variance_split(t, TAGS, MEANINGS) for t in (table, np.array(table) + np.reshape(offsets, (5, 3))))
    assert parts(other)[:3] == pytest.approx(parts(one)[:3], abs=1e-8)


@given(table=IMAGES, offsets=st.lists(st.integers(-9, 9), min_size=2, max_size=4))
def test_an_offset_by_seed_moves_nothing_but_training(table, offsets):
    n = min(len(table), len(offsets))
    by_seed = np.array(offsets[:n])[:, None, None]
    one, other = (variance_split(t, TAGS, MEANINGS) for t in (table[:n], np.array(table[:n]) + by_seed))
    assert other.prompts == pytest.approx(one.prompts, abs=1e-8)


def test_a_share_is_of_the_variance_over_seeds():
    assert Spread(seeds=4.0, training=3.0, evaluation=1.0, prompts=None).share == 0.25
