"""Prompts as JSON, one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unigrpo.data.dataset import InFiles, meaning_of
from unigrpo.data.prompt import Block, ImageBlock, ImageFile, Prompt, TextBlock, key_of
from unigrpo.data.text_file import lines_of
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject
from unigrpo.registry import register

#: Fields of a line with a meaning of their own -> the type that they must have.
_FIELDS: Mapping[str, tuple[type, str]] = {
    "prompt": (str, "a text"),
    "tag": (str, "a text"),
    "turns": (list, "a list of texts"),
    "images": (list, "a list of paths"),
}
_BLOCK = 'a list of {"text": ...} and {"image": path}'
#: What a block of an answer may say besides its text or image -> the values.
_OF_BLOCKS: Mapping[str, tuple[object, ...]] = {"given": (True, False), "end": ("stop", "image")}


@register("dataset", "jsonl", source="GenEval's evaluation_metadata.jsonl; Flow-GRPO's dataset/geneval")
@dataclass(frozen=True)
class Jsonl(InFiles):
    """A folder with ``train.jsonl`` or ``train_metadata.jsonl`` and so on, or one file, split by meaning.

    A line is an object with ``prompt``; ``tag`` names its group, by default ``all``: scores are means over tags, and an
    update takes equally many prompts of every tag, at most as many as the rarest has.  ``images`` are paths of images,
    relative to the file, ``turns`` the instructions of a chain of edits, of which the first one is the prompt.
    ``answer`` is for supervised fine-tuning: a list of ``{"text": ...}`` and ``{"image": path}`` in turn; ``"given":
    true`` marks what is only seen, ``"end": "image"`` a text that ends by asking for an image.  All other fields are
    kept for rewards and metrics.
    """

    FILES: ClassVar[tuple[str, ...]] = ("{}.jsonl", "{}_metadata.jsonl")

    def read(self, file: Path) -> list[Prompt]:
        """A prompt for each line that is not blank."""
        return [_prompt(file, n, line) for n, line in enumerate(lines_of(file), 1) if line.strip()]


def _prompt(file: Path, number: int, line: str) -> Prompt:
    """The prompt of one line.

    Raises:
        ConfigError: with file, line and field.
    """
    where = f"{file}:{number}"
    try:
        fields = json.loads(line, object_pairs_hook=lambda pairs: _once(where, pairs), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected a JSON object ({error})") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {line.strip()!r:.80}")
    for name, (kind, expected) in _FIELDS.items():
        if name in fields and not isinstance(fields[name], kind):
            raise ConfigError(f"{where}: {name}: expected {expected}, got {fields[name]!r:.80}")
        if kind is list and not all(isinstance(item, str) and item for item in fields.get(name, ())):
            raise ConfigError(f"{where}: {name}: expected {expected}, got {fields[name]!r:.80}")
    turns = tuple(fields.pop("turns", ()))
    text = fields.pop("prompt", turns[0] if turns else "")
    if not text.strip():
        raise ConfigError(f"{where}: prompt: expected a text, which is missing or empty")
    if turns and text != turns[0]:
        raise ConfigError(f"{where}: turns: expected the prompt as the first one, got {turns[0]!r:.80}")
    tag, names = fields.pop("tag", "all"), fields.pop("images", [])
    known = [text, turns, names, dict(fields)]
    # What is no list may be what a reward compares with.
    answer = tuple(_blocks(file, where, fields.pop("answer"))) if isinstance(fields.get("answer"), list) else ()
    images = tuple(ImageFile(file.parent / name) for name in names)
    if missing := [image.path for image in images if not image.path.is_file()]:
        raise ConfigError(f"{where}: images: there is no file {missing[0]}")
    return Prompt(
        key=key_of(_safe(tag), json.dumps(known, sort_keys=True)),
        text=text,
        tag=tag,
        meaning=meaning_of("\n".join([*(turns or (text,)), *names])),
        images=images,
        turns=turns,
        meta=fields,
        answer=answer,
    )


def _blocks(file: Path, where: str, answer: Sequence[object]) -> Iterator[Block]:
    """The blocks of an answer.

    Raises:
        ConfigError: with file, line and field.
    """
    for number, block in enumerate(answer):
        field = f"{where}: answer[{number}]"
        if not isinstance(block, dict) or len({"text", "image"} & block.keys()) != 1:
            raise ConfigError(f"{field}: expected {_BLOCK}, got {block!r:.80}")
        kind = "image" if "image" in block else "text"
        content = block[kind]
        if not isinstance(content, str) or (kind == "image" and not content):
            raise ConfigError(f"{field}: {kind}: expected a text, got {content!r:.80}")
        more = {name: value for name, value in block.items() if name != kind}
        for name, value in more.items():
            if name not in _OF_BLOCKS or (kind == "image" and name == "end") or value not in _OF_BLOCKS[name]:
                raise ConfigError(
                    f"{field}: {name}: {value!r:.80} is not understood; given is true or false, and the"
                    " end of a text stop or image"
                )
        if kind == "text":
            yield TextBlock(content, **more)
        elif (path := file.parent / content).is_file():
            yield ImageBlock(ImageFile(path), **more)
        else:
            raise ConfigError(f"{field}: there is no file {path}")


def _once(where: str, pairs: list[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ConfigError(f"{where}: {twice}: comes twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _safe(tag: str) -> str:
    """The part of a tag that fits into a file's name on every system."""
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "-_" else "_" for letter in tag)[:40]
