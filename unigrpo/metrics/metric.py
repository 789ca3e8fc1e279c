"""What every metric offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Literal, Protocol

from unigrpo.io import JsonObject
from unigrpo.registry import Strategy

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes

#: What is found of one episode, or of one turn of it: names -> numbers and words.  ``prompt``, ``tag``, ``text`` and
#: ``image`` name the episode, and ``turn`` its turn, from 1; evaluations add the prompt's ``meaning`` and ``guidance``.
Row = JsonObject


@dataclass(frozen=True)
class Quantity:
    """How reports show one value.

    Attributes:
        name: of the value, such as ``reward/total``.
        label: within its group.
        group: of columns; without one it is measured and has no column.
        better: which way is.
        headline: whether it is one of the few main values; those are measured under guidance and of kept skills too.
        row_field: the field of a row that the value is a mean of; empty if it is no mean over rows.
        rows: (field, value) pairs of the rows that it is a mean over, such as ``("turn", 3)``; by default all rows at
            guidance 1 that have ``row_field``.
        phrase: its name inside a sentence, if label and group do not make one.
        bounds: the lowest and the highest value that there can be, such as (0, 1) of a share; None if there are none.
    """

    name: str
    label: str
    group: str
    better: Literal["higher", "lower", "neither"] = "higher"
    headline: bool = False
    row_field: str = ""
    phrase: str = ""
    bounds: tuple[float, float] | None = None
    rows: tuple[tuple[str, float | str], ...] = ()

    def under(self, prefix: str, group: str, guidance: float | None = None) -> Quantity:
        """The same under other circumstances, such as ``guided``; it has rows if they are at another ``guidance``."""
        found = Quantity(f"{prefix}/{self.name}", self.label, group, self.better, bounds=self.bounds)
        if guidance is None or not self.row_field:
            return found
        return replace(found, row_field=self.row_field, rows=(*self.rows, ("guidance", guidance)))

    def to_dict(self) -> JsonObject:
        """As ``metrics_schema.json`` has it."""
        return asdict(self) | {"rows": dict(self.rows)}


@dataclass(frozen=True)
class Measured:
    """What a metric found.

    Attributes:
        values: name -> value over all episodes.
        rows: of every episode or turn, prompt by prompt.
    """

    values: Mapping[str, float]
    rows: Sequence[Row] = field(default_factory=list)


class Metric(Strategy, Protocol):
    """A strategy of slot ``metric``: it measures episodes, whatever their reward was.

    Attributes:
        version: raised when equal episodes stop giving equal values; values of two versions are not compared.
        needs: what it reads of a prompt besides the text (:attr:`~unigrpo.data.prompt.Prompt.offers`).
    """

    version: int
    needs: frozenset[str]

    @property
    def quantities(self) -> Sequence[Quantity]:
        """The values that it may find, in the order of columns, the main ones first."""
        ...

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """Measure batches of episodes, ``per_prompt`` neighbouring rows of a batch being of one prompt."""
        ...


def by_tag(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Tag -> mean of the field ``name``, tags in order of appearance."""
    tags = dict.fromkeys(row["tag"] for row in rows)
    return {tag: fmean(row[name] for row in rows if row["tag"] == tag) for tag in tags}


def named(episodes: DecodedEpisodes, row: int, per_prompt: int) -> Row:
    """The columns about its prompt that every row has."""
    prompt = episodes.prompts[row]
    return {"prompt": prompt.key, "tag": prompt.tag, "text": prompt.text, "image": row % per_prompt}


def merged(measured: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several metrics in one: the columns of an episode go to all of its turns."""
    found: dict[tuple[str, int], dict[int, Row]] = {}
    for rows in measured:
        for row in rows:
            turns = found.setdefault((row["prompt"], row["image"]), {})
            turns[row.get("turn", 0)] = turns.get(row.get("turn", 0), {}) | row
    return [whole for turns in found.values() for whole in _with_episode(turns)]


def _with_episode(turns: dict[int, Row]) -> list[Row]:
    episode = turns.get(0, {})
    return [episode | row for turn, row in turns.items() if turn] or [episode]
