"""Film strips: whole episodes of the same prompts and noise, an arm beside the other."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from reports.records import Picture, Piece, Sample, Sweep


@dataclass(frozen=True)
class Frame:
    """One turn of one prompt: what all arms were given, and what each made of it."""

    turn: int
    given: tuple[Piece, ...]
    made: tuple[tuple[Piece, ...], ...]
    """By arm; empty where the episode has ended."""


@dataclass(frozen=True)
class Film:
    """The episodes of one prompt."""

    prompt: str
    tag: str
    frames: tuple[Frame, ...]
    samples: tuple[Sample | None, ...]
    """By arm."""


@dataclass(frozen=True)
class Reel:
    """The same prompts in every arm, one seed."""

    seed: int
    arms: tuple[str, ...]
    films: tuple[Film, ...]
    scored: str
    """The score that stands under an episode: the primary metric's, or the first there is."""


def reel(sweep: Sweep) -> Reel | None:
    """Episodes of the seed that most arms have; the one cell of an arm that does not train stands beside every seed."""
    having = {
        seed: sum(any(c.seed == seed and c.samples for c in arm.done) for arm in sweep.trained) for seed in sweep.seeds
    }
    seed = max(having, key=lambda s: (having[s], -s), default=0)
    columns: dict[str, dict[str, Sample]] = {}
    for arm in sweep.arms:
        cell = next((c for c in arm.done if c.samples and (c.seed == seed or not arm.trained)), None)
        if cell is not None:
            columns[arm.name] = {sample.key: sample for sample in cell.samples}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    if not keys:
        return None
    films = tuple(_film([column.get(key) for column in columns.values()]) for key in keys)
    scores = dict.fromkeys(name for film in films for sample in film.samples if sample for name in sample.scores)
    wanted = sweep.schema.row_field(sweep.primary)
    return Reel(seed, tuple(columns), films, wanted if wanted in scores else next(iter(scores), ""))


def _film(samples: list[Sample | None]) -> Film:
    first = next(sample for sample in samples if sample)
    turns = sorted({piece.turn for sample in samples if sample for piece in sample.strip})
    return Film(first.prompt, first.tag, tuple(_frame(turn, first, samples) for turn in turns), tuple(samples))


def _frame(turn: int, first: Sample, samples: list[Sample | None]) -> Frame:
    """A turn's pieces, pictures before the words under them; what not all arms were given stays in its arm's column."""
    strips = [[piece for piece in sample.strip if piece.turn == turn] if sample else [] for sample in samples]
    running = [strip for strip in strips if strip]
    given = [piece for piece in running[0] if piece.given and all(piece in strip for strip in running)]
    made = [[piece for piece in strip if piece not in given] for strip in strips]
    beside_title = [piece for piece in given if piece.picture or piece.text != first.prompt]
    return Frame(turn, _pictures_first(beside_title), tuple(_pictures_first(pieces) for pieces in made))


def _pictures_first(pieces: list[Piece]) -> tuple[Piece, ...]:
    return tuple(sorted(pieces, key=lambda piece: not piece.picture))


def data_uri(picture: Picture) -> str:
    """A picture as an address that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
