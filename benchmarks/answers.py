"""Answers of texts and pictures in turn, and the file that holds a model's.

A file of answers is a JSON list of ``{"id", "answer"}``; an answer is a list of ``{"text", "image"}``, each a string or
null, pictures named relative to the file: MMIE's format, without its questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.records import Once, Record, read_records, write_records
from unigrpo.data.prompt import Prompt
from unigrpo.worlds.shapes.dataset import Shapes


@dataclass(frozen=True)
class Block:
    """A text, a picture's file, or a text followed by a picture."""

    text: str | None = None
    image: str | None = None
    """Path of the picture, relative to the file that names it."""


Blocks = tuple[Block, ...]


@dataclass(frozen=True)
class Answer:
    """What a model said and painted."""

    id: str
    """Key of the prompt, or id of the item, that it answers."""
    blocks: Blocks


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a file.

    Raises:
        ValueError: a malformed answer, or an id that comes twice, named by file and number.
    """
    once = Once("id", "answer per id")
    for record in read_records(path):
        id = record.get("id", str)
        once.add(id, record.where)
        yield Answer(id, read_blocks(record, "answer"))


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write a file of answers."""
    write_records(path, [{"id": answer.id, "answer": plain_blocks(answer.blocks)} for answer in answers])


def prompts_of(answers: Sequence[Answer], task: Literal["stories", "edits"]) -> list[Prompt]:
    """The prompt of every answer, in the test split of the dataset ``shapes``.

    Raises:
        ValueError: an id that is no prompt's key, or no answer.
    """
    if not answers:
        raise ValueError("expected at least one answer, got none")
    by_key = {prompt.key: prompt for each in Shapes(task).prompts("test").values() for prompt in each}
    for answer in answers:
        if answer.id not in by_key:
            raise ValueError(f"id: expected the key of a test prompt of {task}, got {answer.id!r}")
    return [by_key[answer.id] for answer in answers]


def read_blocks(record: Record, field: str) -> Blocks:
    """The list ``field`` of ``{"text", "image"}``; a plain string is one text.

    Raises:
        ValueError: it is missing or holds something else.
    """
    value = record.fields.get(field)
    items = [{"text": value}] if isinstance(value, str) else record.get(field, list)
    return tuple(_block(record, f"{field}[{number}]", item) for number, item in enumerate(items))


def plain_blocks(blocks: Sequence[Block]) -> list[dict[str, str | None]]:
    """Blocks as JSON objects."""
    return [asdict(block) for block in blocks]


def _block(record: Record, name: str, item: Any) -> Block:
    if not isinstance(item, dict):
        raise ValueError(f"{record.where}: {name}: expected an object with text and image, got {item!r:.80}")
    part = Record(f"{record.where}: {name}", item)
    return Block(part.optional("text", str), part.optional("image", str))
