"""The official GenEval files: prompts, picture folders and results, read and written.

Formats as in the repository djghosh13/geneval: a prompt file has one JSON object per line; a folder of pictures has
``00000/metadata.jsonl`` (the prompt's own line) and ``00000/samples/0000.png`` ...; a result file has one JSON object
per picture, in which ``metadata`` and ``details`` are themselves JSON texts.  As in the official evaluation,
a prompt's folder has a name of digits alone, a picture one of digits and ``.png``, and ``metadata.jsonl`` may be spread
over lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from benchmarks.pictures import Floats, read_picture, write_picture
from benchmarks.records import Record, as_record, parse, read_lines, read_text, unique
from unigrpo.worlds.shapes.prompts import RELATIONS, Prompt

#: What to do about pictures that are not there: say so and stop, or count them as wrong.
Missing = Literal["refuse", "wrong"]
#: Names that are meant as pictures of a prompt; the official evaluation reads those that are files in ``.png`` only.
_MEANT = re.compile(r"([0-9]+)\.(png|jpe?g|webp|bmp|gif|tiff?)", re.IGNORECASE)
_NAMED_AT_MOST = 8


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
        ValueError: a malformed line, named by file and number, and the field.
    """
    return [prompt_of(record) for record in read_lines(path)]


def prompt_of(record: Record) -> Prompt:
    """The prompt of a line; fields that it does not know are left out.

    Raises:
        ValueError: a field is missing, of another type, or out of range, named by record, clause and field.
    """
    if not {"tag", "include", "prompt"} <= record.fields.keys():
        found = ", ".join(record.fields) or "none"
        raise ValueError(f"{record.where}: expected the fields tag, include and prompt, found {found}")
    record.get("include", list)
    tag, prompt = record.get("tag", str), record.get("prompt", str)
    include = [_clause(clause, number) for number, clause in enumerate(record.each("include"))]
    exclude = [_clause(clause) for clause in record.each("exclude")]
    if not include and not exclude:  # it would be met by any picture
        raise record.error("include", "one clause at least", include)
    return Prompt(tag, tuple(include), tuple(exclude), prompt)


def _clause(clause: Record, number: int = 0) -> dict[str, Any]:
    """A checked clause, of which there are ``number`` before it."""
    clause.get("class", str)
    count = clause.get("count", int)
    if count < 1:
        raise clause.error("count", "a whole number from 1", count)
    if "color" in clause.fields:
        clause.get("color", str)
    if "position" in clause.fields:
        value = clause.fields["position"]
        pair = value if isinstance(value, list) and len(value) == 2 else (None, None)
        known = isinstance(pair[0], str) and pair[0] in RELATIONS
        if not (known and type(pair[1]) is int and 0 <= pair[1] < number):
            relations = ", ".join(RELATIONS)
            raise clause.error("position", f"[one of {relations}; the number of a clause before this one]", value)
    return dict(clause.fields)


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


def read_pictures(folder: Path, size: int, missing: Missing = "refuse") -> Iterator[tuple[Path, Prompt, Floats | None]]:
    """Every (file, prompt, picture [3, size, size] in [-1, 1]) of a folder, in order of the numbers.

    Args:
        folder: in the official layout; other files and folders in it are not looked at.
        size: of the pictures.
        missing: of pictures that are not there; with ``wrong`` their place is None.

    Raises:
        ValueError: a prompt's folder without readable metadata, a prompt that comes twice or has fewer pictures than
            another, a number of a prompt that is left out, or a picture that ``read_picture`` refuses.
        FileNotFoundError: no such folder, or no prompt in it.
    """
    prompts = _prompts_of(folder)
    found = {place: _samples_of(place) for place in prompts}
    most = max(len(samples.meant) for samples in found.values())
    if not most:
        raise FileNotFoundError(f"{folder}: expected NNNNN/samples/0000.png in it, found no picture of any prompt")
    short = [
        f"{place / 'samples'}: {samples.tell(most)}" for place, samples in found.items() if len(samples.pngs) < most
    ]
    if short and missing == "refuse":
        more = f"\n... and {len(short) - _NAMED_AT_MOST} more" if len(short) > _NAMED_AT_MOST else ""
        raise ValueError("\n".join(short[:_NAMED_AT_MOST]) + more + "\nmissing=wrong counts what is missing as wrong")
    places: dict[str, Path] = {}
    for place, prompt in prompts.items():
        first = places.setdefault(prompt.to_json(), place)
        if first != place:
            raise ValueError(f"{place}: expected each prompt once, got {prompt.prompt!r} again, first in {first}")
        pngs = found[place].pngs
        for sample in pngs:
            yield sample, prompt, read_picture(sample, size)
        for number in range(len(pngs), most):
            yield place / "samples" / f"missing-{number:04d}.png", prompt, None


def _prompts_of(folder: Path) -> dict[Path, Prompt]:
    """Folder of a prompt -> prompt, in order of the numbers."""
    numbered = [place for place in folder.iterdir() if re.fullmatch(r"[0-9]+", place.name) and place.is_dir()]
    if not numbered:
        raise FileNotFoundError(f"{folder}: expected NNNNN/metadata.jsonl in it, found none")
    numbered.sort(key=lambda place: (int(place.name), place.name))
    numbers = {int(place.name) for place in numbered}
    holes = [number for number in range(min(numbers), max(numbers)) if number not in numbers][: _NAMED_AT_MOST + 1]
    if holes:  # their metadata are not there either, so that they cannot be counted
        named = ", ".join(f"{number:05d}" for number in holes[:_NAMED_AT_MOST]) + ", ..." * (
            len(holes) > _NAMED_AT_MOST
        )
        raise ValueError(f"{folder}: expected folders numbered without a gap, found none for {named}")
    return {place: _metadata_of(place / "metadata.jsonl") for place in numbered}


def _metadata_of(path: Path) -> Prompt:
    """The one prompt of a file that holds it on one line or on many."""
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path}: expected one line of metadata, found 0")
    return prompt_of(as_record(str(path), parse(str(path), text)))


@dataclass(frozen=True)
class _Samples:
    """Pictures of a prompt."""

    pngs: Sequence[Path]
    """Those that the official evaluation reads."""
    meant: frozenset[int]
    """Numbers of all that have the name of a picture."""
    others: Sequence[str]
    """Names of what has the name of a picture and is none that it reads."""

    def tell(self, most: int) -> str:
        """What is missing, in words."""
        others = f"; not read: {', '.join(self.others[:_NAMED_AT_MOST])}" if self.others else ""
        return f"expected {most} pictures 0000.png, 0001.png, ..., found {len(self.pngs)}{others}"


def _samples_of(place: Path) -> _Samples:
    samples = place / "samples"
    names = sorted(path.name for path in samples.iterdir()) if samples.is_dir() else []
    meant = {name: int(match[1]) for name in names if (match := _MEANT.fullmatch(name))}
    pngs = {name: samples / name for name in meant if name.endswith(".png") and (samples / name).is_file()}
    read = {meant[name] for name in pngs}
    if len(read) < len(pngs):
        raise ValueError(f"{samples}: expected one picture per number, got {', '.join(sorted(pngs))}")
    others = [name for name, number in meant.items() if number not in read]
    in_order = sorted(pngs, key=lambda name: meant[name])
    return _Samples([pngs[name] for name in in_order], frozenset(meant.values()), others)


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write an official result file."""
    path.write_text("".join(f"{json.dumps(asdict(result))}\n" for result in results), encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """The lines of an official result file.

    Raises:
        ValueError: a malformed line, or a picture that comes twice, named by file and number.
    """
    return [_result(record) for record in unique(read_lines(path), "result", filename=None)]


def _result(record: Record) -> Result:
    named = Record(f"{record.where}: not a GenEval result", record.fields)
    texts = {field.name: named.get(field.name, str) for field in fields(Result) if field.name != "correct"}
    return Result(correct=named.get("correct", bool), **texts)
