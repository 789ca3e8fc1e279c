"""Figures by update, by denoising step and by turn; one function for each section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from reports import statistics
from reports.drawing import ABOVE, PAPER, Mark, Panel, labelled, marks, sheet
from reports.heldout import held_out
from reports.metrics import Metric, capitalize_first
from reports.records import Arm, Sweep
from reports.roles import in_training, judge, judged, proxy
from reports.runs import Floats, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Learning curves of the reward: pattern of the logged name -> title, filled in with the pattern's group.
_REWARDS = {
    "train/reward": "Training reward",
    "train/reward/(.+)": "Training reward: {}",
    r"train/turn/(\d+)/reward": "Training reward of turn {}",
}

#: A final measure of one turn or step, such as ``editing/turn/2/O``: prefix, unit, number, rest.
_NUMBERED = re.compile(r"(.+)/(\w+)/(\d+)/(.+)")

#: Points of a proxy-against-gold path; each is the mean of a block of updates.
PATH_BLOCKS = 10


def learning(sweep: Sweep) -> Iterator[Panel]:
    """Held-out measures, reward, its components and turns by update; one measure also by velocity evaluations."""
    for measure in held_out(sweep):
        label = measure.name.removeprefix("eval/")
        yield from _curves(
            sweep, measure.curves, measure.name, measure.title, "update", label, partings=measure.partings
        )
    for name, title in _titles(sweep).items():
        curves = {arm.name: arm.curves(name) for arm in sweep.trained}
        yield from _curves(sweep, curves, name, title, "update", name)
    for metric in in_training(sweep)[:1]:
        gold = f"train/{metric.row_field}"
        by_cost = {
            arm.name: _at_equal_steps(
                {
                    cell.seed: Series(cost, cell.history[gold].values)
                    for cell in arm.done
                    if gold in cell.history and (cost := _evaluations(cell.history, gold)) is not None
                }
            )
            for arm in sweep.trained
        }
        title = f"{capitalize_first(metric.in_words)} against its cost"
        yield from _curves(sweep, by_cost, f"{metric.row_field}_by_nfe", title, "velocity evaluations", gold)


def _titles(sweep: Sweep) -> dict[str, str]:
    """Logged name -> title of its curve by update."""
    logged = sorted({name for cell in sweep.cells for name in cell.history})
    found: dict[str, str] = {}
    for pattern, title in _REWARDS.items():
        matches = [match for name in logged if (match := re.fullmatch(pattern, name))]
        if len(matches) == 1 and matches[0].groups():
            continue  # a single component is the reward itself
        found |= {match[0]: title.format(*match.groups()) for match in matches}
    for metric in in_training(sweep):
        found[f"train/{metric.row_field}"] = f"{capitalize_first(metric.in_words)} of the training rollouts"
    return found


def _evaluations(history: Mapping[str, Series], gold: str) -> Floats | None:
    """Velocity evaluations so far (rollout, training, reference) at the steps of ``gold``; None if there were none."""
    kinds = ("cost/nfe_rollout", "cost/nfe_train", "cost/nfe_reference")
    spent = [history[name] for name in kinds if name in history]
    steps = history[gold].steps
    if not spent or any(series.steps.shape != steps.shape for series in spent):
        return None
    total = np.asarray(np.sum([series.values for series in spent], axis=0))
    return total if total.any() else None


def _at_equal_steps(by_seed: Mapping[int, Series]) -> dict[int, Series]:
    """Curves whose steps differ, interpolated at equal steps within the range that all of them cover."""
    first = max((series.steps[0] for series in by_seed.values()), default=0)
    last = min((series.steps[-1] for series in by_seed.values()), default=0)
    if last <= first:
        return {}
    steps = np.linspace(first, last, min(len(series.steps) for series in by_seed.values()))
    return {seed: Series(steps, np.interp(steps, series.steps, series.values)) for seed, series in by_seed.items()}


def turns(sweep: Sweep) -> Iterator[Panel]:
    """Final scores by turn or step, with those of the untouched model."""
    series: dict[tuple[str, str, str], Metric] = {}
    for metric in sweep.schema.entries.values():
        if match := _NUMBERED.fullmatch(metric.name):
            series.setdefault((match[1], match[2], match[4]), metric)
    for (of, unit, last), first in series.items():
        pattern = rf"{re.escape(of)}/{re.escape(unit)}/(\d+)/{re.escape(last)}"
        curves = {arm.name: {cell.seed: _by_number(cell.metrics, pattern) for cell in arm.done} for arm in sweep.arms}
        curves = {arm: {seed: s for seed, s in by_seed.items() if s.steps.size} for arm, by_seed in curves.items()}
        curves |= {arm.name: _fixed(arm, curves[arm.name], sweep.seeds) for arm in sweep.arms if not arm.trained}
        whole = sweep.schema.entries.get(f"{of}/{last}")
        title = capitalize_first(whole.in_words if whole else first.label)
        yield from _curves(sweep, curves, f"by_{unit}/{of}/{unit}/{last}", title, unit, last)


def _fixed(arm: Arm, curves: Mapping[int, Series], seeds: Sequence[int]) -> dict[int, Series]:
    """The one curve of what is not trained: the mean over the models that seeds start from, with their weights."""
    mean = _mean_curve(arm.by_seed(curves, seeds)) if arm.blocks and curves else None
    return dict(curves) if mean is None else {min(curves): mean}


def _by_number(metrics: Mapping[str, float], pattern: str) -> Series:
    """The values of the metrics that match ``pattern``, ordered by the number in its group."""
    found = sorted((int(m[1]), value) for name, value in metrics.items() if (m := re.fullmatch(pattern, name)))
    return Series(*np.array(found, dtype=np.float64).reshape(-1, 2).T)


def hacking(sweep: Sweep) -> Iterator[Panel]:
    """Training reward against the judge: the gap by update, and the path of one against the other.

    There is no figure if the rollouts were measured by the reward alone. Arms whose reward is the judge's score, or
    contains it, are not drawn.
    """
    metric = judge(sweep)
    if metric is None:
        return
    arms, logged = judged(sweep, metric), f"train/{metric.row_field}"
    if _on_one_scale(sweep, metric):
        gaps: dict[str, dict[int, Series]] = {}
        for arm in arms:
            reward, gold = arm.curves("train/reward"), arm.curves(logged)
            gaps[arm.name] = {
                seed: Series(reward[seed].steps, reward[seed].values - gold[seed].values)
                for seed in reward.keys() & gold.keys()
                if reward[seed].steps.shape == gold[seed].steps.shape
            }
        title, label = f"Gap: training reward − {metric.in_words}", f"reward − {metric.row_field}"
        yield from _curves(sweep, gaps, "reward_gap", title, "update", label)
    yield from _paths(sweep, arms, logged, metric.in_words)


def _on_one_scale(sweep: Sweep, metric: Metric) -> bool:
    """Whether ``metric`` may be subtracted from the reward: both are declared to have the same bounds."""
    rewarded = sweep.schema.metric(proxy(sweep))
    return metric.better == "higher" and metric.bounds is not None and metric.bounds == rewarded.bounds


def _paths(sweep: Sweep, arms: Sequence[Arm], logged: str, words: str) -> Iterator[Panel]:
    style, empty = marks(sweep.arms), True
    with sheet("proxy_gold_path", "Training reward against gold (hollow: start, filled: end)") as drawn:
        axes = drawn.axes
        for arm in arms:
            reward, gold = (_mean_curve(arm.curves(name)) for name in ("train/reward", logged))
            if reward is None or gold is None or reward.values.shape != gold.values.shape:
                continue
            x, y = (np.array([b.mean() for b in _blocks(series.values)]) for series in (reward, gold))
            mark, empty = style[arm.name], False
            axes.plot(x, y, mark.dashes, color=mark.colour, label=labelled(arm.name))
            axes.plot(x[:1], y[:1], mark.marker, color=PAPER, markeredgecolor=mark.colour)
            axes.plot(x[-1:], y[-1:], mark.marker, color=mark.colour)
        if empty:
            return
        axes.set(xlabel="training reward of the rollouts", ylabel=f"{words} of the rollouts")
        drawn.finish(
            f"Path of training reward against the judge's {words}; hollow mark first, filled mark last updates."
        )
    yield from drawn.panels


def diagnostics(sweep: Sweep) -> Iterator[Panel]:
    """Image ratios by denoising step, what sampling and training differ by, groups without signal, gradient norms."""
    for name, title in {
        "ratio/image_mean": "Image ratio by denoising step: mean",
        "ratio/image_std": "Image ratio by denoising step: standard deviation",
        "ratio/image_clip_frac": "Image ratio by denoising step: share clipped",
    }.items():
        yield from _by_step(sweep, name, title)
    yield from _by_step(sweep, "gap/image", "Sampling and training, images: largest |log-ratio| by denoising step")
    for name, title in {
        "gap/text": "Sampling and training, texts: largest |log-ratio|",
        "ratio/text_clip_frac": "Text ratio: share clipped",
        "ratio/image_clip_frac": "Image ratio, painted by tokens: share clipped",
        "train/zero_std_frac": "Groups whose rewards are all equal",
        "grad/text": "Gradient norm, text",
        "grad/image": "Gradient norm, image",
    }.items():
        yield from _curves(sweep, {arm.name: arm.curves(name) for arm in sweep.trained}, name, title, "update", name)


def _by_step(sweep: Sweep, name: str, title: str) -> Iterator[Panel]:
    from matplotlib.ticker import MaxNLocator

    style, empty = marks(sweep.arms), True
    with sheet(f"{name}/by_step", title) as drawn:
        axes = drawn.axes
        for arm in sweep.trained:
            logged = {m for cell in arm.done for m in cell.history if m.startswith(f"{name}/")}
            steps = sorted(int(m.rpartition("/")[2]) for m in logged)
            runs = {k: [s.values.mean() for s in arm.curves(f"{name}/{k}").values()] for k in steps}
            intervals = [statistics.mean_interval(runs[k]) for k in steps]
            if not intervals:
                continue
            mark, empty = style[arm.name], False
            axes.errorbar(
                steps,
                [i.mean for i in intervals],
                [i.half_width or 0 for i in intervals],
                marker=mark.marker,
                linestyle=mark.dashes,
                color=mark.colour,
                label=labelled(arm.name),
                elinewidth=1,
            )
        if empty:
            return
        axes.set(xlabel="denoising step (0 = noisiest)", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        drawn.finish(f"{title}; mean over updates, interval over seeds, per arm.")
    yield from drawn.panels


def _curves(
    sweep: Sweep,
    curves: Mapping[str, Mapping[int, Series]],
    name: str,
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    partings: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[Panel]:
    """Mean over seeds with a pointwise 95 % band, and a thin line for each seed; no panel if no arm logged it.

    ``partings``: arm -> where a vertical line says that reward and judge part.
    """
    if not any(curves.values()):
        return
    style, ends = marks(sweep.arms), []
    with sheet(name, title) as drawn:
        axes = drawn.axes
        for arm, by_seed in curves.items():
            mean = _mean_curve(by_seed)
            if mean is None:
                continue
            _curve(axes, by_seed, mean, style[arm], arm)
            ends.append(f"{arm} from {mean.values[0]:.3g} to {mean.values[-1]:.3g}")
        for arm, step in partings.items():
            axes.axvline(step, color=style[arm].colour, linestyle=(0, (1, 2)), linewidth=1.2)
            ends.append(f"{arm}: after {xlabel} {step:g} the reward rises and this falls")
        if partings:
            axes.annotate("dotted: from here the reward rises and this falls", (1, 1), **ABOVE)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.locator_params(axis="x", integer=True)
        drawn.finish(f"{title} by {xlabel}: {'; '.join(ends)}.")
    yield from drawn.panels


def _curve(axes: Axes, by_seed: Mapping[int, Series], mean: Series, mark: Mark, label: str) -> None:
    style: dict[str, Any] = {"color": mark.colour}
    for series in by_seed.values():
        axes.plot(series.steps, series.values, linewidth=0.5, alpha=0.3, **style)
    if len(by_seed) > 1:
        half = statistics.t_half_width(_aligned(by_seed, mean.steps))
        axes.fill_between(mean.steps, mean.values - half, mean.values + half, alpha=0.15, linewidth=0, **style)
    marker = mark.marker if len(mean.steps) <= 12 else ""
    axes.plot(
        mean.steps, mean.values, linestyle=mark.dashes, marker=marker, markersize=4, label=labelled(label), **style
    )


def _mean_curve(by_seed: Mapping[int, Series]) -> Series | None:
    """Mean over seeds at the steps that every seed has; None if there is no such step."""
    if not by_seed:
        return None
    steps = np.array(sorted(set.intersection(*(set(series.steps.tolist()) for series in by_seed.values()))))
    return Series(steps, _aligned(by_seed, steps).mean(axis=0)) if steps.size else None


def _aligned(by_seed: Mapping[int, Series], steps: Floats) -> Floats:
    return np.stack([series.values[np.searchsorted(series.steps, steps)] for series in by_seed.values()])


def _blocks(values: Floats) -> Sequence[Floats]:
    return np.array_split(values, min(PATH_BLOCKS, len(values)))
