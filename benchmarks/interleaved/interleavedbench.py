"""InterleavedBench's items (arXiv 2406.14643): one JSON list, pictures in a folder beside it.

The fields are those that Meta's MMRB2 loader reads.  Of a conversation only the ``value`` of the first turn is known to
be the prompt; other turns, and fields not named here, are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.answers import Block, Blocks
from benchmarks.records import Record, read_once, write_records

#: Stands for a picture in the text of a conversation.
PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Item:
    """One instance."""

    id: str
    task_name: str
    image: tuple[str, ...]
    """Paths of pictures: those of the prompt, then those of the reference answer."""
    conversations: tuple[Mapping[str, Any], ...]
    """Turns; the ``value`` of the first is the prompt, with a placeholder for each of its pictures."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """All other fields, such as ``goal``, ``category`` and ``dataset_id``."""

    @classmethod
    def of(cls, record: Record) -> Item:
        """Read an item.

        Raises:
            ValueError: a field is missing or of another kind, or the first turn has no text.
        """
        turns = tuple(record.get("conversations", list))
        if not turns or not isinstance(turns[0], dict) or not isinstance(turns[0].get("value"), str):
            raise ValueError(
                f"{record.where}: conversations: expected a first turn with a text as value, got {turns[:1]!r:.80}"
            )
        images = record.optional("image", list) or []
        for number, image in enumerate(images):
            if not isinstance(image, str):
                raise ValueError(f"{record.where}: image[{number}]: expected str, got {image!r:.80}")
        known = ("id", "task_name", "image", "conversations")
        return cls(
            id=record.get("id", str),
            task_name=record.get("task_name", str),
            image=tuple(images),
            conversations=turns,
            more={name: value for name, value in record.fields.items() if name not in known},
        )

    @property
    def prompt(self) -> Blocks:
        """The prompt's texts, each with the picture that follows it; a prompt without pictures is context-free.

        Raises:
            ValueError: more placeholders than pictures.
        """
        texts = [text.strip() or None for text in self.conversations[0]["value"].split(PLACEHOLDER)]
        if len(texts) - 1 > len(self.image):
            raise ValueError(f"{self.id}: expected {len(texts) - 1} pictures in the prompt, got {len(self.image)}")
        blocks = zip_longest(texts, self.image[: len(texts) - 1])
        return tuple(Block(text, image) for text, image in blocks if text or image)

    @property
    def reference_images(self) -> tuple[str, ...]:
        """The pictures that are not in the prompt."""
        return self.image[self.conversations[0]["value"].count(PLACEHOLDER) :]


def read_items(path: Path) -> list[Item]:
    """The items of a file.

    Raises:
        ValueError: a malformed item, or an id that comes twice, named by file and number.
    """
    return read_once(path, "id", "item", Item.of)


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write a file of items."""
    write_records(path, [_plain(item) for item in items])


def _plain(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "image": list(item.image),
        "task_name": item.task_name,
        "conversations": list(item.conversations),
        **item.more,
    }
