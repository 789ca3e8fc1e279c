"""MMIE's scorer (arXiv 2410.10139; repository Lillianwei-h/MMIE): its input and its output, read, written, summed up.

``check`` says what of an input the scorer's judge will not see; ``summary`` prints the scores of an output, and how
many replies were dropped.  The judge itself, a fine-tuned InternVL2-4B, is not part of this: what another judge says of
the same answers is not MMIE.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.answers import Blocks, plain_blocks, read_blocks
from benchmarks.records import Record, read_records, unique, write_records
from unigrpo import console

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
    return [Item.of(record) for record in unique(read_records(path), "item", id=None)]


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
        ValueError: a malformed item, one without a reply, or an id that comes twice, named by file and number.
    """
    records = unique(read_records(path), "reply", id=None)
    return [Reply(record.get("id", str), record.get("gpt_feedback", str)) for record in records]


@dataclass(frozen=True)
class Summary:
    """Scores from 0 to 6, as the scorer prints them, and what it does not print."""

    categories: Mapping[str, float]
    """Category -> mean over its replies that count; one without any is left out."""
    mean: float
    """The score: mean over all replies that count, so that a category weighs as many as it has."""
    counts: Mapping[str, int]
    """Category -> number of its replies that count."""
    dropped: int
    """Replies without a score from 0 to 6, which do not count."""

    @property
    def count(self) -> int:
        """The number of replies that count."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        rows = [(name, mean, self.counts[name]) for name, mean in self.categories.items()]
        rows.append(("AVG", self.mean, self.count))
        lines = [f"{name:4s} {mean:6.3f} of {MOST}   {_percent(mean):6.2f} %   n {count}" for name, mean, count in rows]
        return "\n".join([*lines, f"{self.count} replies count, {self.dropped} dropped"])


def _percent(mean: float) -> float:
    """The percentage of published tables: no other mapping is known that fits them, this one is not documented."""
    return 100 * mean / MOST


def summarise(replies: Iterable[Reply], categories: Iterable[str] = ()) -> Summary:
    """Summarise replies.

    Args:
        replies: at least one with a score.
        categories: that must be there, each with a reply that counts.

    Raises:
        ValueError: an id without a category, or no reply that counts, at all or of one of ``categories``.
    """
    scores: dict[str, list[int]] = {category: [] for category in CATEGORIES}
    dropped = 0
    for reply in replies:
        scored = scores[category_of(reply.id)]
        if reply.score is None:
            dropped += 1
        else:
            scored.append(reply.score)
    every = [score for category in scores.values() for score in category]
    if not every:
        raise ValueError(f"expected at least one reply with a score from 0 to {MOST}, got none and {dropped} without")
    absent = [category for category in categories if not scores[category]]
    if absent:
        raise ValueError(
            f"expected replies with a score from 0 to {MOST} in each category, got none of {', '.join(absent)} "
            f"and {dropped} without; --categories names those that are meant"
        )
    means = {category: fmean(values) for category, values in scores.items() if values}
    return Summary(means, fmean(every), {category: len(scores[category]) for category in means}, dropped)


def check(items: Sequence[Item], folder: Path) -> str:
    """What the scorer will not see of ``items``, in words.

    Raises:
        ValueError: no item.
    """
    if not items:
        raise ValueError("expected at least one item, got none")
    views = [view(item, folder) for item in items]
    missing = [image for seen in views for image in seen.missing]
    lines = [
        f"{len(items)} items, {sum(seen.left_out for seen in views)} left out for more than {MOST_IMAGES} pictures",
        f"{sum(seen.hidden > 0 for seen in views)} answers shown in part: {SHOWN_IMAGES} pictures at most, "
        f"{sum(seen.hidden for seen in views)} blocks hidden",
        f"{len(missing)} pictures are not there{''.join(f'{chr(10)}  {image}' for image in missing)}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Check an input or sum up an output."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interleaved.mmie", description=__doc__)
    parser.add_argument("what", choices=("check", "summary"), help="check an input, or sum up an output")
    parser.add_argument("file", type=Path, help="JSON list")
    parser.add_argument(
        "--categories",
        nargs="+",
        choices=CATEGORIES,
        default=CATEGORIES,
        help="that an output must hold (default: all)",
    )
    arguments = parser.parse_args()
    try:
        if arguments.what == "check":
            print(check(read_items(arguments.file), arguments.file.parent))
        else:
            print(summarise(read_replies(arguments.file), arguments.categories))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
