"""Names of measures and their better direction, as the runs describe them; and the formatting of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from reports.files import is_number

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """A final value, as an entry of ``metrics_schema.json`` describes it.

    Attributes:
        label: within its group.
        group: heading over its column; a value without a group has no column.
        better: the better direction.
        headline: whether it is one of the few most important values.
        row_field: the field that it is a mean of, in rows by prompt, in a sample's scores and in training rollouts.
        phrase: its name inside a sentence; by default made of label and group.
        bounds: the lowest and highest possible value; None if it has none, or if they are not declared.
        rows: (field, value) pairs of the rows by prompt that it is a mean over, such as ``("turn", 3)``; all rows at
            guidance 1 if there is none.
    """

    name: str
    label: str
    group: str
    better: Better = "higher"
    headline: bool = False
    row_field: str = ""
    phrase: str = ""
    bounds: tuple[float, float] | None = None
    rows: tuple[tuple[str, float | str], ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Metric:
        """Read an entry; other keys are ignored.

        Raises:
            ValueError: a key is missing or of another kind.
        """
        words = [entry.get(key, "") for key in ("name", "label", "group", "row_field", "phrase")]
        if not all(isinstance(word, str) for word in words) or not all(words[:2]):
            raise ValueError(f"expected texts, and a name and a label in every entry, got {dict(entry)!r:.120}")
        name, label, group, row_field, phrase = words
        better: Any = entry.get("better")
        headline = entry.get("headline", False)
        if better not in get_args(Better) or not isinstance(headline, bool):
            raise ValueError(f"{name}: expected better: {' | '.join(get_args(Better))} and headline: true or false")
        rows = entry.get("rows", {})
        if not isinstance(rows, Mapping) or not all(
            isinstance(value, str) or is_number(value) for value in rows.values()
        ):
            raise ValueError(f"{name}: expected rows: an object of texts and numbers, got {rows!r:.80}")
        bounds = _bounds(name, entry.get("bounds"))
        return cls(name, label, group, better, headline, row_field, phrase, bounds, tuple(sorted(rows.items())))

    def is_over(self, row: Mapping[str, Any]) -> bool:
        """Whether a row by prompt is one of those that it is a mean over, as far as they have its ``row_field``."""
        # Rows of former versions do not name their guidance, which was 1.
        return all(row.get(key, 1 if key == "guidance" else None) == value for key, value in self._wanted)

    @cached_property
    def _wanted(self) -> tuple[tuple[str, str | float], ...]:
        return tuple({"guidance": 1, **dict(self.rows)}.items())

    @property
    def arrow(self) -> str:
        """An arrow in the better direction; empty if there is none."""
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    @property
    def full_label(self) -> str:
        """Group and label together."""
        return f"{self.group}: {self.label}" if self.group else self.label

    @property
    def in_words(self) -> str:
        """Its name inside a sentence."""
        group = self.group[:1].lower() + self.group[1:]
        return self.phrase or (f"{self.label} ({group})" if group else self.label)


def _bounds(name: str, given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(map(is_number, given)) or given[0] >= given[1]:
        raise ValueError(f"{name}: expected bounds: null or two ascending numbers, got {given!r:.80}")
    return float(given[0]), float(given[1])


COSTS: tuple[Metric, ...] = (
    Metric("cost/cpu_s", "CPU s", "Cost", "lower"),
    Metric("cost/wall_s", "wall s", "Cost", "lower"),
    Metric("cost/nfe_rollout", "NFE rollout", "Cost", "lower"),
    Metric("cost/nfe_train", "NFE training", "Cost", "lower"),
    Metric("cost/nfe_reference", "NFE reference", "Cost", "lower"),
    Metric("cost/nfe_eval", "NFE evaluation", "Cost", "lower"),
    Metric("cost/images", "images", "Cost", "lower"),
    Metric("cost/tokens", "tokens", "Cost", "lower"),
    Metric("cost/peak_mb", "peak MB", "Cost", "lower"),
)
_COSTS = {metric.name: metric for metric in COSTS}


@dataclass(frozen=True)
class Schema:
    """The descriptions of measures in all cells of a sweep.

    Attributes:
        entries: name -> description, in the order of columns; groups are ordered by their first entry.
        conflicts: names that cells describe differently; the first description counts.
    """

    entries: Mapping[str, Metric] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()

    @classmethod
    def union(cls, schemas: Iterable[Sequence[Metric]]) -> Schema:
        """Merge the schemas of several cells in order; of two descriptions of one name the first counts."""
        found: dict[str, Metric] = {}
        conflicts: dict[str, None] = {}
        for schema in schemas:
            for metric in schema:
                if found.setdefault(metric.name, metric) != metric:
                    conflicts[metric.name] = None
        groups = [*dict.fromkeys(metric.group for metric in found.values())]
        ordered = sorted(found.values(), key=lambda metric: groups.index(metric.group))
        return cls({metric.name: metric for metric in ordered}, tuple(conflicts))

    def metric(self, name: str) -> Metric:
        """The metric called ``name``; without an entry it is shown by its name and has no better direction."""
        return self.entries.get(name) or _COSTS.get(name) or Metric(name, name, "Other", "neither", phrase=name)

    def metric_phrase(self, name: str) -> str:
        """The metric's name inside a sentence."""
        return self.metric(name).in_words

    def row_field(self, name: str) -> str:
        """The field that the metric is a mean of (:attr:`Metric.row_field`); empty if there is none."""
        return self.metric(name).row_field

    @cached_property
    def columns(self) -> tuple[Metric, ...]:
        """The metrics that have a column."""
        return tuple(metric for metric in self.entries.values() if metric.group)

    @cached_property
    def headlines(self) -> tuple[Metric, ...]:
        """The few most important metrics."""
        return tuple(metric for metric in self.entries.values() if metric.headline)


def capitalize_first(words: str) -> str:
    """``words`` with a capital first letter; unlike ``str.capitalize``, the other letters stay as they are."""
    return words[:1].upper() + words[1:]


def digits(values: Iterable[float]) -> int | None:
    """Decimals for a column of ``values``; None means scientific notation."""
    largest = max((abs(value) for value in values), default=1.0)
    if 0 < largest < 0.01:
        return None
    return 3 if largest == 0 or 0.1 <= largest < 2 else max(0, 2 - math.floor(math.log10(largest)))


def number(value: float | None, decimals: int | None = 3, *, signed: bool = False) -> str:
    """``value`` with thin-space thousands and a true minus; a dash for None."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{value:{sign}.1e}" if decimals is None else f"{value:{sign},.{decimals}f}"
    if decimals is not None and float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace(",", "\u2009").replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with two significant digits, never 0."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
