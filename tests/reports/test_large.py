"""Sweeps of more arms than a page can show."""

from __future__ import annotations

import pytest

import reports
from reports.analysis import analyse, drawn
from reports.collect import read
from reports.leading import LARGE, leading
from tests.reports.synthetic import write_sweep


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The baseline, an arm that is hardly better, LARGE - 1 far better and three worse ones, of two seeds."""
    scores = [0.4, 0.5, *[0.9] * (LARGE - 1), 0.1, 0.2, 0.3]
    arms = {
        f"arm{i:02d}": ({"name": "velocity_mse", "weight": 0.01}, score, 0.4, 0.01) for i, score in enumerate(scores)
    }
    return write_sweep(tmp_path_factory.mktemp("large"), arms=arms, seeds=range(2), updates=2, spread=1e-4)


def test_the_leading_arms_are_the_baseline_and_the_best(large):
    names = [arm.name for arm in leading(read(large)).arms]
    assert names == ["arm00", "untouched", *(f"arm{i:02d}" for i in range(2, LARGE + 1))]


def test_a_sweep_that_is_not_large_is_drawn_whole(finished):
    analysis = analyse(read(finished))
    assert leading(analysis.sweep) is analysis.sweep
    assert drawn(analysis) is analysis


def test_scores_are_of_all_arms_and_figures_of_the_leading(large, undrawn):
    analysis = analyse(read(large))
    assert {family.key: len(family.pairs) for family in analysis.families} == {
        "baseline": LARGE + 3, "untouched": LARGE + 4,
    }  # fmt: skip
    assert {pair.arm for pair in analysis.exploratory.pairs} == {f"arm{i:02d}" for i in range(2, LARGE + 1)}
    assert {family.key: len(family.pairs) for family in drawn(analysis).families} == {
        "baseline": LARGE - 1, "untouched": LARGE,
    }  # fmt: skip
    page = reports.write(large).read_text()
    assert f"{LARGE + 4} arms trained: figures, samples" in page
    scores, _, rest = page.partition('id="differences"')
    assert scores.count("<td>arm17") == scores.count("<td>arm16") > 0
    assert "arm17 −" in rest
    assert "arm17 from" not in rest
    assert "arm16 from" in rest
