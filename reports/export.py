"""The results for other programs: cells, and scores by prompt, as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from reports.files import is_number
from reports.records import Sweep
from reports.runs import Cell
from reports.text import spreadsheet

#: A value of a table; None where a row has none.
Value = str | float | None
Columns = Mapping[str, Sequence[Value]]

#: What tells the rows of a cell apart, but for the image, over which they are averaged.
_KEYS = ("guidance", "prompt", "meaning", "tag", "turn")

_ABOUT = frozenset({*_KEYS, "image"})

#: Numbers of JSON; True and False are none.
_NUMBERS = frozenset({int, float})

#: What is said where Parquet files are missing.
WITHOUT_PYARROW = "pyarrow is not installed: CSV files are written, Parquet files are not (pip install pyarrow)"


def has_parquet() -> bool:
    """Whether Parquet files can be written."""
    return find_spec("pyarrow") is not None


def tables(sweep: Sweep) -> dict[str, bytes]:
    """File name -> content of ``cells`` and ``per_prompt``, as CSV, and as Parquet where pyarrow is installed."""
    files = {}
    for name, columns in (("cells", cells(sweep)), ("per_prompt", per_prompt(sweep))):
        files[f"{name}.csv"] = to_csv(columns)
        if has_parquet():
            files[f"{name}.parquet"] = to_parquet(columns)
    return files


def cells(sweep: Sweep) -> Columns:
    """One row per cell: identity, state and all final measures."""
    names = sorted({name for cell in sweep.cells for name in cell.metrics})
    columns: dict[str, Sequence[Value]] = _identity([(cell, 1) for cell in sweep.cells])
    columns["state"] = [cell.state for cell in sweep.cells]
    return columns | {name: [cell.metrics.get(name) for cell in sweep.cells] for name in names}


def per_prompt(sweep: Sweep) -> Columns:
    """One row per finished cell, guidance scale, prompt and turn: numbers are means over images, ``images`` of them."""
    found = [row for cell in sweep.cells for row in cell.by_prompt]
    counts = [(cell, len(cell.by_prompt)) for cell in sweep.cells]
    names = dict.fromkeys(name for row in found for name in row)
    ordered = [*(key for key in (*_KEYS, "images") if key in names), *sorted({*names} - {*_KEYS, "images"})]
    return _identity(counts) | {name: [row.get(name) for row in found] for name in ordered}


def _identity(counts: Iterable[tuple[Cell, int]]) -> dict[str, Sequence[Value]]:
    """Which cell a row is of, so many rows each."""
    about: Mapping[str, Callable[[Cell], Value]] = {
        "arm": lambda cell: cell.arm,
        "seed": lambda cell: cell.seed,
        "cell": lambda cell: cell.identity,
    }
    counts = [*counts]
    return {name: [of(cell) for cell, count in counts for _ in range(count)] for name, of in about.items()}


def by_prompt(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Value]]:
    """The rows of one evaluation, image by image -> one row per prompt and turn."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    for key, group in groups.items():
        known = {name: value for name, value in zip(_KEYS, key, strict=True) if value is not None}
        yield known | {"images": len(group)} | _means(group)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    key = tuple(map(row.get, _KEYS))
    try:
        hash(key)
    except TypeError:  # a list, say: no run writes one
        return tuple(None if value is None else str(value) for value in key)
    return key


def _means(group: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    """Of the fields that are finite numbers; where some rows lack one, over the rows that have it."""
    names = [name for name, value in group[0].items() if name not in _ABOUT and type(value) in _NUMBERS]
    if len(names) > 1 and all(row.keys() == group[0].keys() for row in group):  # as runs write them: fast
        try:
            totals: list[float] = [*map(sum, zip(*map(itemgetter(*names), group), strict=True))]
        except TypeError:  # not a number in every row
            totals = [math.nan]
        if all(map(math.isfinite, totals)):
            return {name: total / len(group) for name, total in zip(names, totals, strict=True)}
    found: dict[str, Value] = {}
    for name in dict.fromkeys(name for row in group for name in row):
        if name not in _ABOUT:
            values: list[Any] = [row.get(name) for row in group]
            if not all(type(value) in _NUMBERS for value in values) or not math.isfinite(sum(values)):
                values = [*filter(is_number, values)]
            if values:
                found[name] = sum(values) / len(values)
    return found


def to_csv(columns: Columns) -> bytes:
    """``columns`` as CSV; what a spreadsheet would take for a formula begins with an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(spreadsheet, columns))
    shown = ([spreadsheet(v) if isinstance(v, str) else "" if v is None else v for v in c] for c in columns.values())
    writer.writerows(zip(*shown, strict=True))
    return buffer.getvalue().encode()


def to_parquet(columns: Columns) -> bytes:
    """``columns`` as Parquet; the same columns always give the same bytes."""
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    table = pyarrow.table({name: _array(values) for name, values in columns.items()})
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _array(values: Sequence[Value]) -> Any:
    """Values of one type; of several, all as words."""
    import pyarrow

    if any(isinstance(value, str) for value in values):
        return pyarrow.array([None if v is None else v if isinstance(v, str) else repr(v) for v in values])
    return pyarrow.array(values, None if any(value is not None for value in values) else pyarrow.float64())
