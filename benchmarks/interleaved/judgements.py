"""Judgements of interleaved answers in InterleavedEval's five aspects, and their summary.

A file of judgements has one JSON object per line: ``prompt`` (or the item's id), ``tag`` (the kind of task) and the
five aspects.  Other fields are ignored, so ``per_prompt.jsonl`` of a finished run is such a file too.
``python -m benchmarks.interleaved.judgements FILE`` prints the summary.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.records import Record, read_records, unique, write_records
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
        ValueError: a malformed line, or a second one of a prompt (and of ``image``, where a run numbers its answers),
            named by file and number.
    """
    return [Judgement.of(record) for record in unique(read_records(path), "judgement", prompt=None, image=None)]


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
    """Tag -> number of answers."""
    textless: tuple[str, ...]
    """Tags in which the textual aspects were left out."""

    @property
    def count(self) -> int:
        """The number of answers."""
        return sum(self.counts.values())

    @property
    def overall(self) -> float:
        """The score: the plain mean of the aspects' means, as in the published tables."""
        return fmean(self.aspects.values())

    def __str__(self) -> str:
        width = max(map(len, (*ASPECTS, *self.tags)))
        lines = [f"{name:{width}s} {mean:6.3f}" for name, mean in self.aspects.items()]
        lines += [f"{'overall':{width}s} {self.overall:6.3f}   of {MOST:g}, {self.count} answers", ""]
        unseen = [name for name in ASPECTS if name not in self.aspects]
        if unseen:
            lines.insert(-1, f"overall is the mean of {len(self.aspects)} aspects: no task has {' or '.join(unseen)}")
        for tag, means in self.tags.items():
            lines.append(f"{tag:{width}s} {fmean(means.values()):6.3f}   n {self.counts[tag]}")
        if self.textless:
            lines.append(f"without {' and '.join(TEXTUAL)}: {', '.join(self.textless)}")
        return "\n".join(lines)


def summarise(judgements: Iterable[Judgement], textless: Sequence[str] = TEXTLESS) -> Summary:
    """Summarise judgements.

    Args:
        judgements: at least one.
        textless: in tasks whose names hold one of these words the textual aspects do not count.

    Raises:
        ValueError: no judgement.
    """
    every: dict[str, list[float]] = defaultdict(list)
    by_tag: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    counts: dict[str, int] = defaultdict(int)
    skipped = set()
    for judgement in judgements:
        counts[judgement.tag] += 1
        without_text = any(word in judgement.tag for word in textless)
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
        counts=dict(counts),
        textless=tuple(sorted(skipped)),
    )


def main() -> None:
    """Summarise a file and print."""
    console.prepare()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interleaved.judgements", description="Sum up judgements."
    )
    parser.add_argument("file", type=Path, help="judgements, or per_prompt.jsonl of a run")
    parser.add_argument(
        "--textless",
        nargs="*",
        default=TEXTLESS,
        metavar="WORD",
        help="words in the names of tasks judged without text",
    )
    arguments = parser.parse_args()
    try:
        print(summarise(read_judgements(arguments.file), arguments.textless))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
