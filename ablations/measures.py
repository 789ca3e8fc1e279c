"""What the arms of a plan will measure, told before any of them runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from reports.metrics import COSTS
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.metrics import schema
from unigrpo.registry import is_shipped, nearest

#: Of a name that is nearly another, how much is equal.
_NEARLY = 0.85


def check_primary(configs: Sequence[RunConfig], primary: str) -> None:
    """Refuse a primary metric that no arm measures, where all metrics are shipped: of those all values are known.

    Raises:
        ConfigError: it is measured by none; the message names the nearest that is.
    """
    known = _names(configs)
    by_tag = any(primary.startswith(f"{name}/") for name in known)  # tags are the dataset's own
    own = [metric for config in configs for metric in config.measured if not is_shipped(metric)]
    if _is_measured(primary, known) or by_tag or own:
        return
    raise ConfigError(f"primary: no arm measures {primary!r}{nearest(primary, known)}")


def unmeasured(configs: Sequence[RunConfig], names: Sequence[str]) -> Iterator[str]:
    """A sentence for each of ``names`` that no arm measures and that is nearly one that is measured."""
    known = _names(configs)
    for name in names:
        close = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if close and not _is_measured(name, known):
            yield f"no arm measures {name!r}; did you mean {close[0]!r}?"


def _names(configs: Sequence[RunConfig]) -> set[str]:
    # Arms differ in few of these, and a plan may have thousands.
    distinct = {repr((each.dataset, each.metrics, each.evaluation.retention)): each for each in configs}
    return {metric.name for metric in COSTS}.union(*map(schema.names, distinct.values()))


def _is_measured(name: str, known: set[str]) -> bool:
    """Whether ``name`` is known, or may be the seconds of a phase."""
    return name in known or (name.startswith("cost/") and name.endswith("_s"))
