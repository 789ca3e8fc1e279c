"""Computes what the pages state: intervals, comparisons, warnings and the verdict."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from reports import statistics
from reports.caveats import caveats
from reports.findings import Analysis, EqualProxy, Family, Pair, Status, Verdict
from reports.metrics import Better, capitalize_first, digits, number, p_value
from reports.records import Arm, Sweep
from reports.roles import gold, proxy
from reports.statistics import Interval

T = TypeVar("T")

#: With more trained arms than this, not all pairs and measures are compared, and not all arms are drawn.
LARGE = 16

#: A metric and the mean of its rows may differ by this much, by rounding.
_SAME = 1e-6

#: With more comparisons than this, the verdict gives their number instead of listing them.
_LISTED = 3


def analyse(sweep: Sweep) -> Analysis:
    """Compute everything that the pages state. Deterministic."""
    families = tuple(family for family in _families(sweep) if family.pairs)
    ladders = _ladders(sweep)
    return Analysis(
        sweep=sweep,
        intervals={arm.name: _intervals(arm) for arm in sweep.arms if arm.done and not arm.unstable},
        families=families,
        exploratory=_exploratory(sweep),
        ladders=ladders,
        equal_proxy=tuple(_equal_proxy(sweep, ladders)),
        verdict=_verdict(sweep, families),
        warnings=tuple(caveats(sweep, families, leading(sweep))),
    )


def leading(sweep: Sweep) -> Sweep:
    """The sweep itself. A large one is reduced to its baseline, the untouched model and the best other arms."""
    if len(sweep.trained) <= LARGE:
        return sweep
    sign = 1 if sweep.higher_is_better else -1
    rivals = [arm for arm in sweep.trained if arm.name != sweep.baseline and not arm.unstable]
    scores = {arm.name: np.mean([*values.values()]) for arm in rivals if (values := arm.values(sweep.primary))}
    kept = {sweep.baseline, *sorted(scores, key=lambda name: -sign * scores[name])[: LARGE - 1]}
    return replace(sweep, arms=tuple(arm for arm in sweep.arms if not arm.trained or arm.name in kept))


def drawn(analysis: Analysis) -> Analysis:
    """The part of an analysis that is drawn: all of it, or only the leading arms of a large sweep."""
    sweep = leading(analysis.sweep)
    if sweep is analysis.sweep:
        return analysis
    names = {arm.name for arm in sweep.arms}
    families = (replace(f, pairs=tuple(p for p in f.pairs if {p.arm, p.other} <= names)) for f in analysis.families)
    ladders = {k: tuple(point for point in ladder if point[1] in names) for k, ladder in analysis.ladders.items()}
    return replace(
        analysis,
        sweep=sweep,
        intervals={arm: found for arm, found in analysis.intervals.items() if arm in names},
        families=tuple(family for family in families if family.pairs),
        ladders={k: ladder for k, ladder in ladders.items() if len(ladder) > 1},
    )


def better(sweep: Sweep, name: str) -> Better:
    """Which direction is better: for the primary metric as the grid says, for others as the schema says."""
    return (
        ("higher" if sweep.higher_is_better else "lower") if name == sweep.primary else sweep.schema.metric(name).better
    )


def _intervals(arm: Arm) -> dict[str, Interval]:
    names = sorted({name for cell in arm.done for name in cell.metrics})
    return {name: statistics.mean_interval(list(arm.values(name).values())) for name in names}


def _families(sweep: Sweep) -> Iterator[Family]:
    usable = [arm for arm in sweep.arms if arm.done and not arm.unstable]
    trained = [arm for arm in usable if arm.trained]
    baseline = next((arm for arm in usable if arm.name == sweep.baseline), None)
    fixed = [arm for arm in usable if not arm.trained and arm is not baseline]
    starts = {_model(arm): arm for arm in sorted(fixed, key=lambda arm: arm.untouched)}

    def family(key: str, title: str, couples: Sequence[tuple[Arm, Arm]], *, prompts: bool) -> Family:
        pairs = [pair for pair in (_pair(sweep, a, b, sweep.primary) for a, b in couples) if pair]
        pairs = _corrected(pairs, sweep.correction)
        return Family(
            key, title, sweep.correction, tuple(_with_prompts(sweep, p) for p in pairs) if prompts else tuple(pairs)
        )

    if baseline is not None:
        couples = [(arm, baseline) for arm in usable if arm.name in sweep.planned]
        yield family("baseline", f"Against the baseline, {baseline.name}, as planned", couples, prompts=True)
    couples = [(arm, starts[_model(arm)]) for arm in trained if _model(arm) in starts]
    yield family("untouched", "Against the model before training", couples, prompts=True)
    couples = [(b, a) for a, b in itertools.combinations(trained, 2)] if len(trained) <= LARGE else []
    if len(couples) > 1:
        yield family("pairs", "All pairs of trained arms", couples, prompts=False)


def _model(arm: Arm) -> str:
    """What an arm starts from; models of a user's own need not have a checkpoint."""
    return json.dumps(arm.config.get("model"), sort_keys=True)


def _by_seed(arm: Arm, table: Mapping[int, T], seeds: Iterable[int]) -> Mapping[int, T]:
    """``table`` by seed. An arm that does not train has one entry, which is repeated for every seed."""
    return table if arm.trained or not table else dict.fromkeys(seeds, next(iter(table.values())))


def _pair(sweep: Sweep, arm: Arm, other: Arm, name: str) -> Pair | None:
    if not (arm.trained or other.trained):
        return None  # two constants: nothing to test
    own = arm.values(name)
    theirs = _by_seed(other, other.values(name), own)
    mine = _by_seed(arm, own, theirs)
    seeds = tuple(sorted(mine.keys() & theirs.keys()))
    if not seeds:
        return None
    against = [theirs[seed] for seed in seeds]
    comparison = statistics.compare(
        [mine[seed] for seed in seeds],
        against if other.trained else against[0],
        higher_is_better=better(sweep, name) != "lower",
    )
    floor, decimals = statistics.smallest_p(len(seeds)), digits([*mine.values(), *theirs.values()])
    return Pair(arm.name, other.name, name, seeds, comparison, floor, decimals)


def _corrected(pairs: Sequence[Pair], correction: str) -> list[Pair]:
    adjusted = statistics.adjust([pair.comparison.p for pair in pairs], correction)
    return [
        replace(pair, p_adjusted=p, floor=statistics.smallest_adjusted_p(len(pair.seeds), len(pairs), correction))
        for pair, p in zip(pairs, adjusted, strict=True)
    ]


def _with_prompts(sweep: Sweep, pair: Pair) -> Pair:
    """Add the intervals over prompts, if the mean of the scores by prompt is the metric itself."""
    arm, other = sweep.arm(pair.arm), sweep.arm(pair.other)
    mine, theirs = (_by_seed(one, {cell.seed: cell.prompts for cell in one.done}, pair.seeds) for one in (arm, other))
    tables = [(mine[seed], theirs[seed]) for seed in pair.seeds]
    keys = sorted(tables[0][0])
    if not keys or any(set(a) != set(keys) or set(b) != set(keys) for a, b in tables):
        return pair
    differences = np.array([[a[k].score - b[k].score for k in keys] for a, b in tables])
    tags = [tables[0][0][key].tag for key in keys]
    weighted = differences.mean(axis=0) * statistics.prompt_weights(tags) * len(keys)
    if not np.isclose(weighted.mean(), pair.comparison.difference.mean, rtol=0, atol=_SAME):
        return pair
    return replace(
        pair,
        crossed=statistics.two_level_bootstrap(differences, tags),
        new_prompts=statistics.mean_interval(weighted),
    )


def _exploratory(sweep: Sweep) -> Family:
    """All other measures of the leading arms against the baseline, corrected together for false discoveries."""
    baseline = sweep.arm(sweep.baseline)
    names = dict.fromkeys((*sweep.secondary, *(metric.name for metric in sweep.schema.columns)))
    names.pop(sweep.primary, None)
    pairs = [
        pair
        for name in names
        for arm in leading(sweep).trained
        if arm is not baseline and not arm.unstable and not baseline.unstable
        if (pair := _pair(sweep, arm, baseline, name)) is not None
    ]
    return Family(
        "exploratory", "Other measures against the baseline (exploratory)", "bh", tuple(_corrected(pairs, "bh"))
    )


def _ladders(sweep: Sweep) -> dict[str, tuple[tuple[float, str], ...]]:
    """Regularizer -> (weight, arm) by weight, for every regularizer that has two weights or more."""
    points: dict[str, dict[float, str]] = {}
    free: list[str] = []
    for arm in sweep.trained:
        regularizer = arm.config.get("regularizer", {})
        if weight := float(regularizer.get("weight", 0.0)):
            points.setdefault(regularizer["name"], {}).setdefault(weight, arm.name)
        elif regularizer:
            free.append(arm.name)
    # The arm without a penalty has weight 0 in every ladder.
    common = {0.0: free[0]} if len(free) == 1 else {}
    return {name: tuple(sorted((common | ladder).items())) for name, ladder in points.items() if len(ladder) > 1}


def _equal_proxy(sweep: Sweep, ladders: Mapping[str, tuple[tuple[float, str], ...]]) -> Iterator[EqualProxy]:
    """The gold score that each ladder has at the same proxy score, by linear interpolation within each seed."""
    rewarded, meant = proxy(sweep), gold(sweep)
    if rewarded == meant:
        return
    curves: dict[str, dict[int, tuple[list[float], list[float]]]] = {}
    for name, ladder in ladders.items():
        arms = [sweep.arm(arm) for _, arm in ladder]
        values = [(arm.values(rewarded), arm.values(meant)) for arm in arms]
        seeds = [s for s in sweep.seeds if all(s in proxy and s in score for proxy, score in values)]
        if seeds:
            curves[name] = {s: ([proxy[s] for proxy, _ in values], [score[s] for _, score in values]) for s in seeds}
    if not curves:
        return
    means = [np.mean([x for x, _ in by_seed.values()], axis=0) for by_seed in curves.values()]
    low, high = max(m.min() for m in means), min(m.max() for m in means)
    if low >= high:
        return
    for level in (low + (high - low) * share for share in (0.25, 0.5, 0.75)):
        read = {
            name: {s: float(statistics.at_equal(x, y, [level])[0]) for s, (x, y) in by_seed.items()}
            for name, by_seed in curves.items()
        }
        read = {name: {s: v for s, v in found.items() if np.isfinite(v)} for name, found in read.items()}
        first, second = [*read.values(), {}, {}][:2]
        common = sorted(first.keys() & second.keys())
        yield EqualProxy(
            level=float(level),
            gold={name: statistics.mean_interval([*found.values()]) for name, found in read.items() if found},
            difference=statistics.compare([first[s] for s in common], [second[s] for s in common]) if common else None,
        )


def _shown(pair: Pair, alpha: float) -> bool:
    return pair.p_adjusted <= alpha


def _verdict(sweep: Sweep, families: Sequence[Family]) -> Verdict:
    family = next((f for f in families if f.key == "baseline"), None)
    if family is None:
        yet = " yet" if any(cell.state == "missing" for cell in sweep.cells) else ""
        return Verdict("nothing to compare", f"No arm can be compared with the baseline{yet}.")
    pairs = family.pairs
    # Uncorrected tests support one claim only: that all comparisons differ.
    enough = all if sweep.correction == "none" else any
    if enough(_shown(pair, sweep.alpha) for pair in pairs):
        status: Status = "difference shown"
    elif any(pair.floor <= sweep.alpha for pair in pairs):
        status = "no difference shown"
    else:
        status = "not testable"
    sign = 1 if sweep.higher_is_better else -1
    ranked = sorted(pairs, key=lambda p: -sign * p.comparison.difference.mean)
    clauses = [_clause(pair, sweep) for pair in (ranked if len(ranked) <= _LISTED else ranked[:1])]
    more = (
        ""
        if len(ranked) <= _LISTED
        else (
            f" (the largest of {len(ranked)} differences; {sum(_shown(p, sweep.alpha) for p in ranked)} are shown after"
            f" correction)"
        )
    )
    return Verdict(
        status, f"{capitalize_first(sweep.schema.metric_phrase(sweep.primary))}: {'; '.join(clauses)}{more}."
    )


def _clause(pair: Pair, sweep: Sweep) -> str:
    difference, couple, decimals = pair.comparison.difference, f"{pair.arm} − {pair.other}", pair.decimals
    size = number(difference.mean, decimals, signed=True)
    if difference.low is None or difference.high is None:
        return f"{couple} is {size} in one seed, which says nothing about others"
    low, high = (number(bound, decimals, signed=True) for bound in (difference.low, difference.high))
    interval = f"95 % interval {low} to {high}"
    if pair.floor > sweep.alpha:
        corrected = "after correction " if statistics.smallest_p(len(pair.seeds)) <= sweep.alpha else ""
        found = "excludes 0" if difference.excludes(0) else "includes 0"
        return f"{couple} is {size} ({interval}, {found}; not testable {corrected}with n = {len(pair.seeds)})"
    p = f"corrected exact p {p_value(pair.p_adjusted)}"
    if _shown(pair, sweep.alpha):
        return f"{couple} is {size} ({interval}, {p})"
    return f"no difference shown for {couple}, {size} ({interval}, {p})"
