"""The warnings of a report: missing cells, too few seeds or prompts, texts cut off, unequal compute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from reports import declaration, simulated, statistics, tuning
from reports.findings import Family
from reports.gaps import first, gaps, machines, name
from reports.metrics import p_value
from reports.records import Arm, Sweep

#: Velocity evaluations or CPU time may differ from the baseline's by this share without a warning.
_UNEQUAL_COMPUTE = 0.1

#: Half-width of a 95 % interval that the prompts alone may leave to a pass-or-fail score. It is about as large as the
#: differences that arms are compared for, and the score of such a prompt has a standard deviation of 0.5 at most.
_HALF_WIDTH = 0.1
#: With fewer prompts that half-width can be larger.
_ENOUGH_PROMPTS = math.ceil((1.96 * 0.5 / _HALF_WIDTH) ** 2)

#: A run has collapsed that is this many standard deviations below the median of its arm, as the median deviation gives
#: them (the factor of a normal distribution).
_FAR, _MAD = 6.0, 1.4826

#: Share of texts that may be cut off at their limit without a warning.
_CUT = 0.1
#: Ends of the names of an episode's limits (``max_...``) on other things than the length of a text.
_NOT_OF_TEXTS = ("pictures", "images", "turns", "rounds")

#: A recorded commit ends so if there were uncommitted changes.
_DIRTY = ("+", "dirty")


def caveats(sweep: Sweep, families: Sequence[Family], shown: Sweep) -> Iterator[str]:
    """The warnings of a report, one sentence each; ``shown`` is the part of the sweep that is drawn."""
    yield from declaration.warnings(sweep)
    yield from tuning.warnings(sweep)
    yield from _cell_warnings(sweep)
    yield from _failure_rates(sweep)
    yield from _collapse_warnings(sweep)
    yield from gaps(sweep)
    yield from machines(sweep, families)
    yield from _prompt_warnings(sweep)
    yield from _cut_warnings(sweep)
    if shown is not sweep:
        scored = sweep.schema.metric_phrase(sweep.primary)
        yield (
            f"{len(sweep.trained)} arms trained: figures, samples, configurations and exploratory measures are of the"
            f" baseline and the {len(shown.trained) - 1} best others on {scored}; scores are of all."
        )
    shas = {str(cell.environment.get("git_sha")) for cell in sweep.cells if cell.environment.get("git_sha")}
    yield from _power_warnings(families)
    if any(sha.endswith(_DIRTY) for sha in (sweep.git_sha, *shas)):
        yield "The working tree had uncommitted changes: the commit alone does not give this code back."
    if len(shas) > 1:
        yield f"Cells ran on {len(shas)} different commits: {', '.join(sorted(sha[:10] for sha in shas))}."
    yield from _compute_warnings(sweep)


def _power_warnings(families: Sequence[Family]) -> Iterator[str]:
    for family in families:
        short = [pair for pair in family.pairs if not pair.testable]
        if family.key != "baseline" or not short:
            continue
        if not family.level:
            yield "Before the first planned look nothing is tested."
        else:
            n, m = min(len(pair.seeds) for pair in short), len(family.pairs)
            floor = p_value(max(pair.comparison.evidence.floor for pair in short))
            rule = f", as each of {m} comparisons is tested at that level" if m > 1 else ""
            needed = statistics.seeds_needed(family.level)
            enough = f"; {needed} seeds are needed" if needed > n else ""
            yield (
                f"Under-powered: with n = {n} the smallest possible p is"
                f" {floor}, more than {family.level:.2g}{rule}{enough}."
            )


def _cell_warnings(sweep: Sweep) -> Iterator[str]:
    wording = {
        "missing": "not run or not finished",
        "failed": "failed",
        "broken": "cannot be read",
        "excluded": "evaluated on another evaluation set than the rest: excluded, never paired",
    }
    for state, words in wording.items():
        cells = [cell for cell in sweep.cells if cell.state == state]
        if cells:
            names = first([name(cell) for cell in cells])
            yield f"{len(cells)} of {len(sweep.cells)} cells {words}: {names}."
    for arm in sweep.arms:
        if arm.unstable:
            yield f"{arm.name} is unstable (more than 1 in 5 of its seeds failed): not averaged over its survivors."
    if sweep.untouched is None or not sweep.untouched.done:
        yield "The untouched model has no result: nothing says what training changed."


def _failure_rates(sweep: Sweep) -> Iterator[str]:
    """Failures of each arm against those of the baseline, by Fisher's exact test, if a cell of an arm failed."""
    ended = {
        arm.name: [cell.state == "failed" for cell in arm.cells if cell.state != "missing"] for arm in sweep.trained
    }
    usual = ended.pop(sweep.baseline, [])
    if not usual or not any(map(any, [usual, *ended.values()])):
        return
    from scipy import stats

    told: dict[str, float] = {}
    for arm, failed in ended.items():
        if failed:
            table = [[sum(failed), len(failed) - sum(failed)], [sum(usual), len(usual) - sum(usual)]]
            told[f"{arm} {sum(failed)} of {len(failed)}"] = float(stats.fisher_exact(table).pvalue)
    listed = first([f"{words} (p {p_value(told[words])})" for words in sorted(told, key=lambda words: told[words])])
    yield (
        f"Failed cells, against {sum(usual)} of {len(usual)} of {sweep.baseline}, by Fisher's exact test without"
        f" correction: {listed}. Means are over the cells that survived."
    )


def _collapse_warnings(sweep: Sweep) -> Iterator[str]:
    """Runs far below the others of their arm, which no test of a few seeds knows what to do with.

    Where seeds start from several models, below those of the same: one that is weaker has not collapsed.
    """
    values = {arm.name: arm.values(sweep.primary) for arm in sweep.trained if not arm.unstable}
    off: dict[tuple[str, int], float] = {}
    fitted = 0  # medians beyond one for each arm
    for arm, found in values.items():
        groups = sweep.arm(arm).by_start(found)
        fitted += max(len(groups) - 1, 0)
        for seeds in groups:
            middle = float(np.median([found[seed] for seed in seeds]))
            off |= {(arm, seed): found[seed] - middle for seed in seeds}
    # The median of a few runs is one of them, or near: of each such median one deviation tells nothing of the spread.
    spread = _MAD * float(np.median(sorted(map(abs, off.values()))[fitted:] or [0.0]))
    sign = 1 if sweep.higher_is_better else -1
    fallen = [f"{arm}/{seed}" for (arm, seed), value in off.items() if sign * value < -_FAR * spread]
    if not fallen or not spread:
        return
    once = simulated.of_two_arms(sweep.test, min(map(len, values.values())))[-1]
    start = " that start from the same warm-up" if sweep.blocks else ""
    yield (
        f"Runs that ended far below the others of their arm{start}: {first(fallen)}. Where one arm collapses now and"
        f" then and happens not to, a difference is shown falsely: simulated, in {100 * once.false:.0f} % of sweeps of"
        f" {once.seeds} seeds where {once.scores}, and 5 % are meant. Compare how often runs collapse, and the"
        " interquartile means, too."
    )


def _prompt_warnings(sweep: Sweep) -> Iterator[str]:
    size = sweep.evaluated
    if not 0 < size.prompts < _ENOUGH_PROMPTS:
        return
    worst = 1.96 * 0.5 / size.prompts**0.5
    spread = ""
    for arm in sweep.arms:  # the baseline first
        half = _half_width_over_prompts(arm)
        if half is not None:
            spread = f"; of {sweep.schema.metric_phrase(sweep.primary)} they leave ±{half:.2g} ({arm.name})"
            break
    yield (
        f"Few prompts: scores rest on {size.in_words}. Of a pass-or-fail score, so few prompts alone leave a 95 %"
        f" half-width of up to {worst:.2f} ({_HALF_WIDTH:g} with {_ENOUGH_PROMPTS} prompts){spread}. Intervals over"
        " seeds do not include this, and more seeds do not make it smaller."
    )


def _half_width_over_prompts(arm: Arm) -> float | None:
    """Half-width of the primary measure's 95 % interval over prompts, of the mean over seeds; None if it is unknown."""
    tables = [cell.prompts for cell in arm.done if cell.prompts]
    keys = [key for key in (tables[0] if tables else {}) if all(key in table for table in tables)]
    if len(keys) < 2:
        return None
    scores = [[table[key].score for key in keys] for table in tables]
    tags, meanings = ([getattr(tables[0][key], name) for key in keys] for name in ("tag", "meaning"))
    return statistics.new_prompts_interval(scores, tags, meanings).half_width


def _cut_warnings(sweep: Sweep) -> Iterator[str]:
    shares = [(arm, float(np.mean([*cut.values()]))) for arm in sweep.arms if (cut := arm.values("text/cut"))]
    many = [(arm, share) for arm, share in shares if share > _CUT]
    if not many:
        return
    limits = dict.fromkeys(
        f"episode.{key} ({value})"
        for arm, _ in many
        for key, value in arm.config.get("episode", {}).items()
        if key.startswith("max_") and not key.endswith(_NOT_OF_TEXTS)
    )
    listed = first([f"{arm.name} {100 * share:.0f} %" for arm, share in many])
    yield (
        f"Texts cut off at their limit before they ended: {listed}. Rewards and scores are of unfinished texts; raise"
        f" {' or '.join(limits) or 'the limit that the episode sets to texts'}."
    )


def _compute_warnings(sweep: Sweep) -> Iterator[str]:
    baseline = sweep.arm(sweep.baseline)
    for words, names in {
        "velocity evaluations in training": ("cost/nfe_rollout", "cost/nfe_train", "cost/nfe_reference"),
        "CPU time": ("cost/cpu_s",),
    }.items():
        spent = {
            arm.name: [
                sum(found) for cell in arm.done if (found := [cell.metrics[n] for n in names if n in cell.metrics])
            ]
            for arm in sweep.trained
        }
        cost = {arm: float(np.mean(found)) for arm, found in spent.items() if found}
        usual = cost.get(baseline.name, 0.0)
        unequal = {
            arm: value / usual for arm, value in cost.items() if usual and abs(value / usual - 1) > _UNEQUAL_COMPUTE
        }
        if unequal:
            listed = first([f"{arm} {ratio:.2f}×" for arm, ratio in unequal.items()])
            yield f"Unequal compute, {words} relative to {baseline.name}: {listed}."
