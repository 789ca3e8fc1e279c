"""The command that judges a file of answers with a judge of this project."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.answers import Answer, read_answers
from benchmarks.records import write_records
from unigrpo import console


def judge_answers(
    judge: str,
    description: str | None,
    score: Callable[[Sequence[Answer], Path], Sequence[Mapping[str, Any]]],
    summary: Callable[[Path], str],
    verdicts: str,
) -> None:
    """Read answers, write a verdict on each and print a summary; a mistake in them ends the program with 2.

    Args:
        judge: its name.
        description: of the command.
        score: from answers and the folder of their pictures to verdicts.
        summary: of a file of verdicts.
        verdicts: what they are called; their file is named by it.
    """
    console.prepare()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, help="JSON list of {id, answer: [{text, image}, ...]}")
    parser.add_argument("--output", type=Path, help=f"{verdicts} (default: {verdicts}.jsonl beside the answers)")
    arguments = parser.parse_args()
    folder = arguments.answers.parent
    output = arguments.output or folder / f"{verdicts}.jsonl"
    try:
        write_records(output, score(list(read_answers(arguments.answers)), folder))
        print(f"{judge}\n{summary(output)}")
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
