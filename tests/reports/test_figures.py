"""Which figures a sweep gets, and that they show its numbers."""

import dataclasses
import itertools

import numpy as np
import pytest

from reports import curves, drawing, figures
from reports.analysis import analyse
from reports.collect import read
from reports.metrics import Metric, Schema
from reports.roles import gold, proxy
from reports.runs import Series
from tests.reports.test_controls import arm_of, couple, sweep_of

pytestmark = pytest.mark.usefixtures("undrawn")

PICTURES = {"train_strict", "train_official", "strict_by_nfe", "eval_geneval_strict"}


def panels(found):
    return {panel.name: panel for panel in found}


@pytest.mark.parametrize(
    ("family", "parts", "turns", "learning"),
    [
        (
            "stories",
            {"parts_interleaved_mean"},
            {f"by_step_interleaved_step_{name}" for name in ("asked", "faithful", "text", "coherence")},
            {"train_reward_structure", "train_reward_text", "train_reward_visual", "train_mean", "mean_by_nfe"}
            | {"eval_interleaved_mean"},
        ),
        (
            "edits",
            {"parts_editing_O_add"},
            {f"by_turn_editing_turn_{name}" for name in ("O", "SC", "PQ")},
            {"train_turn_1_reward", "train_turn_2_reward", "train_turn_3_reward", "train_O", "O_by_nfe"}
            | {"eval_editing_O"},
        ),
        (
            "reflections",
            {"parts_reflect_first_strict", "parts_geneval_strict_single_object"},
            set(),
            {"train_turn_1_reward", "train_turn_2_reward"} | PICTURES,
        ),
        ("finished", {"parts_geneval_strict_single_object"}, set(), PICTURES),
    ],
)
def test_figures_appear_where_their_measures_do(family, parts, turns, learning, request):
    sweep = read(request.getfixturevalue(family))
    assert set(panels(figures.parts(analyse(sweep)))) == parts
    assert set(panels(curves.turns(sweep))) == turns
    assert set(panels(curves.learning(sweep))) == learning | {"train_reward"}


def test_seeds_that_spent_different_evaluations_are_compared_where_all_of_them_have_been(stories):
    sweep = read(stories)
    for cell in sweep.arm("none").done:
        spent = sum(cell.history[name].values for name in ("cost/nfe_rollout", "cost/nfe_train"))
        steps, pace = cell.history["cost/nfe_rollout"].steps, 1 + cell.seed / 10
        cell.history["cost/nfe_rollout"] = Series(steps, pace * spent)
        cell.history["cost/nfe_train"] = Series(steps, 0 * spent)
        cell.history["train/mean"] = Series(steps, 1.0 * spent)
    slowest = max(1 + cell.seed / 10 for cell in sweep.arm("none").done)
    # Seed n has measured x / (1 + n / 10) after x evaluations; all have been between the first ones of the dearest
    # seed and the last ones of the cheapest.
    shrunk = np.mean([1 / (1 + cell.seed / 10) for cell in sweep.arm("none").done])
    first, last = slowest * spent[0] * shrunk, spent[-1] * shrunk
    assert f"none from {first:.3g} to {last:.3g}" in panels(curves.learning(sweep))["mean_by_nfe"].alt


def test_aspects_stand_side_by_side_with_the_model_before_training(stories):
    analysis = analyse(read(stories))
    (panel,) = figures.parts(analysis)
    for arm in ("none", "untouched", "velocity_mse"):
        mean = analysis.intervals[arm]["interleaved/helpfulness"].mean
        assert f"helpfulness {mean:.3g}" in panel.alt.split(f"{arm}: ")[1].split(";")[0]


def test_a_part_without_cases_in_an_arm_is_left_out(reflections):
    analysis = analyse(read(reflections))
    for cell in analysis.sweep.arm("none").done:
        cell.metrics.pop("reflect/kept")
    panel = panels(figures.parts(analyse(analysis.sweep)))["parts_reflect_first_strict"]
    first, second = panel.alt.split("none: ")[1].split(";")[:2]
    assert "right kept" not in first
    assert "right kept" in second


def test_turns_are_ordered_by_number_and_averaged_over_seeds(edits):
    sweep = read(edits)
    for arm in sweep.arms:
        for cell in arm.done:
            cell.metrics["editing/turn/10/O"] = 1.25
    panel = panels(curves.turns(sweep))["by_turn_editing_turn_O"]
    start = np.mean([cell.metrics["editing/turn/1/O"] for cell in sweep.arm("none").done])
    assert f"none from {start:.3g} to 1.25" in panel.alt
    assert "untouched from" in panel.alt


def test_an_only_component_is_the_reward_itself(stories):
    sweep = read(stories)
    for cell in sweep.cells:
        for name in ("train/reward/text", "train/reward/visual"):
            cell.history.pop(name, None)
    assert "train_reward_structure" not in panels(curves.learning(sweep))


def test_reward_and_judge_are_subtracted_on_one_scale_only(finished, stories):
    assert set(panels(curves.hacking(read(finished)))) == {"reward_gap", "proxy_gold_path"}
    path = panels(curves.hacking(read(stories)))
    assert set(path) == {"proxy_gold_path"}
    assert "mean of the five aspects" in path["proxy_gold_path"].alt


def test_a_score_that_stays_low_is_on_its_declared_scale_all_the_same(stories):
    sweep = read(stories)
    for cell in sweep.arm("none").done + sweep.arm("velocity_mse").done:
        cell.history["train/mean"].values[:] /= 10  # 0 to 5, and never above 1
    assert set(panels(curves.hacking(sweep))) == {"proxy_gold_path"}


def test_nothing_is_subtracted_whose_scale_nobody_declared(finished):
    sweep = read(finished)
    entries = {name: dataclasses.replace(m, bounds=None) for name, m in sweep.schema.entries.items()}
    sweep = dataclasses.replace(sweep, schema=Schema(entries))
    assert set(panels(curves.hacking(sweep))) == {"proxy_gold_path"}


def rewarded_alone(sweep, field):
    """The sweep, as if ``field`` were the reward, measured under that name or its own and nothing else."""
    for cell in sweep.cells:
        for name in ("train/strict", "train/official", "train/proxy"):
            cell.history.pop(name, None)
        if cell.history:
            cell.history.setdefault(f"train/{field}", cell.history["train/reward"])
    own = Metric("reward/total", "total", "Reward", "higher", headline=True, row_field=field)
    return dataclasses.replace(sweep, primary="reward/total", schema=Schema({own.name: own}))


@pytest.mark.parametrize("field", ["reward", "proxy", "of_another_name"])
def test_the_reward_alone_is_no_judge_of_itself(finished, field):
    sweep = rewarded_alone(read(finished), field)
    assert panels(curves.hacking(sweep)) == {}
    assert "train_reward" in panels(curves.learning(sweep))


def test_a_multiple_or_a_component_of_the_reward_is_no_judge_of_it(finished):
    sweep = rewarded_alone(read(finished), "mine")
    for cell in sweep.cells:
        if cell.history:
            reward = cell.history["train/reward"]
            cell.history["train/mine"] = Series(reward.steps, 10 * reward.values)
    assert panels(curves.hacking(sweep)) == {}
    for cell in sweep.cells:
        if cell.history:
            cell.history["train/mine"] = Series(reward.steps, reward.values + np.arange(len(reward.steps)))
    assert set(panels(curves.hacking(sweep))) == {"proxy_gold_path"}
    for cell in sweep.cells:
        if cell.history:
            cell.history["train/reward/mine"] = Series(reward.steps, 2 * reward.values)
    assert panels(curves.hacking(sweep)) == {}


def test_a_judge_that_never_moves_is_not_taken_for_a_part_of_the_reward_that_does_not_either(finished):
    sweep = read(finished)
    for cell in sweep.cells:
        if cell.history:
            nothing = Series((reward := cell.history["train/reward"]).steps, 0 * reward.values)
            cell.history.update({"train/strict": nothing, "train/reward/form": nothing})
    assert set(panels(curves.hacking(sweep))) == {"reward_gap", "proxy_gold_path"}


def test_arms_that_are_rewarded_with_the_judge_are_not_drawn_against_it(finished):
    sweep = read(finished)
    for cell in sweep.arm("none").done:
        cell.history["train/strict"] = cell.history["train/reward"]
    drawn = panels(curves.hacking(sweep))
    assert set(drawn) == {"reward_gap", "proxy_gold_path"}
    assert "none from" not in drawn["reward_gap"].alt
    assert "latent_kl from" in drawn["reward_gap"].alt


def test_no_axis_of_velocity_evaluations_without_any(stories):
    sweep = read(stories)
    for cell in sweep.cells:
        for name in ("cost/nfe_rollout", "cost/nfe_train"):
            if name in cell.history:
                cell.history[name].values[:] = 0
    assert "mean_by_nfe" not in panels(curves.learning(sweep))


def test_ratios_of_denoised_and_of_token_pictures_stand_side_by_side(finished):
    sweep = read(finished)
    for cell in sweep.arm("none").done:
        cell.history["ratio/image_clip_frac"] = cell.history["grad/image"]
        cell.history.update({"gap/text": cell.history["grad/text"], "gap/image/1": cell.history["grad/image"]})
    found = [panel.name for panel in curves.diagnostics(sweep)]
    assert {"ratio_image_clip_frac", "ratio_image_clip_frac_by_step"} <= set(found)
    assert {"gap_text", "gap_image_by_step"} <= set(found)
    assert len(found) == len(set(found))


def test_what_was_not_measured_in_training_is_not_drawn_against_the_reward(finished):
    sweep = read(finished)
    for cell in sweep.cells:
        for name in ("train/strict", "train/official", "train/proxy"):
            cell.history.pop(name, None)
    assert set(panels(curves.hacking(sweep))) == set()
    assert set(panels(curves.learning(sweep))) == {"train_reward", "eval_geneval_strict"}


def test_the_proxy_is_the_measure_that_is_called_as_the_reward(ladder):
    sweep = read(ladder)
    assert (proxy(sweep), gold(sweep)) == ("heldout/proxy", "geneval/strict")
    of_itself = dataclasses.replace(sweep, primary="heldout/proxy")
    assert gold(of_itself) == "geneval/strict"
    assert "scatter_heldout_proxy" in panels(figures.drift(analyse(sweep)))
    assert "scatter_heldout_proxy" not in panels(figures.drift(analyse(of_itself)))
    alone = Schema({"heldout/proxy": sweep.schema.metric("heldout/proxy")})
    assert analyse(dataclasses.replace(of_itself, schema=alone)).equal_proxy == ()
    assert analyse(sweep).equal_proxy
    for cell in sweep.arm("none").cells:
        cell.config["reward"]["name"] = "of another name"
    assert proxy(sweep) == ""
    assert "scatter_heldout_proxy" not in panels(figures.drift(analyse(sweep)))


def boxes_of(monkeypatch, sweep):
    """Of each forest plot of ``sweep``: boxes of what is written on its rows and axis, and of the marks of means."""
    from matplotlib.text import Annotation

    found = []

    def measure(sheet, alt, *, legend=True):
        sheet.figure.canvas.draw()
        axes = sheet.axes
        labels = [child.get_window_extent() for child in axes.get_children() if isinstance(child, Annotation)]
        low, high = axes.get_xlim()
        shown = (text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high)
        ticks = [text.get_window_extent() for text in shown]
        marks = [
            line.get_window_extent().padded(line.get_markersize() / 2 * axes.figure.dpi / 72)
            for line in axes.lines
            if line.get_marker() not in ("None", "")
        ]
        found.append((labels, ticks, marks, axes.xaxis.label.get_window_extent(), axes.figure.bbox))

    monkeypatch.setattr(drawing.Sheet, "finish", measure)
    analysis = analyse(sweep)
    list(figures.forests(dataclasses.replace(analysis, families=analysis.families[:1])))
    return found


@pytest.mark.parametrize("size", [3e-5, 0.02, 4e6])
def test_on_a_forest_nothing_overlaps_whatever_the_size_and_the_names(monkeypatch, size):
    names = [f"velocity_mse_matched_at_equal_drift_{i}" for i in range(12)]
    rng = np.random.default_rng(0)
    arms = [arm_of(name, 0.5 + size * (i + rng.normal(size=8)), against=names[0]) for i, name in enumerate(names)]
    planned = [couple(name, names[0]) for name in names[1:]]
    drawn = boxes_of(monkeypatch, sweep_of(*arms, planned=planned))
    assert drawn
    for labels, ticks, marks, below, whole in drawn:
        assert labels
        assert not any(label.overlaps(mark) for label in labels for mark in marks)
        assert not any(one.overlaps(two) for one, two in itertools.pairwise([*ticks]))
        assert not any(tick.overlaps(below) for tick in ticks)
        assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in [*labels, *ticks, below])
