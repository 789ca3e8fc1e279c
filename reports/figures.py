"""Figures of final results; one function for each section, which yields its panels."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.drawing import ABOVE, INK, PAPER, RULE, Mark, Panel, labelled, marks, marks_of, sheet, spread_out
from reports.factorial import Along, along
from reports.findings import Analysis, Family, Pair
from reports.metrics import Metric, capitalize_first
from reports.penalties import Profile, profiles
from reports.records import Sweep
from reports.roles import proxy
from reports.runs import Floats
from reports.text import shorten, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

#: Most characters of each of the two names in a comparison's label.
_NAME = 26

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

#: Labels of more levels than this are turned.
_LEVELS = 6

#: How many measures a group must have to be drawn: fewer are easily read in the table, more do not fit.
_FEWEST, _MOST = 4, 16


def forests(analysis: Analysis) -> Iterator[Panel]:
    """Paired differences of the primary metric: a dot for each seed, mean and interval for each comparison."""
    style = marks(analysis.sweep.arms)
    if (at := analysis.sweep.at) is not None:  # a ladder looks like its last rung
        style |= {name: style[rungs[-1]] for name, rungs in at.ladders.items() if rungs[-1] in style}
    for family in analysis.families:
        yield from _forest(family, style, analysis.sweep)


def _forest(family: Family, style: Mapping[str, Mark], sweep: Sweep) -> Iterator[Panel]:
    rows = len(family.pairs)
    with sheet(f"forest_{family.key}", family.title, 4.3, 0.75 + 0.5 * rows, left=0.1) as drawn:
        axes = drawn.axes
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, pair in enumerate(family.pairs):
            _forest_row(axes, row, pair, style[pair.couples[0][0]])
        unit = _scaled(axes)
        measure = shorten(sweep.schema.metric_phrase(sweep.primary), _NAME)
        axes.set(ylim=(rows - 0.5, -0.55), yticks=[], xlabel=f"difference in {measure}{unit}")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        alt = "; ".join(f"{p.arm} minus {p.other} {p.comparison.mean:+.3g}" for p in family.pairs)
        if noisy := [pair.noise for pair in family.pairs if pair.noise is not None]:
            axes.annotate("grey: where 95 % of means lie if arms are equal (A/A)", (1, 1), **ABOVE)
            alt += f"; if arms are equal, 95 % of means lie within {max(noisy):.2g} of 0"
        drawn.finish(f"Forest plot. {alt}", legend=False)
    yield from drawn.panels


def _scaled(axes: Axes) -> str:
    """Few and short labels on the x axis, whatever its size; returns the power of ten that they are multiples of."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    exponent = int(np.floor(np.log10(max(map(abs, axes.get_xlim())))))
    if not -4 < exponent < 5:
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value / 10.0**exponent:.4g}".replace("-", "−"))
        )
        return f" (×10{str(exponent).translate(_RAISED)})"
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    return ""


def _forest_row(axes: Axes, row: int, pair: Pair, mark: Mark) -> None:
    interval = pair.interval
    if pair.noise is not None:
        axes.fill_betweenx([row - 0.12, row + 0.3], -pair.noise, pair.noise, color=RULE, linewidth=0, zorder=0)
    axes.plot(
        pair.comparison.differences,
        [row + 0.2] * interval.n,
        "o",
        color=mark.colour,
        alpha=0.45,
        markersize=3.5,
        markeredgewidth=0,
    )
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [row, row], "-", color=mark.colour, linewidth=1.8)
    axes.plot([interval.mean], [row], mark.marker, color=mark.colour, markersize=6)
    axes.annotate(
        f"{shorten(pair.arm, _NAME)} − {shorten(pair.other, _NAME)}",
        (0, row - 0.3),
        xycoords=("axes fraction", "data"),
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        fontsize=8,
        va="center",
    )


def factors(sweep: Sweep) -> Iterator[Panel]:
    """Means along each axis of the grid, a line for each arm of its file: lines that are not parallel interact."""
    for axis in along(sweep):
        yield from _interaction(axis, sweep)


def _interaction(found: Along, sweep: Sweep) -> Iterator[Panel]:
    style, place = marks_of(found.lines), {level: x for x, level in enumerate(found.levels)}
    title = f"{found.axis}{f' by {found.by}' if found.by else ''}"
    upright = len(place) > _LEVELS
    shown = [shorten(level, 16) if upright else textwrap.fill(shorten(level, 22), 11) for level in place]
    name = f"factors/{found.axis}/{found.by}"
    with sheet(name, title, 5.4, 3.3, right=1.35 if found.by else 0.2, below=0.95 if upright else 0.72) as drawn:
        axes, words, ends = drawn.axes, [], {}
        step = min(0.5 / len(style), 0.05)  # beside each other, so that no interval hides another
        for i, (line, means) in enumerate(found.lines.items()):
            xs = [place[level] + step * (i - (len(style) - 1) / 2) for level in means]
            mark, ys = style[line], [mean.mean for mean in means.values()]
            halves = [mean.half_width or 0 for mean in means.values()]
            axes.errorbar(
                xs,
                ys,
                halves,
                marker=mark.marker,
                linestyle=mark.dashes,
                color=mark.colour,
                elinewidth=1,
                linewidth=1.2,
            )
            ends[line] = (xs[-1], ys[-1])
            words.append(f"{line}: {', '.join(f'{level} {mean.mean:.3g}' for level, mean in means.items())}")
        axes.set_xticks(range(len(place)), shown, rotation=90 if upright else 0, fontsize=7)
        axes.set(xlim=(-0.3, len(place) - 0.7), xlabel=found.axis, ylabel=sweep.schema.metric_phrase(sweep.primary))
        axes.grid(axis="x", visible=False)
        if found.by:
            _label_ends(axes, ends, style)
        drawn.finish(f"Interaction plot of {title}, mean and interval over seeds. {'; '.join(words)}.", legend=False)
    yield from drawn.panels


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], style: Mapping[str, Mark]) -> None:
    """Write the name of each line beside its end, far enough from the others to be read."""
    low, high = axes.get_ylim()
    apart = min(0.062, 1 / len(ends))
    places = spread_out([(y - low) / (high - low) for _, y in ends.values()], apart)
    shift = min(0.0, 1 - max(places)) or max(0.0, -min(places))
    for (line, end), place, name in zip(ends.items(), places, shortened(list(ends), 22), strict=True):
        axes.annotate(
            name,
            end,
            (1.03, place + shift),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style[line].colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 3},
        )


def parts(analysis: Analysis) -> Iterator[Panel]:
    """Final measures by group, arms side by side; only groups with one better direction, as they share an axis."""
    known = {name for found in analysis.intervals.values() for name in found}
    groups: dict[str, list[Metric]] = {}
    for measure in analysis.sweep.schema.columns:
        if measure.name in known:
            groups.setdefault(measure.group, []).append(measure)
    for group, measures in groups.items():
        directions = {measure.better for measure in measures}
        if _FEWEST <= len(measures) <= _MOST and len(directions) == 1 and "neither" not in directions:
            yield from _side_by_side(analysis, measures, group)


def _side_by_side(analysis: Analysis, measures: Sequence[Metric], title: str) -> Iterator[Panel]:
    """A column for each measure, with a mark and an interval over seeds for each arm."""
    style, arms, words = marks(analysis.sweep.arms), analysis.intervals, []
    step = min(0.8 / len(arms), 0.16)
    with sheet(f"parts/{measures[0].name}", title, 6.5, 2.9) as drawn:
        axes = drawn.axes
        for i, (arm, intervals) in enumerate(arms.items()):
            here = {x: intervals[m.name] for x, m in enumerate(measures) if m.name in intervals}
            axes.errorbar(
                [x + step * (i - (len(arms) - 1) / 2) for x in here],
                [interval.mean for interval in here.values()],
                [interval.half_width or 0 for interval in here.values()],
                marker=style[arm].marker,
                linestyle="none",
                color=style[arm].colour,
                label=labelled(arm),
                elinewidth=1.2,
            )
            means = (f"{measures[x].label} {interval.mean:.3g}" for x, interval in here.items())
            words.append(f"{arm}: {', '.join(means)}")
        for x in range(1, len(measures)):
            axes.axvline(x - 0.5, color=RULE, linewidth=0.5)
        axes.set_xticks(range(len(measures)), [textwrap.fill(m.label, 11) for m in measures])
        axes.set(xlim=(-0.5, len(measures) - 0.5), ylabel=measures[0].group)
        axes.grid(axis="x", visible=False)
        drawn.finish(f"{title}, mean and interval over seeds. {'; '.join(words)}.")
    yield from drawn.panels


def drift(analysis: Analysis) -> Iterator[Panel]:
    """Final score against both measures of drift from the reference; the arms of a ladder are joined by a line."""
    schema, primary = analysis.sweep.schema, analysis.sweep.primary
    for name in ("drift/latent_kl", "drift/velocity_mse"):
        label = f"drift from the start, {schema.metric(name).label}"
        yield from _scatter(
            analysis, name, label, f"{capitalize_first(schema.metric_phrase(primary))} against {label}", log=True
        )
    if analysis.ladders and (rewarded := proxy(analysis.sweep)) not in ("", primary):
        title = "Gold against proxy along the ladder"
        yield from _scatter(analysis, rewarded, f"{schema.metric_phrase(rewarded)} of the evaluation", title, log=False)


def _scatter(analysis: Analysis, name: str, label: str, title: str, *, log: bool) -> Iterator[Panel]:
    sweep = analysis.sweep
    style, empty = marks(sweep.arms), True
    with sheet(f"scatter/{name}", title) as drawn:
        axes = drawn.axes
        for arm in sweep.arms:
            xs, ys = arm.values(name), arm.values(sweep.primary)
            seeds = [seed for seed in xs if seed in ys and (xs[seed] > 0 or not log)]
            mark = style[arm.name]
            if not arm.trained and log and ys:
                # Its drift is 0 but for rounding, which cannot be shown on a logarithmic axis.
                level = np.average([*ys.values()], weights=[*map(arm.weight, ys)])
                axes.axhline(float(level), color=mark.colour, linestyle=":", linewidth=1, label=labelled(arm.name))
                continue
            if not seeds:
                continue
            x, y = [xs[s] for s in seeds], [ys[s] for s in seeds]
            axes.plot(x, y, mark.marker, color=mark.colour, alpha=0.35, markersize=4, markeredgewidth=0)
            weights = [*map(arm.weight, seeds)]
            centre = [[float(np.average(values, weights=weights))] for values in (x, y)]
            axes.plot(*centre, mark.marker, color=mark.colour, markersize=7.5, label=labelled(arm.name))
            empty = False
        if empty:
            return
        for ladder in analysis.ladders.values():
            means = [
                (np.mean([*arm.values(name).values()]), np.mean([*arm.values(sweep.primary).values()]))
                for arm in (sweep.arm(member) for _, member in ladder)
                if arm.values(name) and arm.values(sweep.primary)
            ]
            axes.plot(*zip(*means, strict=True), "-", color=style[ladder[-1][1]].colour, linewidth=1, zorder=1)
        if log:
            axes.set_xscale("log")
            _log_ticks(axes.xaxis)
        scored = sweep.schema.metric_phrase(sweep.primary)
        axes.set(xlabel=label, ylabel=scored)
        drawn.finish(f"Scatter of {scored} against {label}, a small mark per seed and a large one per arm.")
    yield from drawn.panels


def _log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def penalties(sweep: Sweep) -> Iterator[Panel]:
    """Weight of each penalty on a squared velocity difference, along the flow."""
    found = profiles(sweep.trained)
    shapes = {profile.kind: profile for profile in reversed(found)}
    arms = marks(sweep.arms)
    if not shapes:
        return
    yield from _profile(
        {kind: (profile, profile.weights / profile.weights.mean()) for kind, profile in shapes.items()},
        {kind: arms[profile.arm] for kind, profile in shapes.items()},
        "penalty_shape",
        "Shape: weight on ‖Δv‖², mean 1",
        "w(t) / mean",
    )
    used = {p.arm: (p, p.strength * p.weights) for p in found if p.strength > 0}
    if used:
        yield from _profile(used, arms, "penalty_strength", "As configured: weight × w(t)", "β w(t)")


def _profile(
    curves: Mapping[str, tuple[Profile, Floats]], style: Mapping[str, Mark], name: str, title: str, label: str
) -> Iterator[Panel]:
    with sheet(name, title) as drawn:
        axes = drawn.axes
        for key, (profile, weights) in curves.items():
            mark = style[key]
            axes.plot(
                profile.times,
                weights,
                marker=mark.marker,
                linestyle=mark.dashes,
                color=mark.colour,
                label=labelled(key),
            )
        axes.set(xlabel="t  (1 = noise, 0 = image)", ylabel=label, yscale="log")
        _log_ticks(axes.yaxis)
        axes.invert_xaxis()
        drawn.finish(f"{title}, by time t, for {', '.join(curves)}")
    yield from drawn.panels
