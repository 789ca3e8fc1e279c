"""The official GenEval files: prompts, picture folders and results, read and written.

Formats as in the repository djghosh13/geneval: a prompt file has one JSON object per line; a folder of pictures has
``00000/metadata.jsonl`` (the prompt's own line) and ``00000/samples/0000.png`` ...; a result file has one JSON object
per picture, in which ``metadata`` and ``details`` are themselves JSON texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pictures import Floats, read_picture, write_picture
from unigrpo.worlds.shapes.prompts import Prompt


@dataclass(frozen=True)
class Result:
    """One line of a result file."""

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: str
    """The prompt's line, as JSON text."""
    details: str
    """What was found, as JSON text: class -> boxes [left, top, right, bottom, score]."""

    @classmethod
    def of(cls, filename: str, prompt: Prompt, correct: bool, reason: str, details: Mapping[str, Any]) -> Result:
        """A result for a picture of ``prompt``."""
        return cls(filename, prompt.tag, prompt.prompt, correct, reason, prompt.to_json(), json.dumps(details))


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of an official prompt file; blank lines are skipped.

    Raises:
        ValueError: a malformed line, named by file and number.
    """
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                prompts.append(Prompt.from_json(line))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
    return prompts


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write an official prompt file."""
    path.write_text("".join(f"{prompt.to_json()}\n" for prompt in prompts), encoding="utf-8")


def write_pictures(folder: Path, prompts: Sequence[Prompt], pictures: Iterable[Floats]) -> None:
    """Write the folder that the official evaluation reads.

    Args:
        folder: made if need be; prompt n goes to ``folder/NNNNN``.
        prompts: in the order of the prompt file.
        pictures: for each prompt [n, 3, H, W] in [-1, 1].
    """
    for number, (prompt, samples) in enumerate(zip(prompts, pictures, strict=True)):
        place = folder / f"{number:05d}"
        (place / "samples").mkdir(parents=True, exist_ok=True)
        write_prompts(place / "metadata.jsonl", [prompt])
        for index, sample in enumerate(samples):
            write_picture(place / "samples" / f"{index:04d}.png", sample)


def read_pictures(folder: Path, size: int) -> Iterator[tuple[Path, Prompt, Floats]]:
    """Every (file, prompt, picture [3, size, size] in [-1, 1]) of a folder, in order.

    Raises:
        ValueError: a prompt's folder without readable metadata, or a picture of another size.
        FileNotFoundError: no such folder, or no prompt in it.
    """
    metadata = sorted(folder.glob("*/metadata.jsonl"))
    if not metadata:
        raise FileNotFoundError(f"{folder}: expected NNNNN/metadata.jsonl in it, found none")
    for path in metadata:
        prompts = read_prompts(path)
        if len(prompts) != 1:
            raise ValueError(f"{path}: expected one line of metadata, found {len(prompts)}")
        for sample in sorted((path.parent / "samples").glob("*.png")):
            yield sample, prompts[0], read_picture(sample, size)


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write an official result file."""
    path.write_text("".join(f"{json.dumps(asdict(result))}\n" for result in results), encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """The lines of an official result file.

    Raises:
        ValueError: a malformed line, named by file and number.
    """
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            results.append(Result(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: not a GenEval result ({error})") from error
    return results
