"""Ratings of edited pictures and their summary: VIEScore's scores (arXiv 2312.14867), averaged as in GEdit-Bench.

A file of ratings has one JSON object per line: ``prompt`` (or the item's id), ``tag`` (type of the edit), ``image``
(number of the sample, from 0) and ``turn`` (from 1), which have these values where they are missing, ``success``,
``preserved`` and ``PQ``.  Other fields are ignored, so
``per_prompt.jsonl`` of a finished run is such a file too.  ``python -m benchmarks.editing.ratings FILE`` prints the
summary.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import of_file, print_or_exit, user_path
from benchmarks.records import Record, write_records
from benchmarks.samples import read_verdicts
from unigrpo import console

#: The best score; 0 is the worst.
MOST = 10.0


@dataclass(frozen=True)
class Rating:
    """What a judge says of one edited picture, each score in [0, 10]."""

    prompt: str
    """What was asked for, or the id of the item."""
    tag: str
    """Type of the edit."""
    turn: int
    """Number of the edit in a chain, from 1."""
    success: float
    """Is the edit there?"""
    preserved: float
    """Is the rest as it was (no over-editing)?"""
    PQ: float
    """Perceptual quality: the lower of naturalness and freedom from artefacts."""

    @property
    def SC(self) -> float:
        """Semantic consistency: the lower of success and preservation."""
        return min(self.success, self.preserved)

    @property
    def O(self) -> float:  # noqa: E743 - the score's published name
        """The overall score of the picture, sqrt(SC * PQ)."""
        return math.sqrt(self.SC * self.PQ)

    @classmethod
    def of(cls, record: Record) -> Rating:
        """Read a rating.

        Raises:
            ValueError: a field is missing, a score no number in [0, 10], or the turn below 1.
        """
        scores = {name: record.number(name, MOST) for name in ("success", "preserved", "PQ")}
        return cls(record.get("prompt", str), record.get("tag", str), record.ordinal("turn", 1), **scores)

    def to_dict(self) -> dict[str, Any]:
        """A line of a file, with the scores that follow from the others."""
        return {
            "prompt": self.prompt,
            "tag": self.tag,
            "turn": self.turn,
            "SC": self.SC,
            "PQ": self.PQ,
            "O": self.O,
            "success": self.success,
            "preserved": self.preserved,
        }


def read_ratings(path: Path) -> list[Rating]:
    """The ratings of a file.

    Raises:
        ValueError: a malformed line, named by file and number, or a picture that comes twice or is absent.
    """
    return [Rating.of(record) for record in read_verdicts(path)]


def write_ratings(path: Path, ratings: Iterable[Rating]) -> None:
    """Write a file of ratings."""
    write_records(path, [rating.to_dict() for rating in ratings])


@dataclass(frozen=True)
class Scores:
    """Means of SC, PQ and O.  The mean of O is not the root of the means' product."""

    SC: float
    PQ: float
    O: float  # noqa: E741 - the score's published name

    def __str__(self) -> str:
        return f"SC {self.SC:6.3f}   PQ {self.PQ:6.3f}   O {self.O:6.3f}"


def _mean(rows: Iterable[Rating | Scores]) -> Scores:
    every = list(rows)
    return Scores(*(fmean(getattr(row, name) for row in every) for name in ("SC", "PQ", "O")))


@dataclass(frozen=True)
class Summary:
    """Scores of edited pictures."""

    types: Mapping[str, Scores]
    """Type of the edit -> means over its pictures."""
    counts: Mapping[str, int]
    """Type of the edit -> number of its pictures."""

    @property
    def count(self) -> int:
        """Number of pictures."""
        return sum(self.counts.values())

    @property
    def overall(self) -> Scores:
        """The scores: unweighted mean over the types, whatever their numbers of pictures."""
        return _mean(self.types.values())

    def __str__(self) -> str:
        width = max(map(len, ("overall", *self.types)))
        lines = [f"{name:{width}s} {scores}   n {self.counts[name]}" for name, scores in self.types.items()]
        return "\n".join([*lines, f"{'overall':{width}s} {self.overall}", f"of {MOST:g}, {self.count} pictures"])


def summarise(ratings: Iterable[Rating]) -> Summary:
    """Summarise ratings.

    Raises:
        ValueError: no rating.
    """
    types: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        types[rating.tag].append(rating)
    if not types:
        raise ValueError("expected at least one rating, got none")
    return Summary({tag: _mean(rows) for tag, rows in types.items()}, {tag: len(rows) for tag, rows in types.items()})


def by_turn(ratings: Iterable[Rating]) -> dict[int, Summary]:
    """Summaries of the turns of chained edits, in order."""
    turns: dict[int, list[Rating]] = defaultdict(list)
    for rating in ratings:
        turns[rating.turn].append(rating)
    return {turn: summarise(rows) for turn, rows in sorted(turns.items())}


def report(ratings: Sequence[Rating]) -> str:
    """The summary in words, with a line for each turn where there are several."""
    turns = by_turn(ratings)
    lines = [f"turn {turn}: {summary.overall}   n {summary.count}" for turn, summary in turns.items() if len(turns) > 1]
    return "\n".join([str(summarise(ratings)), *lines])


def main() -> None:
    """Summarise a file and print."""
    console.prepare()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.editing.ratings", description="Sum up ratings of edits."
    )
    parser.add_argument("file", type=user_path, help="ratings, or per_prompt.jsonl of a run")
    arguments = parser.parse_args()
    print_or_exit(parser, lambda: of_file(arguments.file, read_ratings, report))


if __name__ == "__main__":
    main()
