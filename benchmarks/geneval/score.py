"""Score a folder of pictures as GenEval-mini: ``python -m benchmarks.geneval.score FOLDER [--strict]``.

The folder has the official layout, its pictures are of the world ``shapes``.  Writes ``results.jsonl`` into it (or to
``--output``) and prints the summary.  The name of the score is GenEval-mini: another judge than the official detector
gives other numbers.  A picture, a prompt or a whole task that is absent ends the command, as the means would be those
of the others; ``--prompts`` says which prompts were asked, where they are not of all six tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.command import print_or_exit, user_path
from benchmarks.geneval.files import Missing, Result, read_pictures, read_prompts, write_results
from benchmarks.geneval.summary import summarise
from unigrpo import console
from unigrpo.worlds.shapes.grammar import COLOURS, PICTURE, SHAPES
from unigrpo.worlds.shapes.judge import Verdict, judge
from unigrpo.worlds.shapes.prompts import TASKS, GenEvalPrompt

#: Why a picture that is absent is wrong.
ABSENT = "no picture"


def score(
    folder: Path, *, strict: bool = False, prompts: Sequence[GenEvalPrompt] | None = None, missing: Missing = "error"
) -> Iterator[Result]:
    """A result for every picture of ``folder``.

    Args:
        folder: with the official layout.
        strict: forbid objects beyond those asked for.
        prompts: those that were asked; by default the folder says.
        missing: ``wrong`` lets a picture that is absent count as a wrong one.

    Raises:
        ValueError: something in the folder is not as it should be, as of ``read_pictures``, or a prompt asks for what
            the world does not have.
        FileNotFoundError: no such folder, or no prompt in it.
    """
    for path, prompt, picture in read_pictures(folder, PICTURE, prompts, missing):
        _check_words(path, prompt)
        if picture is None:
            yield Result.of(str(path), prompt, False, ABSENT, {})
            continue
        (verdict,) = judge(picture[np.newaxis], [prompt])
        correct = verdict.strict if strict else verdict.official
        yield Result.of(str(path), prompt, correct, "" if correct else verdict.reason, _details(verdict))


def _check_words(path: Path, prompt: GenEvalPrompt) -> None:
    """The judge knows no other words: a prompt with one would be wrong, whatever the picture shows."""
    for clause in (*prompt.include, *prompt.exclude):
        for name, known in (("class", SHAPES), ("color", tuple(COLOURS))):
            if clause.get(name, known[0]) not in known:
                expected = f"one of {', '.join(known)}, which the world has"
                raise ValueError(f"{path}: {prompt.prompt!r}: {name}: expected {expected}, got {clause[name]!r}")


def _details(verdict: Verdict) -> dict[str, list[list[float]]]:
    details: dict[str, list[list[float]]] = {}
    for found in verdict.objects:
        details.setdefault(found.shape or "blob", []).append([*found.box, found.score])
    return details


def _check_tasks(folder: Path, results: Sequence[Result], tasks: Sequence[str]) -> None:
    """The overall score is the mean of the tasks: one that is absent, or misspelt, would make another mean of it."""
    found = tuple(dict.fromkeys(result.tag for result in results))
    if set(found) != set(tasks):
        raise ValueError(
            f"{folder}: expected prompts of the tasks {', '.join(tasks)}, found {', '.join(found)}; "
            "if other prompts were asked, say so with --prompts FILE"
        )


def main() -> None:
    """Score, write and print."""
    console.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=user_path, help="NNNNN/metadata.jsonl and NNNNN/samples/*.png")
    parser.add_argument("--strict", action="store_true", help="forbid objects beyond those asked for")
    parser.add_argument("--output", type=user_path, help="result file (default: FOLDER/results.jsonl)")
    parser.add_argument("--prompts", type=user_path, help="prompt file that was asked (default: what FOLDER says)")
    parser.add_argument(
        "--missing", choices=("error", "wrong"), default="error", help="what an absent picture is (default: error)"
    )
    arguments = parser.parse_args()

    def words() -> str:
        prompts = read_prompts(arguments.prompts) if arguments.prompts else None
        tasks = TASKS if prompts is None else tuple(dict.fromkeys(prompt.tag for prompt in prompts))
        results = list(score(arguments.folder, strict=arguments.strict, prompts=prompts, missing=arguments.missing))
        _check_tasks(arguments.folder, results, tasks)
        absent = sum(result.reason == ABSENT for result in results)
        more = f"\n{absent} absent pictures count as wrong" if absent else ""
        write_results(arguments.output or arguments.folder / "results.jsonl", results)
        return f"GenEval-mini ({'strict' if arguments.strict else 'official rule'})\n{summarise(results)}{more}"

    print_or_exit(parser, words)


if __name__ == "__main__":
    main()
