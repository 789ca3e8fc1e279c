"""Prompts in plain text, one a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unigrpo.data.dataset import InFiles, meaning_of
from unigrpo.data.prompt import Prompt, key_of
from unigrpo.errors import ConfigError
from unigrpo.registry import register


@register("dataset", "text_file", source="one prompt a line, as Flow-GRPO's dataset/pickscore and dataset/ocr")
@dataclass(frozen=True)
class TextFile(InFiles):
    """A folder with ``train.txt``, ``test.txt`` and, if wanted, ``validation.txt``; or one file, split by meaning."""

    FILES: ClassVar[tuple[str, ...]] = ("{}.txt",)

    def read(self, file: Path) -> list[Prompt]:
        """A prompt for each line that is not blank."""
        found = (" ".join(line.split()) for line in lines_of(file))
        return [Prompt(key_of("all", text), text, meaning=meaning_of(text)) for text in found if text]


def lines_of(file: Path) -> list[str]:
    """The lines of a file, which end at line feeds alone.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: expected UTF-8, found the byte {error.object[error.start]:#04x} at {error.start}"
        ) from error
