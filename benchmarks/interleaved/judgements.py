"""Judgements of interleaved answers in InterleavedEval's five aspects, and their summary.

A file of judgements has one JSON object per line: ``prompt`` (or the item's id), ``image`` (number of the answer to it,
from 0, which it is where it is missing), ``tag`` (the kind of task) and the five aspects.  Other fields are ignored, so
``per_prompt.jsonl`` of a finished run is such a file too.
``python -m benchmarks.interleaved.judgements FILE`` prints the summary.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.command import of_file, print_or_exit, user_path
from benchmarks.records import Record, write_records
from benchmarks.samples import read_verdicts
from unigrpo import console

ASPECTS = ("text_quality", "perceptual_quality", "image_coherence", "text_image_coherence", "helpfulness")
#: The best value of an aspect; 0 is the worst, and what an answer with nothing to judge gets.
MOST = 5.0
#: Aspects that are set to 0, and must be left out of means, in tasks whose answer is a picture alone.
TEXTUAL = ("text_quality", "text_image_coherence")
#: Words in the names of those tasks, image editing and subject-driven generation.  How the data spell these names is
#: not documented: the words are an assumption, and can be set.
TEXTLESS = ("edit", "subject")


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one answer, each aspect in [0, 5]."""

    prompt: str
    """What was asked for, or the id of the item."""
    tag: str
    text_quality: float
    perceptual_quality: float
    image_coherence: float
    text_image_coherence: float
    helpfulness: float

    @classmethod
    def of(cls, record: Record) -> Judgement:
        """Read a judgement.

        Raises:
            ValueError: a field is missing, or an aspect no number in [0, 5].
        """
        aspects = {name: record.number(name, MOST) for name in ASPECTS}
        return cls(record.get("prompt", str), record.get("tag", str), **aspects)


def read_judgements(path: Path) -> list[Judgement]:
    """The judgements of a file.

    Raises:
        ValueError: a malformed line, named by file and number, or an answer that comes twice or is absent.
    """
    return [Judgement.of(record) for record in read_verdicts(path)]


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Write a file of judgements."""
    write_records(path, map(asdict, judgements))


@dataclass(frozen=True)
class Summary:
    """Means of judgements; an aspect that counts in no judgement is left out."""

    aspects: Mapping[str, float]
    tags: Mapping[str, Mapping[str, float]]
    """Tag -> aspect -> mean."""
    counts: Mapping[str, int]
    """Aspect -> answers in which it counts."""
    answers: Mapping[str, int]
    """Tag -> answers."""
    textless: tuple[str, ...]
    """Tags in which the textual aspects were left out."""

    @property
    def count(self) -> int:
        """Answers."""
        return sum(self.answers.values())

    @property
    def overall(self) -> float:
        """The score: the plain mean of the aspects' means, as in the published tables."""
        return fmean(self.aspects.values())

    def __str__(self) -> str:
        width = max(map(len, (*ASPECTS, *self.tags)))
        lines = [
            f"{name:{width}s} {self.aspects[name]:6.3f}   n {self.counts[name]}"
            if name in self.aspects
            else f"{name:{width}s}      -   counts in no answer"
            for name in ASPECTS
        ]
        lines += [f"{'overall':{width}s} {self.overall:6.3f}   of {MOST:g}, {self.count} answers", ""]
        lines += [
            f"{tag:{width}s} {fmean(means.values()):6.3f}   n {self.answers[tag]}" for tag, means in self.tags.items()
        ]
        if self.textless:
            lines.append(f"without {' and '.join(TEXTUAL)}: {', '.join(self.textless)}")
        return "\n".join(lines)


def summarise(judgements: Iterable[Judgement], textless: Sequence[str] = TEXTLESS) -> Summary:
    """Summarise judgements.

    Args:
        judgements: at least one.
        textless: in tasks whose names hold one of these words, in large or small letters, the textual aspects do not
            count.

    Raises:
        ValueError: no judgement, or an empty word, which every name would hold.
    """
    if not all(textless):
        raise ValueError(f"textless: expected words, got an empty one in {list(textless)}")
    answers: dict[str, int] = defaultdict(int)
    every: dict[str, list[float]] = defaultdict(list)
    by_tag: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    skipped = set()
    for judgement in judgements:
        answers[judgement.tag] += 1
        without_text = any(word.casefold() in judgement.tag.casefold() for word in textless)
        if without_text:
            skipped.add(judgement.tag)
        for name in ASPECTS:
            if not (without_text and name in TEXTUAL):
                every[name].append(getattr(judgement, name))
                by_tag[judgement.tag][name].append(getattr(judgement, name))
    if not every:
        raise ValueError("expected at least one judgement, got none")
    return Summary(
        aspects={name: fmean(every[name]) for name in ASPECTS if every[name]},
        tags={tag: {name: fmean(values) for name, values in means.items()} for tag, means in by_tag.items()},
        counts={name: len(every[name]) for name in ASPECTS},
        answers=answers,
        textless=tuple(sorted(skipped)),
    )


def main() -> None:
    """Summarise a file and print."""
    console.prepare()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interleaved.judgements", description="Sum up judgements."
    )
    parser.add_argument("file", type=user_path, help="judgements, or per_prompt.jsonl of a run")
    parser.add_argument(
        "--textless",
        nargs="*",
        default=TEXTLESS,
        metavar="WORD",
        help="words in the names of tasks judged without text",
    )
    arguments = parser.parse_args()
    print_or_exit(
        parser,
        lambda: of_file(arguments.file, read_judgements, lambda rows: summarise(rows, arguments.textless)),
    )


if __name__ == "__main__":
    main()
