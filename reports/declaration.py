"""What a page says of its sweep's declaration: whether it came before the runs, and what was changed or left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from reports.gaps import first
from reports.records import Content, Revision, Sweep

#: Most changes of a declaration that the verdict card lists; the section on methods has all.
_LISTED = 3
#: Most finished cells that are named.
_NAMED = 2
#: Most characters of a declared value, and digits of a hash, that a sentence shows.
_LETTERS, _DIGITS = 120, 12

#: At a true difference of 0, alpha .05 and normal scores.
_PEEKING = (
    "simulated with the exact sign-flip test, a look after each seed from 6 on makes 7 % false differences by 8 seeds,"
    " 10 % by 10 and 13 % by 12, where 5 % are meant; looks at 6 and 10 alone make 6.5 %"
)


def before(sweep: Sweep) -> bool:
    """Whether what the page shows was declared before any cell had finished, and nothing else was before it."""
    return (
        len(sweep.revisions) == 1
        and _in_time(sweep.revisions[0])
        and sweep.revisions[0].genuine
        and not _changes(sweep.revisions[0].content, sweep.content)
    )


def short(sweep: Sweep) -> str:
    """When the plan was declared, as a phrase of the verdict card."""
    if not sweep.revisions:
        return "not declared"
    last = sweep.revisions[-1]
    if not all(revision.genuine for revision in sweep.revisions):
        return "altered afterwards: a hash is not that of its content"
    if _changes(last.content, sweep.content):
        return "otherwise than shown here"
    if before(sweep):
        return f"before the runs ({last.time}, hash {last.hash[:_DIGITS]})"
    return f"{'changed ' if len(sweep.revisions) > 1 else ''}{_when(last)}"


def warnings(sweep: Sweep) -> Iterator[str]:
    """A sentence for each reason not to take the verdict for that of a test which was declared before the runs."""
    yield from lateness(sweep)
    yield from _raised(sweep)
    yield from _unplanned(sweep)
    yield from _left_out(sweep)


def history(sweep: Sweep) -> list[str]:
    """All that was declared, and all looks at results, for the section on methods.

    A seed is complete if all arms of the planned comparisons have finished it, with the primary measure.
    """
    told = []
    earlier: Content = {}
    for revision in sweep.revisions:
        what = "; ".join(_changes(earlier, revision.content)) if earlier else _in_words(revision.content)
        verb = "changed" if earlier else "declared"
        seal = "" if revision.genuine else ", which is not that of the content"
        told.append(f"{revision.time}, {verb} {_when(revision)}: {what} (hash {revision.hash[:_DIGITS]}{seal}).")
        earlier = revision.content
    looks = [f"{look.time}, results looked at: {_seeds(look.seeds)} complete." for look in sweep.earlier_looks]
    wanted = len(sweep.content.get("seeds", sweep.seeds))
    present = f"This page: {_seeds(len(sweep.complete_seeds))} complete, of {wanted}."
    return [*told, *looks, present]


def lateness(sweep: Sweep) -> Iterator[str]:
    """A sentence for each thing that was declared late, or otherwise; none exactly if all was declared before."""
    if not sweep.revisions:
        yield (
            "Not declared: nothing says that the primary measure, the comparisons and the test were chosen before the"
            " runs."
        )
        return
    start, *later = sweep.revisions
    if not _in_time(start):
        yield f"Declared {_when(start)} ({start.time}), not before the runs."
    for earlier, revision in [*zip(sweep.revisions, later, strict=False)][-_LISTED:]:
        changes = "; ".join(_changes(earlier.content, revision.content))
        yield f"The declaration was changed {_when(revision)} ({revision.time}): {changes}."
    if len(later) > _LISTED:
        yield f"It was changed {len(later)} times in all; Methods has the whole history."
    if unlike := _changes(sweep.revisions[-1].content, sweep.content):
        yield f"This page shows another plan than was declared: {'; '.join(unlike)}."
    for revision in sweep.revisions:
        if not revision.genuine:
            yield f"declaration.json was altered: the hash of what was declared at {revision.time} is another."


def _raised(sweep: Sweep) -> Iterator[str]:
    for earlier, later in zip(sweep.revisions, sweep.revisions[1:], strict=False):
        few, many = len(earlier.content.get("seeds", ())), len(later.content.get("seeds", ()))
        if many <= few or _in_time(later):
            continue
        looks = ", ".join(map(str, sorted({*later.looked} - {0})))
        cause = f"after a look at {looks}" if looks else _when(later)
        bounds = (
            "p-values and intervals are those of a fixed design"
            if sweep.design == "fixed"
            else "the bounds of a group-sequential design are for looks that were declared before the first"
        )
        yield f"Seeds were raised from {few} to {many} {cause}: {bounds}; {_PEEKING}."


def _unplanned(sweep: Sweep) -> Iterator[str]:
    """A warning of looks between those of a group-sequential design; of a fixed one, missing cells say as much."""
    numbers = {*sweep.looked, len(sweep.complete_seeds)} - {0}
    unplanned = sorted(numbers - {*sweep.looks}) if sweep.looks else []
    if unplanned:
        listed, planned = (", ".join(map(str, found)) for found in (unplanned, sweep.looks))
        yield (
            f"Looked at {listed} complete seeds, where looks at {planned} were planned: the bounds of the design hold"
            " for those alone."
        )


def _left_out(sweep: Sweep) -> Iterator[str]:
    finished = [cell for cell in sweep.left_out if not cell.failed]
    if failed := [f"{cell.arm}/{cell.seed}" for cell in sweep.left_out if cell.failed]:
        yield (
            f"Failed cells that the present seeds leave out: {first(failed)}. No rate of failures counts them, and they"
            " make no arm unstable."
        )
    if not finished:
        return
    names = first([f"{cell.arm}/{cell.seed}" for cell in finished])
    # A model before training has a seed of its block, which need not have been trained.
    fixed = {arm.name for arm in sweep.arms if not arm.trained}
    gone = {cell.seed for cell in finished if cell.arm not in fixed}
    trained = gone | {cell.seed for arm in sweep.trained for cell in arm.done}
    used = {seed for seed in sweep.seeds if any(cell.seed == seed for arm in sweep.trained for cell in arm.done)}
    yield (
        f"{len(finished)} finished cells are left out by the present seeds: {names}. The verdict is over"
        f" {_seeds(len(used))}, trained were {len(trained)}."
    )


def _in_time(revision: Revision) -> bool:
    return not revision.finished and not any(revision.looked)


def _when(revision: Revision) -> str:
    if revision.finished:
        # Where they are few they may be no runs of this question, as a model before training that others evaluated.
        named = f" ({', '.join(revision.done)})" if len(revision.done) <= _NAMED else ""
        return f"when {revision.finished} of {revision.cells} cells had finished{named}"
    if looks := ", ".join(map(str, sorted({*revision.looked} - {0}))):
        return f"after a look at {looks} complete seeds, whose cells were gone"
    return f"before any of {revision.cells} cells had finished"


def _changes(earlier: Content, later: Content) -> list[str]:
    """``key was X, is Y`` for every key that differs."""
    keys = [key for key in {**earlier, **later} if earlier.get(key) != later.get(key)]
    return [f"{key} was {_value(earlier.get(key))}, is {_value(later.get(key))}" for key in keys]


def _in_words(content: Content) -> str:
    return "; ".join(f"{key} {_value(value)}" for key, value in content.items())


def _value(value: object) -> str:
    """A declared value in words, without its middle where it is long."""
    if isinstance(value, Mapping) and value.keys() == {"metric", "direction"}:
        text = f"{value['metric']} ({value['direction']})"
    elif isinstance(value, Mapping) and value.keys() == {"digest", "words"}:
        text = f"{value['words']} ({value['digest']})"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(map(str, value)) or "none"
    else:
        text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    half = _LETTERS // 2
    return text if len(text) <= _LETTERS else f"{text[:half]}…{text[-half:]}"


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number != 1 else ''}"
