"""What the commands of this folder share, and the one that judges a file of answers with a judge of this project."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.answers import Answer, read_answers
from benchmarks.records import write_records
from unigrpo import console

T = TypeVar("T")


def user_path(text: str) -> Path:
    """A path of the command line, which a script may pass with its ``~``.

    Raises:
        ArgumentTypeError: nobody has that home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def print_or_exit(parser: argparse.ArgumentParser, words: Callable[[], str]) -> None:
    """Print ``words()``; a mistake in the files that it reads ends the program with 2 and a message."""
    try:
        text = words()
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(text)


def of_file(path: Path, read: Callable[[Path], Sequence[T]], words: Callable[[Sequence[T]], object]) -> str:
    """What ``words`` says of the rows that ``read`` finds in the file.

    Raises:
        ValueError: a mistake in the file, which the message names.
    """
    rows = read(path)
    try:
        return str(words(rows))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
    parser.add_argument("answers", type=user_path, help="JSON list of {id, answer: [{text, image}, ...]}")
    parser.add_argument("--output", type=user_path, help=f"{verdicts} (default: {verdicts}.jsonl beside the answers)")
    arguments = parser.parse_args()
    folder = arguments.answers.parent
    output = arguments.output or folder / f"{verdicts}.jsonl"

    def judged(answers: Sequence[Answer]) -> str:
        write_records(output, score(answers, folder))
        return f"{judge}\n{summary(output)}"

    print_or_exit(parser, lambda: of_file(arguments.answers, lambda path: list(read_answers(path)), judged))
