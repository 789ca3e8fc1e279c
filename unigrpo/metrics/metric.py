"""What every measure offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

from unigrpo.rollout.decoded import DecodedEpisodes

Row = dict[str, Any]


class Measure(Protocol):
    """Measures decoded episodes of one family of prompts in one world.

    Attributes:
        version: raised when equal episodes stop giving equal numbers; numbers of two versions are not compared.
    """

    version: int

    @property
    def train_metrics(self) -> tuple[str, ...]:
        """The fields of a row that training logs, averaged over its rollout; the first one says most."""
        ...

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics of the summary that say most, first the one."""
        ...

    def rows(self, decoded: DecodedEpisodes, per_prompt: int) -> list[Row]:
        """One row per episode (per turn for edits), with ``prompt``, ``tag``, ``text`` and ``image``."""
        ...

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Flat name -> value over all rows."""
        ...


def by_tag(rows: Sequence[Mapping[str, Any]], field: str) -> dict[str, float]:
    """Tag -> mean of ``field``, tags in order of appearance."""
    tags = dict.fromkeys(row["tag"] for row in rows)
    return {tag: fmean(row[field] for row in rows if row["tag"] == tag) for tag in tags}


def named(decoded: DecodedEpisodes, row: int, per_prompt: int) -> Row:
    """What every row says of its prompt."""
    prompt = decoded.prompts[row]
    return {"prompt": prompt.key, "tag": prompt.tag, "text": prompt.prompt, "image": row % per_prompt}
