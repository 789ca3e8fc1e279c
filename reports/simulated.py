"""How often a page of this kind is wrong, from the table that :mod:`reports.simulation` writes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where the table of the shipped version lies.
TABLE = Path(__file__).with_name("simulated.json")

#: Scenario -> what its scores are like, for a page; in this order.
IN_WORDS: Mapping[str, str] = {
    "normal": "normal",
    "binomial": "shares of 576 images",
    "correlated": "normal, arms correlated by seed",
    "unequal": "normal, one arm half as variable",
    "skewed": "both arms with a tail of bad runs",
    "skewed_once": "one arm with such a tail",
    "collapsing": "both arms collapse in 15 % of runs",
    "collapsing_once": "one arm collapses in 15 % of runs",
}


@dataclass(frozen=True)
class Simulated:
    """What came of many sweeps of two equal arms.

    Attributes:
        scores: what they were like.
        seeds: of each arm.
        false: share of sweeps in which a difference was shown.
        covered: share of intervals of the difference that held 0.
        arm_covered: share of t intervals of an arm's mean that held it.
    """

    scores: str
    seeds: int
    false: float
    covered: float
    arm_covered: float


@functools.cache
def rows() -> tuple[Mapping[str, Any], ...]:
    """The rows of the table."""
    return tuple(json.loads(TABLE.read_text(encoding="utf-8")))


def of_two_arms(test: str, seeds: int) -> list[Simulated]:
    """The scenarios of two arms under ``test``, at the simulated number of seeds that is nearest to ``seeds``."""
    mine = [row for row in rows() if row["scenario"] in IN_WORDS and row["test"] == test]
    near = min({row["seeds"] for row in mine}, key=lambda n: (abs(n - seeds), n))
    by_name = {row["scenario"]: row for row in mine if row["seeds"] == near}
    return [
        Simulated(words, near, *(float(by_name[name][key]) for key in ("shown", "covered", "arm_covered")))
        for name, words in IN_WORDS.items()
    ]
