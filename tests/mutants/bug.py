"""What a seeded bug is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bug:
    """One mistake.

    Attributes:
        name: what went wrong.
        file: where, relative to the repository.
        old: the right text, found there exactly once.
        new: the wrong text.
        tests: pytest nodes, at least one of which must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def occurrences(self) -> int:
        """How often the right text is found; anything but 1 means that the bug cannot be seeded."""
        return (ROOT / self.file).read_text().count(self.old)


def nodes(file: str, *names: str) -> tuple[str, ...]:
    """The tests called ``names`` in ``tests/<file>.py``."""
    return tuple(f"tests/{file}.py::{name}" for name in names)
