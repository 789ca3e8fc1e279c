"""The comparisons of a sweep, family by family."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reports import statistics
from reports.controls import band, floor_of
from reports.findings import Family, Pair
from reports.leading import LARGE, leading
from reports.metrics import digits
from reports.records import Arm, Contrast, Sweep
from reports.statistics import Comparison, Correction

#: A metric and the mean of its rows may differ by this much, by rounding.
_SAME = 1e-6

#: Meanings beyond the first of each tag that intervals over prompts need: with fewer they were simulated to cover too
#: much (``coverage.json``, tags of two meanings).
_MEANINGS = 8


@dataclass(frozen=True)
class _Draft:
    """A comparison that its family has not judged yet."""

    contrast: Contrast
    metric: str
    seeds: tuple[int, ...]
    comparison: Comparison
    decimals: int | None


def families(sweep: Sweep) -> Iterator[Family]:
    """The families of comparisons on the primary metric that have a pair."""
    if sweep.candidates:
        return  # settings are tried, and nothing is tested
    usable = {arm.name: arm for arm in sweep.arms if arm.done and not arm.unstable and not arm.repeats}
    trained = [arm for arm in usable.values() if arm.trained]
    fixed = [arm for arm in usable.values() if not arm.trained and arm.name != sweep.baseline]
    starts = {_model(arm): arm for arm in sorted(fixed, key=lambda arm: arm.untouched)}
    # Of two arms this would only repeat the one comparison.
    couples = [*itertools.combinations(trained, 2)] if 2 < len(trained) <= LARGE else []
    groups = {
        "baseline": ("As planned", sweep.planned),
        "levels": ("At each level of the other factors", [*_levels(sweep)]),
        "interactions": ("Does the difference depend on the other factors?", [*_interactions(sweep)]),
        "untouched": (
            "Against the model before training",
            [_couple(arm.name, starts[_model(arm)].name) for arm in trained if _model(arm) in starts],
        ),
        "pairs": ("All pairs of trained arms", [_couple(b.name, a.name) for a, b in couples]),
        "replicates": (
            "Noise: the baseline against itself (A/A)",
            [_couple(arm.name, arm.repeats) for arm in sweep.arms if arm.repeats],
        ),
    }
    for key, (title, contrasts) in groups.items():
        drafts = [draft for contrast in contrasts if (draft := _draft(sweep, contrast, sweep.primary, sweep.test))]
        if drafts:
            yield _family(sweep, key, title, drafts)


def matched(sweep: Sweep) -> Family | None:
    """The arms that are said to be matched, on the measure of their strength; None if there is nothing to compare."""
    if sweep.matched is None:
        return None
    measure, contrasts = sweep.matched.measure, sweep.matched.contrasts
    drafts = [draft for contrast in contrasts if (draft := _draft(sweep, contrast, measure, sweep.test))]
    if not drafts:
        return None
    return _judged("matched", "Matched strength", drafts, sweep.alpha, "bonferroni", len(contrasts))


def _couple(arm: str, other: str) -> Contrast:
    return Contrast(arm, other, ((arm, other),))


def _levels(sweep: Sweep) -> Iterator[Contrast]:
    """Of each main effect, its couples one by one."""
    for contrast in sweep.planned:
        if len(contrast.couples) > 1:
            yield from itertools.starmap(_couple, contrast.couples)


def _interactions(sweep: Sweep) -> Iterator[Contrast]:
    """Of each main effect, by how much it is another at a further level than at the first."""
    for contrast in sweep.planned:
        (one, two), *rest = contrast.couples
        for arm, other in rest:
            # A difference of differences: its second couple counts the other way round.
            yield Contrast(f"({arm} − {other})", f"({one} − {two})", ((arm, other), (two, one)), summed=True)


def exploratory(sweep: Sweep) -> Family:
    """All other measures of the leading arms against the baseline, corrected together for false discoveries.

    By paired t tests: under many comparisons an exact test of a few seeds can show none.
    """
    names = dict.fromkeys((*sweep.secondary, *(metric.name for metric in sweep.schema.columns)))
    names.pop(sweep.primary, None)
    drafts = [
        draft
        for name in names
        for arm in leading(sweep).trained
        if arm.against and (draft := _draft(sweep, _couple(arm.name, arm.against), name, "paired_t")) is not None
    ]
    return _judged("exploratory", "Other measures against the baseline (exploratory)", drafts, sweep.alpha, "bh")


def differences(sweep: Sweep, name: str) -> dict[str, float]:
    """Planned comparison -> its mean difference on any measure, where it has one."""
    drafts = [draft for contrast in sweep.planned if (draft := _draft(sweep, contrast, name, sweep.test))]
    return {f"{draft.contrast.arm} − {draft.contrast.other}": draft.comparison.mean for draft in drafts}


def _family(sweep: Sweep, key: str, title: str, drafts: Sequence[_Draft]) -> Family:
    planned = key == "baseline"
    # What was planned counts, whatever became of it.
    comparisons = len(sweep.planned) if planned else len(drafts)
    # Only the planned family may rest on all of its comparisons being shown.
    correction: Correction = sweep.correction if planned or sweep.correction != "none" else "bonferroni"
    alpha = _alpha(sweep, drafts) if planned else sweep.alpha
    family = _judged(key, title, drafts, alpha, correction, comparisons, sweep.margin)
    # Repetitions tell the noise of an arm, not of what is read between several.
    if (floor := floor_of(sweep)) and not (planned and sweep.at):
        bands = (band(floor, sweep, draft.contrast, len(draft.seeds)) for draft in drafts)
        family = replace(family, pairs=tuple(map(_with_noise, family.pairs, bands)))
    if key not in ("baseline", "untouched"):
        return family
    return replace(family, pairs=tuple(_with_prompts(sweep, pair) for pair in family.pairs))


def _alpha(sweep: Sweep, drafts: Sequence[_Draft]) -> float:
    """The level of the whole family at the look that the finished seeds allow; 0 before the first."""
    if sweep.design == "fixed" or not drafts:
        return sweep.alpha
    n = min(len(draft.seeds) for draft in drafts)
    levels = statistics.nominal_levels(sweep.alpha, sweep.looks)
    return next((level for look, level in zip(sweep.looks[::-1], levels[::-1], strict=True) if look <= n), 0.0)


def _judged(
    key: str,
    title: str,
    drafts: Sequence[_Draft],
    alpha: float,
    correction: Correction,
    comparisons: int = 0,
    margin: float | None = None,
) -> Family:
    """Judge all of a family's comparisons at one level."""
    p_values = [draft.comparison.evidence.p() for draft in drafts]
    corrected = statistics.correct(p_values, alpha, correction, comparisons)
    level = corrected.level
    pairs = []
    for draft, adjusted in zip(drafts, corrected.adjusted, strict=True):
        evidence = draft.comparison.evidence
        pairs.append(
            Pair(
                draft.contrast.arm,
                draft.contrast.other,
                draft.contrast.couples,
                draft.metric,
                draft.seeds,
                draft.comparison,
                draft.decimals,
                interval=evidence.interval(1 - level),
                p_adjusted=adjusted,
                testable=evidence.floor <= level,
                # Two one-sided tests at the level (Schuirmann 1987).
                equal=None if margin is None else evidence.interval(1 - 2 * level).within(margin),
            )
        )
    return Family(key, title, correction, tuple(pairs), alpha, level, max(comparisons, len(pairs)))


def _model(arm: Arm) -> str:
    """What an arm starts from, but for its blocks; models of a user's own need not have a checkpoint."""
    model, adapter = arm.config.get("model"), arm.config.get("adapter") or {}
    start = adapter.get("inner", adapter).get("start", "")  # an average starts as what it is of
    return json.dumps([arm.blocks.without(model) if arm.blocks else model, start], sort_keys=True)


def _draft(sweep: Sweep, contrast: Contrast, name: str, test: str) -> _Draft | None:
    """One comparison, over the seeds that all of its arms have; None if there is no such seed."""
    arms = {arm.name: arm for arm in (*sweep.arms, *sweep.derived) if arm.done and not arm.unstable}
    if not all(one in arms and two in arms for one, two in contrast.couples):
        return None
    members = [(arms[one], arms[two]) for one, two in contrast.couples]
    values = {arm.name: arm.values(name) for couple in members for arm in couple}
    tables = {arm.name: arm.by_seed(values[arm.name], sweep.seeds) for couple in members for arm in couple}
    if not any(arm.trained for couple in members for arm in couple):
        return None  # constants: nothing to test
    seeds = tuple(sorted(set.intersection(*map(set, tables.values()))))
    if not seeds:
        return None
    by_seed = {arm: np.array([table[seed] for seed in seeds]) for arm, table in tables.items()}
    over = np.sum if contrast.summed else np.mean
    mine, theirs = (over([by_seed[couple[side].name] for couple in members], axis=0) for side in (0, 1))
    if not any(other.trained for _, other in members):
        # Against fixed models, one sample: each seed's difference from its own of them.
        mine, theirs = mine - (theirs - theirs[0]), theirs[0]
    comparison = statistics.compare(mine, theirs, test=test, higher_is_better=sweep.better(name) != "lower")
    decimals = digits([value for found in values.values() for value in found.values()])
    return _Draft(contrast, name, seeds, comparison, decimals)


def _with_noise(pair: Pair, noise: float) -> Pair:
    return replace(pair, noise=noise)


def _with_prompts(sweep: Sweep, pair: Pair) -> Pair:
    """Add the intervals over prompts, if the mean of the scores by prompt is the metric itself."""
    if len(pair.couples) > 1:
        return pair
    arm, other = sweep.arm(pair.arm), sweep.arm(pair.other)
    mine, theirs = (one.by_seed({cell.seed: cell.prompts for cell in one.done}, pair.seeds) for one in (arm, other))
    tables = [(mine[seed], theirs[seed]) for seed in pair.seeds]
    keys = sorted(tables[0][0])
    if not keys or any(set(a) != set(keys) or set(b) != set(keys) for a, b in tables):
        return pair
    differences = np.array([[a[k].score - b[k].score for k in keys] for a, b in tables])
    tags, meanings = ([getattr(tables[0][0][key], name) for key in keys] for name in ("tag", "meaning"))
    if len({*zip(tags, meanings, strict=True)}) - len({*tags}) < _MEANINGS:
        return pair
    new_prompts = statistics.new_prompts_interval(differences, tags, meanings)
    if not np.isclose(new_prompts.mean, pair.comparison.mean, rtol=0, atol=_SAME):
        return pair
    both = statistics.new_seeds_and_prompts_interval(differences, tags, meanings)
    return replace(pair, crossed=both, new_prompts=new_prompts)
