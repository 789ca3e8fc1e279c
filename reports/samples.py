"""Sample episodes side by side: a row of the grid for each prompt, a column for each arm."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from reports.records import Picture, Sample, Segment, Sweep


@dataclass(frozen=True)
class Turn:
    """One turn of one prompt: what all arms were given, and what each of them generated."""

    number: int
    given: tuple[Segment, ...]
    generated: tuple[tuple[Segment, ...], ...]
    """By arm; empty where the episode has ended."""


@dataclass(frozen=True)
class SampleRow:
    """The episodes of one prompt."""

    prompt: str
    tag: str
    turns: tuple[Turn, ...]
    samples: tuple[Sample | None, ...]
    """By arm; None where the arm has no episode of this prompt."""


@dataclass(frozen=True)
class SampleGrid:
    """The same prompts in every arm, all of one seed."""

    seed: int
    arms: tuple[str, ...]
    rows: tuple[SampleRow, ...]
    scored: str
    """The score that is shown under an episode: that of the primary metric, or the first one there is."""


def sample_grid(sweep: Sweep) -> SampleGrid | None:
    """The episodes of the seed that most arms have; None if no cell has samples.

    An arm that does not train has one cell, which is shown whatever the seed, or one of each block of seeds.
    """
    having = {
        seed: sum(any(c.seed == seed and c.samples for c in arm.done) for arm in sweep.trained) for seed in sweep.seeds
    }
    seed = max(having, key=lambda s: (having[s], -s), default=0)
    columns: dict[str, dict[str, Sample]] = {}
    for arm in sweep.arms:
        cell = arm.by_seed({c.seed: c for c in arm.done if c.samples}, [seed]).get(seed)
        if cell is not None:
            columns[arm.name] = {sample.key: sample for sample in cell.samples}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    if not keys:
        return None
    rows = tuple(_row([column.get(key) for column in columns.values()]) for key in keys)
    scores = dict.fromkeys(name for row in rows for sample in row.samples if sample for name in sample.scores)
    wanted = sweep.schema.row_field(sweep.primary)
    return SampleGrid(seed, tuple(columns), rows, wanted if wanted in scores else next(iter(scores), ""))


def _row(samples: list[Sample | None]) -> SampleRow:
    first = next(sample for sample in samples if sample)
    numbers = sorted({segment.turn for sample in samples if sample for segment in sample.segments})
    return SampleRow(first.prompt, first.tag, tuple(_turn(n, first, samples) for n in numbers), tuple(samples))


def _turn(number: int, first: Sample, samples: list[Sample | None]) -> Turn:
    """The segments of one turn.

    Pictures come before the texts of the turn. What only some arms were given is shown in the columns of those arms.
    """
    by_arm = [
        [segment for segment in sample.segments if segment.turn == number] if sample else [] for sample in samples
    ]
    running = [segments for segments in by_arm if segments]
    given = [segment for segment in running[0] if segment.given and all(segment in other for other in running)]
    generated = [[segment for segment in segments if segment not in given] for segments in by_arm]
    # The prompt itself is the title of the row.
    beside_title = [segment for segment in given if segment.picture or segment.text != first.prompt]
    return Turn(number, _pictures_first(beside_title), tuple(map(_pictures_first, generated)))


def _pictures_first(segments: list[Segment]) -> tuple[Segment, ...]:
    return tuple(sorted(segments, key=lambda segment: not segment.picture))


def data_uri(picture: Picture) -> str:
    """The picture as a ``data:`` address, which keeps the page in one file."""
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
