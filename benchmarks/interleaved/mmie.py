"""MMIE's scorer (arXiv 2410.10139; repository Lillianwei-h/MMIE): its input and its output, read, written, summed up.

``check`` says what of an input the scorer's judge will not see; ``summary`` prints the scores of an output, and how
many replies were dropped.  The judge itself, a fine-tuned InternVL2-4B, is not part of this: what another judge says of
the same answers is not MMIE.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from benchmarks.answers import Blocks, plain_blocks, read_blocks
from benchmarks.command import of_file, print_or_exit, user_path
from benchmarks.records import Record, read_once, write_records
from unigrpo import console

Missing = Literal["drop", "wrong"]

#: Situational analysis, project-based learning, multi-step reasoning; an item is of the first that its id holds.
CATEGORIES = ("SA", "PBL", "MSR")
#: Scores are integers from 0 to this.
MOST = 6
#: The judge is shown no block of an answer after this many pictures, those of the question included.
SHOWN_IMAGES = 3
#: Items with more pictures shown than this are left out.
MOST_IMAGES = 4


@dataclass(frozen=True)
class Item:
    """A question with a model's answer."""

    id: str
    question: Blocks
    answer: Blocks
    model: str
    gt_answer: Blocks
    """The reference; the scorer uses the first text, and shows it in multi-step reasoning only."""

    def __post_init__(self) -> None:
        category_of(self.id)
        if not self.gt_answer:
            raise ValueError(f"{self.id}: gt_answer: expected one block at least, which the scorer reads of every item")

    @classmethod
    def of(cls, record: Record) -> Item:
        """Read an item.

        Raises:
            ValueError: a field is missing or of another kind, the id names no category, or ``gt_answer`` is empty.
        """
        question, answer, reference = (read_blocks(record, name) for name in ("question", "answer", "gt_answer"))
        id, model = record.get("id", str), record.get("model", str)
        try:
            return cls(id, question, answer, model, reference)
        except ValueError as error:
            raise ValueError(f"{record.where}: {error}") from error


def category_of(id: str) -> str:
    """The category of an item.

    Raises:
        ValueError: the id names none.
    """
    for category in CATEGORIES:
        if category in id:
            return category
    raise ValueError(f"id: expected one that holds {' or '.join(CATEGORIES)}, got {id!r}")


def read_items(path: Path) -> list[Item]:
    """The items of an input of the scorer.

    Raises:
        ValueError: a malformed item, or an id that comes twice, named by file and number.
    """
    return read_once(path, "id", "item", Item.of)


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write an input of the scorer; pictures are named relative to its folder."""
    write_records(path, [_plain(item) for item in items])


def _plain(item: Item) -> dict[str, object]:
    return {
        "id": item.id,
        "question": plain_blocks(item.question),
        "answer": plain_blocks(item.answer),
        "model": item.model,
        "gt_answer": plain_blocks(item.gt_answer),
    }


@dataclass(frozen=True)
class View:
    """What the scorer makes of an item."""

    hidden: int
    """Blocks of the answer of which something is not shown: the scorer stops after the third picture in all."""
    left_out: bool
    """Too many pictures: the item is not scored at all."""
    missing: tuple[str, ...]
    """Pictures that are named and are not there, which the scorer skips."""


def view(item: Item, folder: Path) -> View:
    """How the scorer shows ``item``, whose pictures lie in ``folder``."""
    missing: list[str] = []

    def is_there(image: str | None) -> bool:
        if image is not None and not (folder / image).is_file():
            missing.append(image)
            return False
        return image is not None

    images = sum(is_there(block.image) for block in item.question)
    hidden = 0
    for number, block in enumerate(item.answer):
        if images >= SHOWN_IMAGES:
            # the first text is shown even where the question's pictures are the three
            hidden += bool(block.image or (block.text and number > 0))
        else:
            images += is_there(block.image)
    return View(hidden, images > MOST_IMAGES, tuple(missing))


@dataclass(frozen=True)
class Reply:
    """What the judge said of an item."""

    id: str
    text: str

    @classmethod
    def of(cls, record: Record) -> Reply:
        """Read a reply.

        Raises:
            ValueError: a field is missing or of another kind, or the id names no category.
        """
        reply = cls(record.get("id", str), record.get("gpt_feedback", str))
        try:
            category_of(reply.id)
        except ValueError as error:
            raise ValueError(f"{record.where}: {error}") from error
        return reply

    @property
    def score(self) -> int | None:
        """The first number after the heading ``### Score``, rounded; None if there is none from 0 to 6."""
        found = re.search(r"-?\d+(\.\d+)?", self.text.partition("### Score")[2])
        if not found or abs(float(found[0])) > MOST + 1:  # also infinity, of which there is no rounding
            return None
        score = round(float(found[0]))
        return score if 0 <= score <= MOST else None


def read_replies(path: Path) -> list[Reply]:
    """The replies in an output of the scorer.

    Raises:
        ValueError: a malformed item, one without a reply, or an id that comes twice or names no category, named by
            file and number.
    """
    return read_once(path, "id", "reply", Reply.of)


@dataclass(frozen=True)
class Summary:
    """Scores from 0 to 6, as the scorer prints them, and what it does not print."""

    categories: Mapping[str, float]
    """Category -> mean over its replies that count; one without any is left out."""
    mean: float
    """The score: mean over all replies that count, so that a category weighs as many as it has."""
    counts: Mapping[str, int]
    """Category -> replies that count."""
    drops: Mapping[str, int]
    """Category -> replies without a score from 0 to 6, which do not count."""

    @property
    def count(self) -> int:
        """Replies that count."""
        return sum(self.counts.values())

    @property
    def dropped(self) -> int:
        """Replies without a score."""
        return sum(self.drops.values())

    def __str__(self) -> str:
        lines = [
            _row(name, self.categories[name], self.counts[name], self.drops[name])
            if name in self.categories
            else f"{name:4s} no reply"
            for name in CATEGORIES
        ]
        lines.append(_row("AVG", self.mean, self.count, self.dropped))
        if absent := [name for name in CATEGORIES if name not in self.categories]:
            lines.append(f"AVG is of {' and '.join(self.categories)} alone: no reply of {' and '.join(absent)}")
        return "\n".join(lines)


def _row(name: str, mean: float, count: int, dropped: int) -> str:
    """A line of the table.  The percentage is that of published tables: no other mapping is known that fits them."""
    percent = 100 * mean / MOST
    return f"{name:4s} {mean:6.3f} of {MOST}   {percent:6.2f} %   {count} replies count, {dropped} dropped"


def summarise(replies: Iterable[Reply], missing: Missing = "drop") -> Summary:
    """Summarise replies.

    Args:
        replies: one with a score at least, and one of each category that is there.
        missing: what a reply without a score is: left out, as by the scorer, or a score of 0 (``wrong``).

    Raises:
        ValueError: an id without a category, or a category whose replies are all dropped.
    """
    scores: dict[str, list[int]] = defaultdict(list)
    drops = dict.fromkeys(CATEGORIES, 0)
    for reply in replies:
        category = category_of(reply.id)
        score = 0 if reply.score is None and missing == "wrong" else reply.score
        if score is None:
            drops[category] += 1
        else:
            scores[category].append(score)
    for category, dropped in drops.items():
        if dropped and not scores[category]:
            expected = f"at least one reply with a score from 0 to {MOST}"
            raise ValueError(f"{category}: expected {expected}, got none and {dropped} without")
    every = [score for values in scores.values() for score in values]
    if not every:
        raise ValueError("expected at least one reply, got none")
    means = {category: fmean(scores[category]) for category in CATEGORIES if scores[category]}
    return Summary(means, fmean(every), {name: len(scores[name]) for name in CATEGORIES}, drops)


def check(items: Sequence[Item], folder: Path) -> str:
    """What the scorer will not see of ``items``, in words.

    Raises:
        ValueError: no item.
    """
    if not items:
        raise ValueError("expected at least one item, got none")
    empty = [item.id for item in items if not any(block.text or block.image for block in item.answer)]
    views = [view(item, folder) for item in items]
    missing = [image for seen in views for image in seen.missing]
    lines = [
        f"{len(items)} items, {sum(seen.left_out for seen in views)} left out for more than {MOST_IMAGES} pictures",
        f"{sum(seen.hidden > 0 for seen in views)} answers shown in part: {SHOWN_IMAGES} pictures at most, "
        f"{sum(seen.hidden for seen in views)} blocks hidden",
        f"{len(missing)} pictures are not there{''.join(f'{chr(10)}  {image}' for image in missing)}",
        f"{len(empty)} answers are empty{''.join(f'{chr(10)}  {id}' for id in empty)}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Check an input or sum up an output."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interleaved.mmie", description=__doc__)
    parser.add_argument("what", choices=("check", "summary"), help="check an input, or sum up an output")
    parser.add_argument("file", type=user_path, help="JSON list")
    parser.add_argument(
        "--missing",
        choices=("drop", "wrong"),
        default="drop",
        help="what a reply without a score is in a summary: left out, as by the scorer, or 0 (default: drop)",
    )
    arguments = parser.parse_args()
    file = arguments.file
    if arguments.what == "check":
        print_or_exit(parser, lambda: of_file(file, read_items, lambda items: check(items, file.parent)))
    else:
        print_or_exit(
            parser, lambda: of_file(file, read_replies, lambda replies: summarise(replies, arguments.missing))
        )


if __name__ == "__main__":
    main()
