"""Which pictures a report holds; one function a section, each giving its panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reports import statistics
from reports.analysis import Analysis, Family
from reports.collect import Floats, Series, Sweep
from reports.drawing import INK, PAPER, Mark, Panel, canvas, finish, marks
from reports.metrics import metric, phrase
from reports.penalties import Profile, profiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Blocks of updates whose means make the points of a proxy-against-gold path.
PATH_BLOCKS = 10


def forests(analysis: Analysis) -> Iterator[Panel]:
    """Paired differences on the primary metric: a dot per seed, mean and interval per comparison."""
    style = marks(analysis.sweep.arms)
    for family in analysis.families:
        yield _forest(family, style, analysis.sweep)


def _forest(family: Family, style: Mapping[str, Mark], sweep: Sweep) -> Panel:
    rows = len(family.pairs)
    with canvas(4.3, 0.75 + 0.42 * rows, left=0.1) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, pair in enumerate(family.pairs):
            mark, interval = style[pair.arm], pair.comparison.difference
            axes.plot(
                pair.comparison.differences,
                [row + 0.16] * interval.n,
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
                f"{pair.arm} − {pair.other}",
                (0, row - 0.24),
                xycoords=("axes fraction", "data"),
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
                fontsize=8,
                va="center",
            )
        axes.set(ylim=(rows - 0.5, -0.55), yticks=[], xlabel=f"difference in {phrase(sweep.primary)}")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        alt = "; ".join(f"{p.arm} minus {p.other} {p.comparison.difference.mean:+.3f}" for p in family.pairs)
        return finish(figure, axes, f"forest_{family.key}", family.title, f"Forest plot. {alt}", legend=False)


def learning(sweep: Sweep) -> Iterator[Panel]:
    """Training reward and judged scores by update, and the judged score by velocity evaluations."""
    for name, title in {
        "train/reward": "Training reward",
        "train/strict": "Strict verdict on the training rollouts",
        "eval/geneval/strict": "Strict score, evaluated in the loop",
        "eval/geneval/official": "Official score, evaluated in the loop",
    }.items():
        curves = {arm.name: arm.curves(name) for arm in sweep.trained}
        yield from _curves(sweep, curves, name, title, "update", name)
    by_cost = {
        arm.name: {
            cell.seed: Series(cost, cell.history["train/strict"].values)
            for cell in arm.done
            if "train/strict" in cell.history and (cost := _evaluations(cell.history)) is not None
        }
        for arm in sweep.trained
    }
    title = "Strict verdict by velocity evaluations"
    yield from _curves(sweep, by_cost, "strict_by_nfe", title, "velocity evaluations", "train/strict")


def _evaluations(history: Mapping[str, Series]) -> Floats | None:
    """Velocity evaluations so far, of rollout, training and reference, at the steps of ``train/strict``."""
    kinds = ("cost/nfe_rollout", "cost/nfe_train", "cost/nfe_reference")
    spent = [history[name] for name in kinds if name in history]
    steps = history["train/strict"].steps
    if not spent or any(series.steps.shape != steps.shape for series in spent):
        return None
    return np.asarray(np.sum([series.values for series in spent], axis=0))


def hacking(sweep: Sweep) -> Iterator[Panel]:
    """Training reward against the judge: the gap over time and the path in the plane of proxy and gold."""
    gaps: dict[str, dict[int, Series]] = {}
    for arm in sweep.trained:
        reward, gold = arm.curves("train/reward"), arm.curves("train/strict")
        gaps[arm.name] = {
            seed: Series(reward[seed].steps, reward[seed].values - gold[seed].values)
            for seed in reward.keys() & gold.keys()
            if reward[seed].steps.shape == gold[seed].steps.shape
        }
    yield from _curves(sweep, gaps, "reward_gap", "Gap: training reward − strict verdict", "update", "reward − strict")
    yield from _paths(sweep)


def _paths(sweep: Sweep) -> Iterator[Panel]:
    style, drawn = marks(sweep.arms), False
    with canvas() as (figure, axes):
        for arm in sweep.trained:
            proxy, gold = (_mean_curve(arm.curves(name)) for name in ("train/proxy", "train/strict"))
            if proxy is None or gold is None or proxy.values.shape != gold.values.shape:
                continue
            x, y = (np.array([b.mean() for b in _blocks(series.values)]) for series in (proxy, gold))
            mark, drawn = style[arm.name], True
            axes.plot(x, y, mark.dashes, color=mark.colour, label=arm.name)
            axes.plot(x[:1], y[:1], mark.marker, color=PAPER, markeredgecolor=mark.colour)
            axes.plot(x[-1:], y[-1:], mark.marker, color=mark.colour)
        if not drawn:
            return
        axes.set(xlabel="proxy reward of the rollouts", ylabel="strict verdict of the rollouts")
        alt = "Path of proxy reward against the judge's strict verdict; hollow mark first, filled mark last updates."
        yield finish(figure, axes, "proxy_gold_path", "Proxy against gold (hollow: start, filled: end)", alt)


def drift(analysis: Analysis) -> Iterator[Panel]:
    """Final score against drift from the reference by both measures; along ladders, joined in order of weight."""
    for name in ("drift/latent_kl", "drift/velocity_mse"):
        label = f"drift from the start, {metric(name).label}"
        yield from _scatter(
            analysis, name, label, f"{phrase(analysis.sweep.primary).capitalize()} against {label}", log=True
        )
    if analysis.ladders:
        title = "Gold against proxy along the ladder"
        yield from _scatter(analysis, "heldout/proxy", "proxy score of the evaluation", title, log=False)


def _scatter(analysis: Analysis, name: str, label: str, title: str, *, log: bool) -> Iterator[Panel]:
    sweep = analysis.sweep
    style, drawn = marks(sweep.arms), False
    with canvas() as (figure, axes):
        for arm in sweep.arms:
            xs, ys = arm.values(name), arm.values(sweep.primary)
            seeds = [seed for seed in xs if seed in ys and (xs[seed] > 0 or not log)]
            mark = style[arm.name]
            if arm.untouched and log and ys:
                # It has not drifted, but for rounding, which a logarithmic axis would blow up.
                axes.axhline(next(iter(ys.values())), color=mark.colour, linestyle=":", linewidth=1, label=arm.name)
                continue
            if not seeds:
                continue
            x, y = [xs[s] for s in seeds], [ys[s] for s in seeds]
            axes.plot(x, y, mark.marker, color=mark.colour, alpha=0.35, markersize=4, markeredgewidth=0)
            axes.plot([np.mean(x)], [np.mean(y)], mark.marker, color=mark.colour, markersize=7.5, label=arm.name)
            drawn = True
        if not drawn:
            return
        for ladder in analysis.ladders.values():
            means = [
                (np.mean([*arm.values(name).values()]), np.mean([*arm.values(sweep.primary).values()]))
                for arm in (sweep.arm(member) for _, member in ladder)
                if arm.values(name) and arm.values(sweep.primary)
            ]
            axes.plot(*zip(*means, strict=True), "-", color=style[ladder[-1][1]].colour, linewidth=1, zorder=1)
        if log:
            _log_ticks(axes)
        axes.set(xlabel=label, ylabel=phrase(sweep.primary))
        alt = f"Scatter of {phrase(sweep.primary)} against {label}, a small mark per seed and a large one per arm."
        yield finish(figure, axes, f"scatter_{_slug(name)}", title, alt)


def _log_ticks(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def penalties(sweep: Sweep) -> Iterator[Panel]:
    """Weight of each penalty on a squared velocity difference, along the flow."""
    found = profiles(sweep.trained)
    shapes = {profile.kind: profile for profile in reversed(found)}
    arms = marks(sweep.arms)
    if not shapes:
        return
    yield _profile(
        {kind: (profile, profile.weights / profile.weights.mean()) for kind, profile in shapes.items()},
        {kind: arms[profile.arm] for kind, profile in shapes.items()},
        "penalty_shape",
        "Shape: weight on ‖Δv‖², mean 1",
        "w(t) / mean",
    )
    used = {p.arm: (p, p.strength * p.weights) for p in found if p.strength > 0}
    if used:
        yield _profile(used, arms, "penalty_strength", "As configured: weight × w(t)", "β w(t)")


def _profile(
    curves: Mapping[str, tuple[Profile, Floats]], style: Mapping[str, Mark], name: str, title: str, label: str
) -> Panel:
    with canvas() as (figure, axes):
        for key, (profile, weights) in curves.items():
            mark = style[key]
            axes.plot(profile.times, weights, marker=mark.marker, linestyle=mark.dashes, color=mark.colour, label=key)
        axes.set(xlabel="t  (1 = noise, 0 = image)", ylabel=label, yscale="log")
        axes.invert_xaxis()
        alt = f"{title}, by time t, for {', '.join(curves)}"
        return finish(figure, axes, name, title, alt)


def diagnostics(sweep: Sweep) -> Iterator[Panel]:
    """Image ratios by denoising step, groups without signal, gradient norms."""
    for name, title in {
        "ratio/image_mean": "Image ratio by denoising step: mean",
        "ratio/image_std": "Image ratio by denoising step: standard deviation",
        "ratio/image_clip_frac": "Image ratio by denoising step: share clipped",
    }.items():
        yield from _by_step(sweep, name, title)
    for name, title in {
        "ratio/text_clip_frac": "Text ratio: share clipped",
        "train/zero_std_frac": "Groups whose rewards are all equal",
        "grad/text": "Gradient norm, text",
        "grad/image": "Gradient norm, image",
    }.items():
        yield from _curves(sweep, {arm.name: arm.curves(name) for arm in sweep.trained}, name, title, "update", name)


def _by_step(sweep: Sweep, name: str, title: str) -> Iterator[Panel]:
    from matplotlib.ticker import MaxNLocator

    style, drawn = marks(sweep.arms), False
    with canvas() as (figure, axes):
        for arm in sweep.trained:
            logged = {m for cell in arm.done for m in cell.history if m.startswith(f"{name}/")}
            steps = sorted(int(m.rpartition("/")[2]) for m in logged)
            runs = {k: [s.values.mean() for s in arm.curves(f"{name}/{k}").values()] for k in steps}
            intervals = [statistics.mean_interval(runs[k]) for k in steps]
            if not intervals:
                continue
            mark, drawn = style[arm.name], True
            axes.errorbar(
                steps,
                [i.mean for i in intervals],
                [i.half_width or 0 for i in intervals],
                marker=mark.marker,
                linestyle=mark.dashes,
                color=mark.colour,
                label=arm.name,
                elinewidth=1,
            )
        if not drawn:
            return
        axes.set(xlabel="denoising step (0 = noisiest)", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        yield finish(figure, axes, _slug(name), title, f"{title}; mean over updates, interval over seeds, per arm.")


def _curves(
    sweep: Sweep, curves: Mapping[str, Mapping[int, Series]], name: str, title: str, xlabel: str, ylabel: str
) -> Iterator[Panel]:
    """Mean over seeds with a pointwise 95 % band and a thin line per seed; nothing if no arm logged it."""
    if not any(curves.values()):
        return
    style, ends = marks(sweep.arms), []
    with canvas() as (figure, axes):
        for arm, by_seed in curves.items():
            mean = _mean_curve(by_seed)
            if mean is None:
                continue
            _curve(axes, by_seed, mean, style[arm], arm)
            ends.append(f"{arm} from {mean.values[0]:.3g} to {mean.values[-1]:.3g}")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        yield finish(figure, axes, _slug(name), title, f"{title} by {xlabel}: {'; '.join(ends)}.")


def _curve(axes: Axes, by_seed: Mapping[int, Series], mean: Series, mark: Mark, label: str) -> None:
    style: dict[str, Any] = {"color": mark.colour}
    for series in by_seed.values():
        axes.plot(series.steps, series.values, linewidth=0.5, alpha=0.3, **style)
    if len(by_seed) > 1:
        half = statistics.t_half_width(_aligned(by_seed, mean.steps))
        axes.fill_between(mean.steps, mean.values - half, mean.values + half, alpha=0.15, linewidth=0, **style)
    marker = mark.marker if len(mean.steps) <= 12 else ""
    axes.plot(mean.steps, mean.values, linestyle=mark.dashes, marker=marker, markersize=4, label=label, **style)


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


def _slug(name: str) -> str:
    return name.replace("/", "_")
