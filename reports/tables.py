"""Tables as data, for HTML, Markdown and LaTeX; and the results as CSV and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reports.blocks import Split
from reports.declaration import before
from reports.factorial import crossed
from reports.findings import Analysis, Family, Pair
from reports.metrics import COSTS, Metric, digits, number, p_value
from reports.records import Arm, Sweep
from reports.statistics import Interval, iqm
from reports.verdict import span

#: Layout of ``summary.json``; raised when a key changes its meaning or goes away.
SUMMARY_SCHEMA = 2


#: Most columns of the main table, which fit a laptop.
_COLUMNS = 7


@dataclass(frozen=True)
class Entry:
    """One cell of a table: the text, the half-width of its interval, and the number to sort by."""

    text: str
    spread: str = ""
    value: float | None = None
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """One arm."""

    arm: str
    note: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """Arms by metrics."""

    columns: tuple[Metric, ...]
    rows: tuple[Row, ...]
    grouped: bool = True
    """Whether columns stand under their groups; else each has its whole label."""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(group, number of columns) for the upper row of the header."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def main_table(analysis: Analysis) -> Table:
    """All arms by the primary metric, those that the grid names second, and headlines, as far as a page is wide."""
    sweep = analysis.sweep
    named = [sweep.schema.metric(name) for name in sweep.secondary]
    chosen = dict.fromkeys((_primary(sweep), *named, *sweep.schema.headlines))
    others = [metric for metric in chosen if metric.name != sweep.primary]
    return _table(analysis, [_primary(sweep), *others][:_COLUMNS], grouped=False)


def full_table(analysis: Analysis) -> Table:
    """All arms by all final measures that any arm has; the primary metric is always there."""
    sweep, primary = analysis.sweep, _primary(analysis.sweep)
    known = [*sweep.schema.columns, replace(COSTS[0], better="neither")]
    columns = [primary if m.name == sweep.primary else m for m in known]
    return _table(analysis, columns if primary in columns else [primary, *columns])


def _primary(sweep: Sweep) -> Metric:
    return replace(sweep.schema.metric(sweep.primary), better=sweep.better(sweep.primary))


def cost_table(analysis: Analysis) -> Table:
    """All arms by their costs, with the seconds of each timed phase."""
    known = {m.name for m in COSTS}
    logged = sorted({name for found in analysis.intervals.values() for name in found if name.endswith("_s")} - known)
    phases = [Metric(name, f"{name[5:-2]} s", "Seconds by phase", "lower") for name in logged if name[:5] == "cost/"]
    return _table(analysis, [*COSTS, *phases])


def _table(analysis: Analysis, wanted: Sequence[Metric], *, grouped: bool = True) -> Table:
    intervals = analysis.intervals
    columns = tuple(m for m in wanted if any(m.name in by_metric for by_metric in intervals.values()))
    decimals = {m.name: digits([i[m.name].mean for i in intervals.values() if m.name in i]) for m in columns}
    rows = []
    for arm in analysis.sweep.arms:
        done, planned = len(arm.values(analysis.sweep.primary)), len(arm.cells)
        note = "unstable" if arm.unstable else f"n = {done}" if done == planned else f"n = {done} of {planned}"
        if arm.blocks and not arm.trained:
            note += f" warm-up{'s' * (planned > 1)}, weighted as their seeds"
        if arm.name == analysis.sweep.baseline:
            note += ", baseline"
        if arm.repeats:
            note += f", {arm.repeats} again"
        found = intervals.get(arm.name, {})
        bold = arm.name in analysis.significant
        entries = tuple(
            _entry(found.get(m.name), decimals[m.name], done, bold=bold and m.name == analysis.sweep.primary)
            for m in columns
        )
        rows.append(Row(arm.name, note, entries))
    return Table(columns, tuple(rows), grouped)


def _entry(interval: Interval | None, decimals: int | None, done: int, *, bold: bool) -> Entry:
    if interval is None:
        return Entry("–")
    half = interval.half_width
    spread = "" if half is None else f"±{number(half, decimals)}"
    if interval.n != done:
        spread = f"{spread} n = {interval.n}".strip()
    return Entry(number(interval.mean, decimals), spread, interval.mean, bold)


@dataclass(frozen=True)
class SeedRow:
    """The primary metric of one arm, seed by seed."""

    arm: str
    values: tuple[str, ...]
    mean: str
    iqm: str


def seed_rows(sweep: Sweep) -> list[SeedRow]:
    """One row per trained arm; a dash where the cell has no result."""
    rows = []
    for arm in sweep.trained:
        values = arm.values(sweep.primary)
        found = [*values.values()]
        mean = number(sum(found) / len(found)) if found and not arm.unstable else "–"
        middle = number(iqm(found)) if found and not arm.unstable else "–"
        rows.append(SeedRow(arm.name, tuple(number(values.get(seed)) for seed in sweep.seeds), mean, middle))
    return rows


@dataclass(frozen=True)
class PairRow:
    """A comparison, formatted."""

    name: str
    metric: str
    n: int
    difference: str
    interval: str
    testable: bool
    """Whether the test can reach the level; if not, ``p`` says so in words."""
    p: str
    p_adjusted: str
    p_t: str
    effect: str
    improved: str
    correlation: str
    crossed: str
    new_prompts: str
    bold: bool


def pair_row(pair: Pair, family: Family, sweep: Sweep) -> PairRow:
    """Format ``pair``; if no p that low is possible, the smallest possible p is shown instead of a p-value."""
    comparison, n, decimals = pair.comparison, len(pair.seeds), pair.decimals
    words = f"not testable with n = {n} (smallest possible p = {p_value(comparison.evidence.floor)})"
    return PairRow(
        name=pair.name,
        metric=sweep.schema.metric(pair.metric).full_label,
        n=n,
        difference=number(comparison.mean, decimals, signed=True),
        interval=span(pair.interval, decimals),
        testable=pair.testable,
        p=p_value(pair.p) if pair.testable else words,
        p_adjusted=p_value(pair.p_adjusted) if pair.testable else words,
        p_t=p_value(comparison.p_t),
        effect=number(comparison.effect, 2, signed=True),
        improved="–" if sweep.better(pair.metric) == "neither" else f"{comparison.improved}/{n}",
        correlation=number(comparison.correlation, 2, signed=True),
        crossed=span(pair.crossed, decimals),
        new_prompts=span(pair.new_prompts, decimals),
        bold=pair in family.shown,
    )


@dataclass(frozen=True)
class FactorTable:
    """The means of all combinations of factors, formatted."""

    rows: tuple[str, ...]
    """Names of the factors of the rows."""
    columns: str
    levels: tuple[str, ...]
    entries: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]
    """(levels, means by column and over all of them)."""
    margins: tuple[Entry, ...]


def factor_table(sweep: Sweep) -> FactorTable | None:
    """The combinations of a grid's axes; None if it has none."""
    found = crossed(sweep)
    if found is None:
        return None
    intervals = [mean for row in found.table for mean in row.means if mean is not None]
    decimals = digits([interval.mean for interval in intervals])

    def entries(means: Sequence[Interval | None]) -> tuple[Entry, ...]:
        return tuple(_mean_entry(mean, decimals) for mean in means)

    rows = tuple((row.levels, entries((*row.means, row.margin))) for row in found.table)
    return FactorTable(found.rows, found.columns, found.levels, rows, entries(found.margins))


def _mean_entry(interval: Interval | None, decimals: int | None) -> Entry:
    if interval is None:
        return Entry("–")
    half = interval.half_width
    spread = f"{'' if half is None else f'±{number(half, decimals)} '}n = {interval.n}"
    return Entry(number(interval.mean, decimals), spread)


def config_differences(sweep: Sweep) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Arms with a configuration, and (dotted key, value per arm) for the keys in which they differ."""
    flat = {arm.name: dict(_flatten(arm.config)) for arm in sweep.arms if arm.config}
    # What differs from seed to seed differs in no arm.
    by_seed = {"seed"} | ({sweep.blocks.key} if sweep.blocks else set())
    keys = sorted({key for config in flat.values() for key in config} - by_seed)
    rows = []
    for key in keys:
        values = [json.dumps(config[key]).strip('"') if key in config else "–" for config in flat.values()]
        if len(set(values)) > 1:
            rows.append((key, values))
    return list(flat), rows


def environment(sweep: Sweep) -> list[tuple[str, str]]:
    """(dotted key, value) of the recorded environments, without command lines."""
    seen: dict[str, set[str]] = {}
    for cell in sweep.cells:
        for key, value in _flatten(cell.environment):
            if not key.startswith("argv"):
                seen.setdefault(key, set()).add(str(value))
    return [(k, next(iter(v)) if len(v) == 1 else f"{len(v)} different values") for k, v in sorted(seen.items())]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def summary_json(analysis: Analysis) -> str:
    """The results for programs: schema, verdict, intervals by arm, every comparison, failures."""
    sweep = analysis.sweep
    controls = [analysis.matched] if analysis.matched else []
    families = {f.key: f for f in (*analysis.families, analysis.exploratory, *controls)}
    summary = {
        "schema": SUMMARY_SCHEMA,
        "sweep": sweep.name,
        "grid": sweep.grid,
        "question": sweep.question,
        "baseline": sweep.baseline,
        "primary": {"metric": sweep.primary, "higher_is_better": sweep.higher_is_better},
        "alpha": sweep.alpha,
        "declared_before": before(sweep),
        "eval_set_hash": sweep.eval_set_hash,
        "evaluated": dataclasses.asdict(sweep.evaluated),
        "kinds": {kind: [{"arm": c.arm, "seed": c.seed} for c in cells] for kind, cells in sweep.kinds.items()},
        "verdict": dataclasses.asdict(analysis.verdict),
        "warnings": list(analysis.warnings),
        "arms": {
            arm.name: {
                "untouched": arm.untouched,
                "unstable": arm.unstable,
                "repeats": arm.repeats,
                "done": len(arm.values(sweep.primary)),
                "planned": len(arm.cells),
                "iqm": _iqm(arm, sweep),
                "spread": dataclasses.asdict(analysis.spreads[arm.name]) if arm.name in analysis.spreads else None,
                "metrics": {m: dataclasses.asdict(i) for m, i in analysis.intervals.get(arm.name, {}).items()},
            }
            for arm in sweep.arms
        },
        "comparisons": {
            key: {
                "correction": family.correction,
                "alpha": family.alpha,
                "level": family.level,
                "pairs": [_pair(pair, family) for pair in family.pairs],
            }
            for key, family in families.items()
        },
        "blocks": sweep.blocks
        and {
            "key": sweep.blocks.key,
            "of": {str(seed): sweep.blocks.of[seed] for seed in sweep.seeds},
            "comparisons": [_split(split) for split in analysis.splits],
        },
        "factors": _factors(sweep),
        "equal_proxy": [dataclasses.asdict(level) for level in analysis.equal_proxy],
        "failures": [
            {"arm": c.arm, "seed": c.seed, "cell": c.identity, "state": c.state}
            | {"cause": c.failure.cause if c.failure else None, "step": c.failure.step if c.failure else None}
            for c in sweep.cells
            if c.state != "done"
        ],
        "refused": [{"arm": arm, "reason": reason} for arm, reason in sweep.refused],
    }
    return json.dumps(summary, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _iqm(arm: Arm, sweep: Sweep) -> float | None:
    values = arm.values(sweep.primary)
    whole = arm.by_seed(values, sweep.seeds) if arm.blocks else values
    return iqm([*whole.values()]) if whole else None


def _split(split: Split) -> dict[str, Any]:
    """A planned difference by block, for programs."""
    by = {value: {"n": n, "mean": mean} for value, (n, mean) in split.by.items()}
    return {"arm": split.arm, "other": split.other, "by": by, "between": split.between, "expected": split.expected}


def _factors(sweep: Sweep) -> list[dict[str, Any]]:
    """The mean of each combination of factors for programs."""
    found = crossed(sweep)
    return (
        []
        if found is None
        else [
            {
                "levels": {found.columns: level, **dict(zip(found.rows, row.levels, strict=True))},
                **dataclasses.asdict(mean),
            }
            for row in found.table
            for level, mean in zip(found.levels, row.means, strict=True)
            if mean is not None
        ]
    )


def _pair(pair: Pair, family: Family) -> dict[str, Any]:
    """A comparison for programs."""
    comparison = pair.comparison
    return {
        "arm": pair.arm,
        "other": pair.other,
        "metric": pair.metric,
        "seeds": list(pair.seeds),
        "differences": list(comparison.differences),
        "mean": comparison.mean,
        "interval": [pair.interval.low, pair.interval.high],
        "p": pair.p,
        "p_adjusted": pair.p_adjusted,
        "p_t": comparison.p_t,
        "floor": comparison.evidence.floor,
        "testable": pair.testable,
        "shown": pair in family.shown,
        "equal": pair.equal,
        "noise": pair.noise,
        "effect": comparison.effect,
        "improved": comparison.improved,
        "correlation": comparison.correlation,
        "crossed": None if pair.crossed is None else [pair.crossed.low, pair.crossed.high],
        "new_prompts": None if pair.new_prompts is None else [pair.new_prompts.low, pair.new_prompts.high],
    }
