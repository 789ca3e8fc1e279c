"""What the arms of a plan will measure, known before any of them runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from reports.metrics import COSTS
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.metrics import schema
from unigrpo.registry import is_shipped, nearest

#: Names at least this similar are taken for misspellings.
_NEARLY = 0.85


def check_primary(configs: Sequence[RunConfig], primary: str, key: str = "primary") -> None:
    """Refuse a metric that no arm measures: the primary one, or that of another ``key`` of the grid.

    Metrics that are not shipped may measure any name.

    Raises:
        ConfigError: no arm measures it; the message names the most similar metric that is measured.
    """
    known = _names(configs)
    by_tag = any(primary.startswith(f"{name}/") for name in known)  # tags are the dataset's own
    own = [metric for config in configs for metric in config.measured if not is_shipped(metric)]
    if _is_measured(primary, known) or by_tag or own:
        return
    raise ConfigError(f"{key}: no arm measures {primary!r}{nearest(primary, known)}")


def check_alike(arms: Mapping[str, RunConfig]) -> None:
    """Refuse arms whose evaluations differ in their metrics: nothing of them would be compared.

    Raises:
        ConfigError: naming two such arms and their metrics.
    """
    found: dict[str, str] = {}
    for name, config in arms.items():
        found.setdefault(repr(config.measured), name)
    if len(found) > 1:
        (first, one), (second, other), *_ = found.items()
        raise ConfigError(
            f"arms {one!r} and {other!r} are measured by different metrics, so that nothing of them can be compared:"
            f" {first} and {second}; give all arms the same ones in overrides (metrics=reward is of each arm's own"
            " reward, unless it names one: metrics=[{name: reward, reward: {...}}])"
        )


def unmeasured(configs: Sequence[RunConfig], names: Sequence[str]) -> Iterator[str]:
    """A sentence for each of ``names`` that no arm measures but that resembles a measured one."""
    known = _names(configs)
    for name in names:
        close = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if close and not _is_measured(name, known):
            yield f"no arm measures {name!r}; did you mean {close[0]!r}?"


def _names(configs: Sequence[RunConfig]) -> set[str]:
    # A plan may have thousands of arms, with few different settings of these.
    distinct = {repr((each.dataset, each.metrics, each.evaluation.retention)): each for each in configs}
    return {metric.name for metric in COSTS}.union(*map(schema.names, distinct.values()))


def _is_measured(name: str, known: set[str]) -> bool:
    """Whether ``name`` is known, or can be the duration of a phase."""
    return name in known or (name.startswith("cost/") and name.endswith("_s"))
