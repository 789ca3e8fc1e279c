"""Two sweeps side by side: arms of the same name, on the measures that both have."""

from __future__ import annotations

from reports import statistics
from reports.metrics import digits, number, p_value
from reports.records import Sweep
from reports.verdict import span


class UnlikeError(ValueError):
    """Sweeps whose scores mean different things."""


def compare(first: Sweep, second: Sweep) -> str:
    """A table as text: for each arm that both have, the difference of the second from the first on the primary measure.

    Runs of equal seeds are paired where at least two are in both; else the arms are independent samples.

    Raises:
        UnlikeError: they were evaluated on different sets or decide by different measures, or share no arm.
    """
    if first.eval_set_hash != second.eval_set_hash:
        raise UnlikeError(
            f"{first.name} and {second.name} were evaluated on different sets"
            f" ({first.eval_set_hash or 'none'} and {second.eval_set_hash or 'none'}): other prompts, images or noise;"
            " their scores cannot be compared. Give both the same evaluation and dataset keys"
        )
    if first.primary != second.primary:
        raise UnlikeError(
            f"{first.name} decides by {first.primary}, {second.name} by {second.primary}: choose one with primary="
        )
    arms = {arm.name: arm for arm in first.arms}
    lines = [f"{first.schema.metric_phrase(first.primary)}: {second.name} − {first.name}", ""]
    for arm in second.arms:
        mine = arm.values(second.primary)
        theirs = arms[arm.name].values(first.primary) if arm.name in arms else {}
        if not mine or not theirs:
            continue
        shared = sorted(mine.keys() & theirs.keys())
        decimals = digits([*mine.values(), *theirs.values()])
        if len(shared) >= 2:
            values = [mine[s] for s in shared], [theirs[s] for s in shared]
            evidence, how = statistics.compare(*values).evidence, f"{len(shared)} seeds paired"
        else:
            evidence = statistics.unpaired([*mine.values()], [*theirs.values()])
            how = f"{len(mine)} and {len(theirs)} runs, unpaired"
        lines.append(
            f"{arm.name}: {number(evidence.mean, decimals, signed=True)}"
            f" (95 % interval {span(evidence.interval(0.95), decimals)}, p {p_value(evidence.p())}; {how})"
        )
    if len(lines) == 2:
        raise UnlikeError(f"{first.name} and {second.name} have no finished arm of the same name")
    return "\n".join([*lines, "", "Not corrected for the number of arms, and not declared before the runs."])
