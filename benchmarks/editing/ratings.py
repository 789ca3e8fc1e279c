"""Ratings of edited pictures and their summary: VIEScore's scores (arXiv 2312.14867), averaged as in GEdit-Bench.

A file of ratings has one JSON object per line: ``prompt`` (or the item's id), ``tag`` (type of the edit), ``turn``
(from 1, which it is where it is missing), ``success``, ``preserved`` and ``PQ``.  Other fields are ignored, so
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

from benchmarks.records import Record, read_records, unique, write_records
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
        turn = record.optional("turn", int)
        if turn is None:
            turn = 1
        if turn < 1:  # counted from 0, turns would be off by one from those of other files
            raise ValueError(f"{record.where}: turn: expected a number from 1, got {turn}")
        scores = {name: record.number(name, MOST) for name in ("success", "preserved", "PQ")}
        return cls(record.get("prompt", str), record.get("tag", str), turn, **scores)

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
        ValueError: a malformed line, a second one of the same prompt and turn (and of ``image``, where a run numbers
            its answers), or a turn whose turn before is not there.
    """
    records = list(unique(read_records(path), "rating", prompt=None, image=None, turn=1))
    ratings = [Rating.of(record) for record in records]
    of = [(rating.prompt, repr(record.fields.get("image"))) for rating, record in zip(ratings, records, strict=True)]
    rated = {(*chain, rating.turn) for chain, rating in zip(of, ratings, strict=True)}
    for chain, rating, record in zip(of, ratings, records, strict=True):
        if rating.turn > 1 and (*chain, rating.turn - 1) not in rated:  # it would be in no mean
            raise ValueError(
                f"{record.where}: turn: expected turn {rating.turn - 1} of {rating.prompt!r} beside turn {rating.turn}"
            )
    return ratings


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
    """Type of the edit -> number of pictures."""

    @property
    def count(self) -> int:
        """The number of pictures."""
        return sum(self.counts.values())

    @property
    def overall(self) -> Scores:
        """The scores: unweighted mean over the types, whatever their numbers of pictures."""
        return _mean(self.types.values())

    def __str__(self) -> str:
        width = max(map(len, ("overall", *self.types)))
        lines = [f"{name:{width}s} {scores}   n {self.counts[name]}" for name, scores in self.types.items()]
        lines.append(f"{'overall':{width}s} {self.overall}")
        return "\n".join([*lines, f"of {MOST:g}, {self.count} pictures"])


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
    return Summary(
        types={tag: _mean(rows) for tag, rows in types.items()}, counts={tag: len(rows) for tag, rows in types.items()}
    )


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
    parser.add_argument("file", type=Path, help="ratings, or per_prompt.jsonl of a run")
    arguments = parser.parse_args()
    try:
        print(report(read_ratings(arguments.file)))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
