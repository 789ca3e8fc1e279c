"""Score a folder as GenEval-mini: ``python -m benchmarks.geneval.score FOLDER [--strict] [--missing wrong]``.

The folder has the official layout, its pictures are of the world ``shapes``.  Writes ``results.jsonl`` into it (or to
``--output``) and prints the summary.  The name of the score is GenEval-mini: another judge than the official detector
gives other numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.geneval.files import Missing, Result, read_pictures, write_results
from benchmarks.geneval.summary import summarise
from unigrpo import console
from unigrpo.worlds.shapes.grammar import PICTURE
from unigrpo.worlds.shapes.judge import Verdict, judge


def score(folder: Path, *, strict: bool = False, missing: Missing = "refuse") -> Iterator[Result]:
    """A result for every picture of ``folder``.

    Args:
        folder: in the official layout.
        strict: forbid objects beyond those asked for.
        missing: of pictures that are not there; with ``wrong`` they are results too.

    Raises:
        ValueError: anything that ``read_pictures`` refuses.
        FileNotFoundError: no such folder, or no prompt in it.
    """
    for path, prompt, picture in read_pictures(folder, PICTURE, missing):
        if picture is None:
            yield Result.of(str(path), prompt, False, "no picture", {})
            continue
        (verdict,) = judge(picture[np.newaxis], [prompt])
        correct = verdict.strict if strict else verdict.official
        yield Result.of(str(path), prompt, correct, "" if correct else verdict.reason, _details(verdict))


def _details(verdict: Verdict) -> dict[str, list[list[float]]]:
    details: dict[str, list[list[float]]] = {}
    for found in verdict.objects:
        details.setdefault(found.shape or "blob", []).append([*found.box, found.score])
    return details


def main() -> None:
    """Score, write and print."""
    console.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="NNNNN/metadata.jsonl and NNNNN/samples/*.png")
    parser.add_argument("--strict", action="store_true", help="forbid objects beyond those asked for")
    parser.add_argument(
        "--missing", choices=get_args(Missing), default="refuse", help="of pictures and tasks that are not there"
    )
    parser.add_argument("--output", type=Path, help="result file (default: FOLDER/results.jsonl)")
    arguments = parser.parse_args()
    try:
        results = list(score(arguments.folder, strict=arguments.strict, missing=arguments.missing))
        summary = summarise(results, arguments.missing)
        write_results(arguments.output or arguments.folder / "results.jsonl", results)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(f"GenEval-mini ({'strict' if arguments.strict else 'official rule'})\n{summary}")


if __name__ == "__main__":
    main()
