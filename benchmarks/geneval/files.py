"""The official GenEval files: prompts, picture folders and results, read and written.

Formats as in the repository djghosh13/geneval: a prompt file has one JSON object per line; a folder of pictures has
``00000/metadata.jsonl`` (the prompt's own line) and ``00000/samples/0000.png`` ...; a result file has one JSON object
per picture, in which ``metadata`` and ``details`` are themselves JSON texts.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from benchmarks.pictures import Floats, read_picture, write_picture
from benchmarks.records import Once, Record, read_lines, read_object
from unigrpo.io import write_rows
from unigrpo.worlds.shapes.prompts import GenEvalPrompt
from unigrpo.worlds.shapes.rules import check_clauses

Missing = Literal["error", "wrong"]


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
    def of(cls, filename: str, prompt: GenEvalPrompt, correct: bool, reason: str, details: Mapping[str, Any]) -> Result:
        """A result for a picture of ``prompt``."""
        return cls(filename, prompt.tag, prompt.prompt, correct, reason, prompt.to_json(), json.dumps(details))


def read_prompts(path: Path) -> list[GenEvalPrompt]:
    """The prompts of an official prompt file; blank lines are skipped, as are fields that the format does not have.

    Raises:
        ValueError: a malformed line, named by file, number and field.
    """
    return [_prompt(record) for record in read_lines(path)]


def _prompt(record: Record) -> GenEvalPrompt:
    clauses = {name: record.objects(name) if name in record.fields else () for name in ("include", "exclude")}
    prompt = GenEvalPrompt(tag=record.get("tag", str), prompt=record.get("prompt", str), **clauses)
    try:
        check_clauses(prompt)
    except ValueError as error:
        raise ValueError(f"{record.where}: {error}") from error
    return prompt


def write_prompts(path: Path, prompts: Iterable[GenEvalPrompt]) -> None:
    """Write an official prompt file."""
    path.write_text("".join(f"{prompt.to_json()}\n" for prompt in prompts), encoding="utf-8")


def write_pictures(folder: Path, prompts: Sequence[GenEvalPrompt], pictures: Iterable[Floats]) -> None:
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


def read_pictures(
    folder: Path, size: int, prompts: Sequence[GenEvalPrompt] | None = None, missing: Missing = "error"
) -> Iterator[tuple[Path, GenEvalPrompt, Floats | None]]:
    """Every (file, prompt, picture [3, size, size] in [-1, 1]) of a folder, in order.

    As in the official evaluation, prompts are the folders whose names are digits, and pictures the files
    ``samples/NNNN.png``.  Every prompt must have as many pictures: one that is absent would leave the means.

    Args:
        folder: with the official layout.
        size: of a picture, in pixels.
        prompts: those that were asked, in the order of the folders' numbers; by default the folders say.
        missing: ``wrong`` gives None in the place of a picture that is absent.

    Raises:
        ValueError: a prompt's folder without readable metadata, with another prompt than asked, or with the prompt of
            another one; a damaged picture or one of another size; a picture that is absent.
        FileNotFoundError: no such folder, or no prompt in it.
    """
    places = _places(folder, prompts)
    _check_repetitions(folder, places)
    absent = {place: _absent(place, places) for place in places}
    if not any(place.pictures for place in places):
        raise ValueError(f"{folder}: expected NNNNN/samples/NNNN.png in it, found none")
    if missing == "error":
        _check_presence(folder, absent)
    for place in places:
        for path in sorted([*place.pictures, *absent[place]]):
            yield path, place.prompt, None if path in absent[place] else read_picture(path, size)


@dataclass(frozen=True)
class _Place:
    """The folder of a prompt."""

    path: Path
    prompt: GenEvalPrompt
    pictures: tuple[Path, ...]
    """``samples/NNNN.png``."""
    others: tuple[Path, ...]
    """Numbered pictures that the official evaluation passes over, as their names end otherwise."""


def _places(folder: Path, prompts: Sequence[GenEvalPrompt] | None) -> list[_Place]:
    found = _numbered(folder, r"([0-9]+)")
    if not found:
        raise FileNotFoundError(f"{folder}: expected NNNNN/metadata.jsonl in it, found none")
    count = max(found) + 1 if prompts is None else len(prompts)
    if max(found) >= count:
        raise ValueError(f"{found[max(found)]}: expected folders of {count} prompts, numbered from 0")
    if prompts is None and len(found) < count:
        first = next(number for number in range(count) if number not in found)
        raise ValueError(
            f"{folder}: expected a folder of every prompt up to {found[max(found)].name}, found no {first:05d}, "
            f"{count - len(found)} are absent; the file of the prompts (--prompts) would say which they are"
        )
    places = []
    for number in range(count):
        if number in found:
            places.append(_place(found[number]))
        elif prompts is not None:
            places.append(_Place(folder / f"{number:05d}", prompts[number], (), ()))
        if prompts is not None and places[-1].prompt != prompts[number]:
            expected, got = prompts[number].to_json(), places[-1].prompt.to_json()
            raise ValueError(f"{places[-1].path}: expected the prompt that was asked, {expected}, got {got}")
    return places


def _place(path: Path) -> _Place:
    if not path.is_dir():
        raise ValueError(f"{path}: expected the folder of a prompt, got something else of that name")
    prompt = _prompt(read_object(path / "metadata.jsonl"))
    samples = path / "samples"
    if not samples.is_dir():
        return _Place(path, prompt, (), ())
    others = _numbered(samples, r"([0-9]+)\.(?!png$)(?i:png|jpe?g|webp|bmp|gif|tiff?)")
    return _Place(path, prompt, tuple(_numbered(samples, r"([0-9]+)\.png").values()), tuple(others.values()))


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """What of a folder has a number as its name, by that number.  ``[0-9]`` and not digits of other scripts."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if name := re.fullmatch(pattern, path.name):
            other = found.setdefault(int(name[1]), path)
            if other != path:
                raise ValueError(f"{path}: expected every number once, found {other.name} too")
    return found


def _check_repetitions(folder: Path, places: Sequence[_Place]) -> None:
    """A copy of a prompt's folder would weigh twice; a file that has each prompt four times is in use, and does not."""
    names: dict[GenEvalPrompt, list[str]] = defaultdict(list)
    for place in places:
        names[place.prompt].append(place.path.name)
    often, seldom = (choose(names, key=lambda prompt: len(names[prompt])) for choose in (max, min))
    if len(names[often]) > len(names[seldom]):
        raise ValueError(
            f"{folder}: expected every prompt in as many folders, found {often.prompt!r} in {', '.join(names[often])}, "
            f"{seldom.prompt!r} in {', '.join(names[seldom])}"
        )


def _absent(place: _Place, places: Sequence[_Place]) -> list[Path]:
    """The pictures that other prompts have and this one has not, or has under a name that does not count."""
    numbers = [{int(path.stem) for path in (*each.pictures, *each.others)} for each in places]
    count = max(map(len, numbers)) - len(place.pictures)
    here = {int(path.stem) for path in place.pictures}
    free = [number for number in sorted(set().union(*numbers)) if number not in here]
    return [place.path / "samples" / f"{number:04d}.png" for number in free[:count]]


def _check_presence(folder: Path, absent: Mapping[_Place, Sequence[Path]]) -> None:
    paths = [str(path.relative_to(folder)) for each in absent.values() for path in each]
    if paths:
        others = [str(path.relative_to(folder)) for place in absent for path in place.others]
        beside = f" (but {others[0]})" if others else ""
        raise ValueError(
            f"{folder}: expected as many pictures of every prompt, {len(paths)} are absent: {', '.join(paths[:5])}"
            f"{' ...' if len(paths) > 5 else ''}{beside}; count them as wrong with --missing wrong"
        )


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write an official result file."""
    write_rows(path, map(asdict, results))


def read_results(path: Path) -> list[Result]:
    """The lines of an official result file; fields that the format does not have are skipped.

    Raises:
        ValueError: a malformed line, named by file, number and field; a picture that comes twice; or fewer pictures of
            a prompt than of another, as those that are absent would leave the means.
    """
    once, results = Once("filename", "result per picture"), []
    for record in read_lines(path):
        texts = {field.name: record.get(field.name, str) for field in fields(Result) if field.name != "correct"}
        results.append(Result(correct=record.get("correct", bool), **texts))
        once.add(posixpath.normpath(texts["filename"]), record.where)
    counts = Counter(map(_prompt_of, results))
    most = max(counts.values(), default=0)
    for result in results:
        if (count := counts[_prompt_of(result)]) < most:
            expected = f"{most} pictures of every prompt, as of another one"
            raise ValueError(f"{path}: expected {expected}, got {count} of {result.prompt!r:.80}")
    return results


def _prompt_of(result: Result) -> str:
    """What tells the prompts of results apart: their metadata, in whatever order they were written."""
    try:
        return json.dumps(json.loads(result.metadata), sort_keys=True)
    except ValueError:  # the scorer writes what it was given
        return result.metadata
