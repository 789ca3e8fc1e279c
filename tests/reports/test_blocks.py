"""Sweeps whose seeds start from several models: pairs, means of the untouched model, and what the page says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from reports import declaration, samples, tables
from reports.analysis import analyse
from reports.blocks import rows
from reports.collect import BrokenSweepError, read
from reports.pages import write_report
from reports.records import LeftOut
from tests.reports.synthetic import write_sweep

#: Seven seeds: three of the first model, two of each other.
SEEDS = range(7)
WARM = ("tiny-shapes", "warm/one", "warm/two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("blocks"), seeds=SEEDS, warm=WARM, updates=12)


@pytest.fixture(scope="module")
def analysis(folder):
    return analyse(read(folder))


def scores(sweep, arm, metric="geneval/strict"):
    return sweep.arm(arm).values(metric)


def test_a_trained_seed_is_held_against_the_model_that_it_started_from(analysis):
    sweep = analysis.sweep
    before, after = scores(sweep, "untouched"), scores(sweep, "none")
    assert [*before] == [0, 1, 2]
    pair = next(pair for pair in analysis.family("untouched").pairs if pair.arm == "none")
    assert pair.seeds == tuple(SEEDS)
    expected = [after[seed] - before[seed % 3] for seed in SEEDS]
    assert pair.comparison.differences == pytest.approx(expected, abs=1e-12)
    assert pair.comparison.correlation is None  # one sample, against fixed models
    # Prompts, too: their mean is the difference itself, or there would be no interval over prompts.
    assert pair.new_prompts is None or pair.new_prompts.mean == pytest.approx(np.mean(expected))


def test_arms_of_one_model_but_for_the_block_have_its_untouched_cells(analysis):
    """Whichever block the first finished cell of an arm is of."""
    assert {pair.arm for pair in analysis.family("untouched").pairs} == {"none", "latent_kl", "velocity_mse"}


@pytest.fixture
def altered(folder, tmp_path):
    """A copy to damage."""
    root = tmp_path / "copy"
    shutil.copytree(folder.parents[1], root)
    return root / "sweeps" / folder.name


def test_an_arm_whose_first_seed_is_gone_still_has_its_untouched_model(altered):
    shutil.rmtree(altered.parents[1] / "cells" / "none0")
    (pair,) = (pair for pair in analyse(read(altered)).family("untouched").pairs if pair.arm == "none")
    assert pair.seeds == (1, 2, 3, 4, 5, 6)


def test_without_the_untouched_cell_of_a_block_its_seeds_drop_out(altered):
    shutil.rmtree(altered.parents[1] / "cells" / "untouched1")
    (pair,) = (pair for pair in analyse(read(altered)).family("untouched").pairs if pair.arm == "none")
    assert pair.seeds == (0, 2, 3, 5, 6)


def test_the_untouched_model_is_the_mean_over_blocks_with_the_weights_of_their_seeds(analysis):
    before = scores(analysis.sweep, "untouched")
    interval = analysis.intervals["untouched"]["geneval/strict"]
    assert interval.mean == pytest.approx((3 * before[0] + 2 * before[1] + 2 * before[2]) / 7)
    assert interval.mean != pytest.approx(np.mean([*before.values()]))
    assert (interval.half_width, interval.n) == (None, 3)
    (row,) = (row for row in tables.main_table(analysis).rows if row.arm == "untouched")
    assert row.note == "n = 3 warm-ups, weighted as their seeds"
    assert row.entries[0].spread == ""


def test_a_seed_is_complete_if_its_block_of_a_fixed_arm_is_there(altered):
    """An arm that makes no updates is compared by its cell of each block."""
    plan = json.loads((altered / "sweep.json").read_text())
    plan["comparisons"] = [{"arm": "none", "other": "untouched", "couples": [["none", "untouched"]], "words": "w"}]
    (altered / "sweep.json").write_text(json.dumps(plan))
    assert read(altered).complete_seeds == tuple(SEEDS)
    shutil.rmtree(altered.parents[1] / "cells" / "untouched2")
    assert read(altered).complete_seeds == (0, 1, 3, 4, 6)


def test_samples_of_the_untouched_model_are_those_of_the_seed_that_is_shown(altered):
    for arm in ("none", "latent_kl", "velocity_mse"):
        for seed in (0, 2, 3, 5, 6):
            shutil.rmtree(altered.parents[1] / "cells" / f"{arm.replace('_', '')}{seed}" / "samples")
    sweep = read(altered)
    grid = samples.sample_grid(sweep)
    assert grid.seed == 1
    column = grid.arms.index("untouched")
    (cell,) = (cell for cell in sweep.arm("untouched").cells if cell.seed == 1)
    shown = [row.samples[column] for row in grid.rows]
    assert len(shown) == len(cell.samples)
    assert all(sample in cell.samples for sample in shown)


def fallen(sweep, far):
    """The warning of runs far below the others, if the last seed of the first model is so far off, in every arm.

    The second model is .3 weaker than the others, whose runs are the less variable.
    """
    scored = {0: 0.5, 3: 0.501, 6: 0.5 - far, 1: 0.199, 4: 0.201, 2: 0.49, 5: 0.51}
    arms = []
    for arm in sweep.arms:
        cells = (replace(c, metrics={**c.metrics, "geneval/strict": scored[c.seed]}) for c in arm.cells)
        arms.append(replace(arm, cells=tuple(cells)))
    return [one for one in analyse(replace(sweep, arms=tuple(arms))).warnings if "far below" in one]


def test_a_weaker_warm_up_is_no_collapse_and_a_run_far_below_those_of_its_own_is_one(analysis):
    """By hand: deviations of each arm .001 (3), .01 (2), 0 and .05; without one for each further model, median .01."""
    assert fallen(analysis.sweep, 0.05) == []
    assert fallen(analysis.sweep, 6 * 1.4826 * 0.01 - 1e-4) == []
    (told,) = fallen(analysis.sweep, 6 * 1.4826 * 0.01 + 1e-4)
    assert "of their arm that start from the same warm-up: none/6, latent_kl/6, velocity_mse/6. Where" in told


def test_without_blocks_runs_are_held_against_all_of_their_arm(analysis):
    one = replace(analysis.sweep, blocks=None, arms=tuple(replace(arm, blocks=None) for arm in analysis.sweep.arms))
    (told,) = fallen(one, 0.05)
    assert "far below the others of their arm: none/1, none/4, latent_kl/1" in told


def test_of_an_untouched_model_the_blocks_that_were_evaluated_count(altered):
    """One of its three cells failed: no training did, so that nothing is unstable."""
    cell = altered.parents[1] / "cells" / "untouched1"
    (cell / "DONE").rename(cell / "failure.json")
    analysis = analyse(read(altered))
    before = scores(analysis.sweep, "untouched")
    assert analysis.intervals["untouched"]["geneval/strict"].mean == pytest.approx((3 * before[0] + 2 * before[2]) / 5)
    assert not [warning for warning in analysis.warnings if "unstable" in warning]
    assert "1 of 24 cells failed: untouched/1." in analysis.warnings
    (pair,) = (pair for pair in analysis.family("untouched").pairs if pair.arm == "none")
    assert pair.seeds == (0, 2, 3, 5, 6)


def test_planned_differences_by_block_by_hand(analysis):
    pair = next(pair for pair in analysis.family("baseline").pairs if pair.arm == "latent_kl")
    split = next(split for split in analysis.splits if split.arm == "latent_kl")
    found = dict(zip(pair.seeds, pair.comparison.differences, strict=True))
    groups = [[found[seed] for seed in seeds] for seeds in ((0, 3, 6), (1, 4), (2, 5))]
    means = [np.mean(group) for group in groups]
    assert [*split.by] == [*WARM]
    assert [n for n, _ in split.by.values()] == [3, 2, 2]
    assert [mean for _, mean in split.by.values()] == pytest.approx(means)
    assert split.between == pytest.approx(np.std(means, ddof=1))
    within = sum(np.sum((np.array(group) - np.mean(group)) ** 2) for group in groups) / 4
    assert split.expected == pytest.approx(np.sqrt(within * (1 / 3 + 1 / 2 + 1 / 2) / 3))


def test_of_one_seed_a_block_no_spread_is_expected(tmp_path):
    one = analyse(read(write_sweep(tmp_path, seeds=(0, 1), warm=WARM, updates=2)))
    split = one.splits[0]
    assert [n for n, _ in split.by.values()] == [1, 1]
    assert split.between is not None
    assert split.expected is None
    row, *_ = rows(one.sweep.blocks, one.splits)
    assert row.expected == "–"


def test_the_page_says_what_the_runs_start_from(folder):
    written = write_report(folder)
    assert not written.faults
    page = " ".join(written.page.read_text().split())
    starts = "tiny-shapes (seeds 0, 3, 6), warm/one (seeds 1, 4) and warm/two (seeds 2, 5)"
    assert f"start from 3 warm-ups (model.checkpoint), by the seed's number, the same in every arm: {starts}." in page
    assert "other warm-ups are not covered by it" in page
    assert page.count("one cell of each warm-up") == 2
    summary = json.loads((folder / "report" / "summary.json").read_text())
    assert summary["blocks"]["of"]["4"] == "warm/one"
    first = summary["blocks"]["comparisons"][0]
    assert [value["n"] for value in first["by"].values()] == [3, 2, 2]
    assert "| comparison | tiny-shapes | warm/one | warm/two |" in (folder / "report" / "report.md").read_text()
    # What differs from seed to seed is no difference between arms.
    assert "<code>model.checkpoint</code>" not in page


def test_an_untouched_cell_that_is_left_out_is_no_seed_that_was_trained(analysis):
    gone = (LeftOut("none", 7), LeftOut("untouched", 10))
    (told,) = (one for one in declaration.warnings(replace(analysis.sweep, left_out=gone)) if "left out" in one)
    assert told.endswith("The verdict is over 7 seeds, trained were 8.")


def test_a_sweep_without_blocks_says_nothing_of_them(tmp_path):
    folder = write_sweep(tmp_path, seeds=(0, 1), updates=2)
    assert read(folder).blocks is None
    assert json.loads(tables.summary_json(analyse(read(folder))))["blocks"] is None


def test_a_seed_without_a_block_is_an_error_that_names_it(altered):
    plan = json.loads((altered / "sweep.json").read_text())
    del plan["blocks"]["of"]["4"]
    (altered / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(BrokenSweepError, match=r"blocks.of: expected a value of model.checkpoint for seed 4"):
        read(altered)
