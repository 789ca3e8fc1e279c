"""The official summary of a result file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from benchmarks.geneval.files import Missing, Result
from unigrpo.worlds.shapes.prompts import TASKS


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
            *(f"{tag:16s} {score:7.2%}   n {self.counts[tag]:6d}" for tag, score in self.tasks.items()),
            f"overall score    {self.overall:.5f}",
        ]
        return "\n".join(lines)


def summarise(results: Iterable[Result], missing: Missing | None = None) -> Summary:
    """Summarise results; prompts are told apart by their metadata line, as in the official script.

    Args:
        results: at least one.
        missing: of the six tasks, those without a result: left out of the mean if None.

    Raises:
        ValueError: no result, or none of a task and ``missing`` is ``refuse``.
    """
    by_tag: dict[str, list[bool]] = defaultdict(list)
    by_prompt: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        by_tag[result.tag].append(result.correct)
        by_prompt[result.metadata].append(result.correct)
    if not by_tag:
        raise ValueError("expected at least one result, got none")
    absent = [task for task in TASKS if missing and task not in by_tag]
    if absent and missing == "refuse":
        raise ValueError(
            f"expected pictures of all six tasks, got none of {', '.join(absent)}; missing=wrong counts them as 0"
        )
    every = [correct for rows in by_tag.values() for correct in rows]
    return Summary(
        tasks={tag: fmean(rows) for tag, rows in by_tag.items()} | dict.fromkeys(absent, 0.0),
        counts={tag: len(rows) for tag, rows in by_tag.items()} | dict.fromkeys(absent, 0),
        pictures=fmean(every),
        prompts=fmean(any(rows) for rows in by_prompt.values()),
        picture_count=len(every),
        prompt_count=len(by_prompt),
    )
