"""The official summary of a result file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from benchmarks.geneval.files import Result


@dataclass(frozen=True)
class Summary:
    """Scores of a result file, as the official script prints them."""

    tasks: Mapping[str, float]
    """Tag -> share of right pictures."""
    counts: Mapping[str, int]
    """Tag -> number of pictures."""
    pictures: float
    """Share of right pictures, all tags together."""
    prompts: float
    """Share of prompts with a right picture at least."""
    picture_count: int
    prompt_count: int

    @property
    def overall(self) -> float:
        """The score: unweighted mean over the tags, whatever their numbers of prompts."""
        return fmean(self.tasks.values())

    def __str__(self) -> str:
        lines = [
            f"pictures         {self.picture_count:6d}   right {self.pictures:7.2%}",
            f"prompts          {self.prompt_count:6d}   right {self.prompts:7.2%}",
            *(f"{tag:16s} {self.counts[tag]:6d}   right {score:7.2%}" for tag, score in self.tasks.items()),
            f"overall score    {self.overall:.5f}   mean of {len(self.tasks)} tasks",
        ]
        return "\n".join(lines)


def summarise(results: Iterable[Result]) -> Summary:
    """Summarise results; prompts are told apart by their metadata line, as in the official script.

    Raises:
        ValueError: no result.
    """
    by_tag: dict[str, list[bool]] = defaultdict(list)
    by_prompt: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        by_tag[result.tag].append(result.correct)
        by_prompt[result.metadata].append(result.correct)
    if not by_tag:
        raise ValueError("expected at least one result, got none")
    every = [correct for rows in by_tag.values() for correct in rows]
    return Summary(
        tasks={tag: fmean(rows) for tag, rows in by_tag.items()},
        counts={tag: len(rows) for tag, rows in by_tag.items()},
        pictures=fmean(every),
        prompts=fmean(any(rows) for rows in by_prompt.values()),
        picture_count=len(every),
        prompt_count=len(by_prompt),
    )
