"""The answer to a sweep's question in one sentence, from its planned comparisons alone."""

from __future__ import annotations

from collections.abc import Sequence

from reports import ladder
from reports.findings import Family, Pair, Status, Verdict
from reports.metrics import capitalize_first, number, p_value
from reports.records import Sweep
from reports.statistics import Interval
from reports.tuning import tried

#: With more comparisons than this, the verdict gives their number instead of listing them.
_LISTED = 3


def verdict(sweep: Sweep, families: Sequence[Family]) -> Verdict:
    """What the planned family says."""
    if sweep.candidates:
        best = [f"{row.name} ({row.setting})" for row in tried(sweep) if row.best]
        return Verdict(
            "nothing to compare",
            "Settings were tried on other prompts and seeds than the question is answered on, and nothing is tested"
            f" here. Best of each arm: {', '.join(best) or 'none yet'}.",
        )
    if refused := ladder.refusal(sweep):
        return Verdict("not testable", refused)
    family = next((f for f in families if f.key == "baseline"), None)
    if family is None:
        yet = " yet" if any(cell.state == "missing" for cell in sweep.cells) else ""
        return Verdict("nothing to compare", f"No arm can be compared with the baseline{yet}.")
    sign = 1 if sweep.higher_is_better else -1
    ranked = sorted(family.pairs, key=lambda pair: -sign * pair.comparison.mean)
    listed = ranked if len(ranked) <= _LISTED else ranked[:1]
    clauses = ". ".join(_clause(pair, family, sweep) for pair in listed)
    more = (
        f" (the largest of {len(ranked)} differences; {len(family.shown)} are shown)"
        if len(listed) < len(ranked)
        else ""
    )
    phrase = capitalize_first(ladder.phrase(sweep))
    intervals = f" Interval{'s' * (len(family.pairs) > 1)}: {family.coverage}."
    covered = intervals if any(pair.testable for pair in listed) else ""
    return Verdict(_status(family), f"{phrase}: {clauses}{more}.{covered}")


def _status(family: Family) -> Status:
    if family.shown:
        return "difference shown"
    if len(family.pairs) == family.comparisons and all(pair.equal for pair in family.pairs):
        return "equal within margin"
    # Without a correction the claim is that all differ, so that all must be testable.
    able = all if family.correction == "none" else any
    return "no difference shown" if able(pair.testable for pair in family.pairs) else "not testable"


def _clause(pair: Pair, family: Family, sweep: Sweep) -> str:
    decimals, mean = pair.decimals, pair.comparison.mean
    if not pair.testable:
        return f"{pair.name} is {number(mean, decimals, signed=True)}; not testable with n = {len(pair.seeds)}"
    found = f"{span(pair.interval, decimals)}; p {p_value(pair.p_adjusted)}"
    margin = "" if sweep.margin is None else f"±{number(sweep.margin, decimals)}"
    if pair in family.shown:
        size, side = number(abs(mean), decimals), "above" if mean > 0 else "below"
        small = f", which lies within the margin of {margin}" if pair.equal else ""
        return f"{pair.arm} is {size} {side} {pair.other} ({found}){small}"
    found = f"{number(mean, decimals, signed=True)} ({found})"
    if pair.equal:
        return f"{pair.arm} and {pair.other} are equal within the margin of {margin}: {found}"
    if pair.shown:
        return f"{pair.name} alone is {found}, but the claim is that all comparisons differ"
    bound = number(pair.interval.largest, decimals)
    return f"No difference shown between {pair.arm} and {pair.other}: {found}; an effect up to {bound} is not excluded"


def span(interval: Interval | None, decimals: int | None) -> str:
    """Such as ``+0.02 to +0.07``; a dash without an interval."""
    if interval is None or interval.low is None or interval.high is None:
        return "–"
    return f"{number(interval.low, decimals, signed=True)} to {number(interval.high, decimals, signed=True)}"
