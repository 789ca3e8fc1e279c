"""Conditions under which a report is a failure, for continuous integration: ``geneval/strict<-0.01 or failed>0``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reports.analysis import analyse
from reports.collect import read
from reports.findings import Analysis
from reports.pairs import differences

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*(?P<name>[^<>=!]+?)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<value>.+?)\s*")

#: Numbers of cells -> the states that they count.
_COUNTS = {"failed": ("failed", "broken"), "missing": ("missing", "excluded")}


class GateError(ValueError):
    """A condition that means nothing."""


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Attributes:
        name: a measure, of whose planned differences each is compared; ``failed`` or ``missing``; or ``status``.
        sign: of the comparison.
        value: a number; for ``status`` the words of a verdict.
    """

    name: str
    sign: str
    value: str

    def holds(self, analysis: Analysis) -> Iterator[str]:
        """A sentence for each thing of which it is true.

        Raises:
            GateError: no planned comparison has the measure.
        """
        if self.name == "status":
            status = analysis.verdict.status
            if (status == self.value) == (self.sign == "=="):
                yield f"status is {status!r}"
            return
        compare, bound = _COMPARE[self.sign], float(self.value)
        if states := _COUNTS.get(self.name):
            count = sum(cell.state in states for cell in analysis.sweep.cells)
            if compare(count, bound):
                yield f"{self.name} is {count}"
            return
        found = differences(analysis.sweep, self.name)
        if not found:
            raise GateError(f"fail_if: no planned comparison has a value of {self.name!r}")
        for name, difference in found.items():
            if compare(difference, bound):
                yield f"{self.name}: {name} is {difference:+.4g}"


def broken(folder: Path, text: str) -> list[str]:
    """What is true of the sweep in ``folder`` of the conditions in ``text``, a sentence each; nothing if it is empty.

    Raises:
        GateError: a condition means nothing.
        BrokenSweepError: the sweep cannot be read.
    """
    if not text.strip():
        return []
    wanted = conditions(text)
    analysis = analyse(read(folder))
    return [sentence for condition in wanted for sentence in condition.holds(analysis)]


def conditions(text: str) -> list[Condition]:
    """The conditions in ``text``, which ``or`` joins.

    Raises:
        GateError: a part is no condition.
    """
    found = []
    for part in re.split(r"\s+or\s+", text.strip()):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise GateError(
                f"fail_if: expected NAME<NUMBER (or <=, >, >=) or status==WORDS, joined by 'or', got {part!r}"
            )
        one = Condition(**match.groupdict())
        words = one.name == "status"
        if (one.sign in ("==", "!=")) != words or not (words or _is_number(one.value)):
            raise GateError(
                f"fail_if: {part!r}: status is compared by == or != with words, everything else by <, <=, > or >= with"
                " a number"
            )
        found.append(one)
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
