"""Sample episodes side by side: a row of the grid for each prompt, a column for each arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reports.records import Arm, Sweep
from reports.runs import Picture, Sample, Segment
from reports.thumbnails import thumbnail

#: Pictures of a page may take this many bytes; rows that do not fit are left out.
_ROOM = 5_000_000


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
    changes: tuple[float, ...] = ()
    """By arm: how much better than the baseline's its score is; 0 for an arm that is not compared with it."""

    @property
    def worst(self) -> float:
        """The largest loss of an arm, negative; 0 if none lost."""
        return min((*self.changes, 0.0))

    @property
    def best(self) -> float:
        """The largest gain of an arm; 0 if none gained."""
        return max((*self.changes, 0.0))

    @property
    def pictures(self) -> Iterator[Picture]:
        """All that it shows, as often as it is shown."""
        for turn in self.turns:
            for segment in (*turn.given, *(part for parts in turn.generated for part in parts)):
                if segment.picture is not None:
                    yield segment.picture


@dataclass(frozen=True)
class SampleGrid:
    """The same prompts in every arm, all of one seed."""

    seed: int
    arms: tuple[str, ...]
    """The model before training first, then the baseline."""
    rows: tuple[SampleRow, ...]
    """The worst regressions against the baseline first; without its scores in the order of the files."""
    scored: str
    """The score that is shown under an episode: that of the primary metric, or the first one there is."""
    baseline: str = ""
    """What others are better or worse than; empty if nothing is known of that."""
    left_out: int = 0
    """Rows for whose pictures there is no room."""

    @property
    def passes(self) -> bool:
        """Whether an episode passes or fails: no score lies between."""
        scores = [sample.scores.get(self.scored) for row in self.rows for sample in row.samples if sample]
        return bool(scores) and all(score in (0.0, 1.0, None) for score in scores)

    @property
    def tags(self) -> dict[str, int]:
        """Tag -> number of its rows, by name."""
        return dict(sorted(Counter(row.tag for row in self.rows).items()))

    @property
    def tag_options(self) -> list[tuple[str, str, int]]:
        """(id, label, number of rows) of what a reader may choose."""
        named = [(f"tag-{n}", tag.replace("_", " ") or "none", rows) for n, (tag, rows) in enumerate(self.tags.items())]
        return [("tag-all", "all", len(self.rows)), *named]

    @property
    def change_options(self) -> list[tuple[str, str, int]]:
        """(id, label, number of rows), as above."""
        worse, better = sum(row.worst < 0 for row in self.rows), sum(row.best > 0 for row in self.rows)
        return [
            ("change-all", "all", len(self.rows)),
            ("change-worse", "got worse", worse),
            ("change-better", "got better", better),
        ]

    @property
    def shared(self) -> dict[Picture, str]:
        """Pictures that are shown more than once -> an id: the page holds them once."""
        times = Counter(picture for row in self.rows for picture in row.pictures)
        repeated = [picture for picture, count in times.items() if count > 1 and picture.png]
        return {picture: f"picture-{number}" for number, picture in enumerate(repeated)}


def sample_grid(sweep: Sweep, room: int = _ROOM) -> SampleGrid | None:
    """The episodes of the seed that most arms have; None if no cell has samples.

    An arm that does not train has one cell, which is shown whatever the seed, or one of each block of seeds.
    """
    having = {
        seed: sum(any(c.seed == seed and c.samples for c in arm.done) for arm in sweep.trained) for seed in sweep.seeds
    }
    seed = max(having, key=lambda s: (having[s], -s), default=0)
    columns: dict[str, dict[str, Sample]] = {}
    for arm in sorted(sweep.arms, key=lambda arm: not arm.untouched):
        cell = arm.by_seed({c.seed: c for c in arm.done if c.samples}, [seed]).get(seed)
        if cell is not None:
            columns[arm.name] = {sample.key: sample for sample in cell.samples}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    if not keys:
        return None
    rows = [_row([column.get(key) for column in columns.values()]) for key in keys]
    scores = dict.fromkeys(name for row in rows for sample in row.samples if sample for name in sample.scores)
    wanted = sweep.schema.row_field(sweep.primary)
    grid = SampleGrid(seed, tuple(columns), tuple(rows), wanted if wanted in scores else next(iter(scores), ""))
    if wanted in scores and sweep.baseline in columns and any(map(_compared, sweep.arms)):
        changed = [replace(row, changes=_changes(row, grid, sweep)) for row in rows]
        grid = replace(grid, rows=tuple(sorted(changed, key=lambda row: row.worst)), baseline=sweep.baseline)
    return _within(grid, room)


def _compared(arm: Arm) -> bool:
    return arm.trained and arm.repeats is None


def _changes(row: SampleRow, grid: SampleGrid, sweep: Sweep) -> tuple[float, ...]:
    sign = 1 if sweep.higher_is_better else -1
    compared = {arm.name for arm in sweep.arms if _compared(arm)}
    scores = [sample.scores.get(grid.scored) if sample else None for sample in row.samples]
    start = scores[grid.arms.index(sweep.baseline)]
    return tuple(
        0.0 if score is None or start is None or arm not in compared else sign * (score - start)
        for arm, score in zip(grid.arms, scores, strict=True)
    )


def _within(grid: SampleGrid, room: int) -> SampleGrid:
    """The first rows, as far as there is room for their pictures."""
    kept: list[SampleRow] = []
    sizes: dict[Picture, int] = {}
    for row in grid.rows:
        sizes |= {picture: len(thumbnail(picture.png).uri) for picture in row.pictures}
        if kept and sum(sizes.values()) > room:
            break
        kept.append(row)
    return replace(grid, rows=tuple(kept), left_out=len(grid.rows) - len(kept))


def filters(grid: SampleGrid | None) -> str:
    """The style sheet that hides what is not chosen: a page without script can be filtered, too."""
    chosen = [*range(len(grid.tags))] if grid else []
    rules = [f"#samples:has(#tag-{n}:checked) .samples tbody:not(.tag-{n}) {{ display: none; }}" for n in chosen]
    return "\n".join(rules)


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
