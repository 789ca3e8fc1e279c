"""What decides a run's result: its configuration, and the content of what the configuration only points to.

A run's folder and a sweep's cell keep it, so that neither is taken for one of other prompts, weights or rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.config import SILENT
from unigrpo.io import JsonObject, read_json, write_json
from unigrpo.registry import user_sources

if TYPE_CHECKING:
    from unigrpo.config import RunConfig

_CONFIG, _CONTENT = "config.json", "content.json"
#: Differences that a message names before it only counts them, and letters of a value that it shows.
_MOST, _LETTERS = 6, 40


def content_of(config: RunConfig) -> dict[str, str]:
    """What a configuration points to -> the digest of its content.

    That is the model's weights, those of an adapter that it starts with, the prompts of its datasets, and the source of
    every strategy and function that is a user's own.  The package's own code is left to its version.

    Raises:
        ConfigError: some of it cannot be read.
    """
    found = {"weights of model": config.model.digest(), "prompts of dataset": config.dataset.digest()}
    if start := config.adapter.digest():
        found["weights of adapter.start"] = start
    if config.evaluation.retention:
        found["prompts of evaluation.retention"] = config.evaluation.retention.digest()
    # A dataset may suggest metrics of its author's, which the configuration does not name.
    chosen = (config, config.measured, config.measured_of_retention)
    return found | {f"source of {label}": digest for label, digest in user_sources(chosen).items()}


def identity_of(config: RunConfig) -> JsonObject:
    """Two runs with equal identity give equal results: the configuration without labels, and ``content``.

    Raises:
        ConfigError: what the configuration points to cannot be read.
    """
    return config.identity() | {"content": content_of(config)}


def write(folder: Path, config: RunConfig, identity: JsonObject) -> None:
    """Write down in a run's folder what it is a run of."""
    write_json(folder / _CONTENT, identity["content"])
    write_json(folder / _CONFIG, config.to_dict())


def read(folder: Path) -> JsonObject:
    """What :func:`write` left in a run's folder; of what is not there, nothing."""
    return (read_json(folder / _CONFIG) or {}) | {"content": read_json(folder / _CONTENT) or {}}


def flat(plain: Mapping[str, object], prefix: str = "") -> JsonObject:
    """``{"a.b": 1}`` for ``{"a": {"b": 1}}``."""
    found: JsonObject = {}
    for key, value in plain.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """``key: old -> new`` for what differs between two identities, shortened; empty if nothing does.

    A section that only ``old`` has does not count, as it may be a label, unless it is a silent field.
    """
    before, after = flat({key: value for key, value in old.items() if key in new or key in SILENT}), flat(new)
    keys = [key for key in sorted({*before, *after}) if _shown(before, key) != _shown(after, key)]
    named = (f"{key.removeprefix('content.')}: {_short(before, key)} -> {_short(after, key)}" for key in keys[:_MOST])
    return "; ".join(named) + (f"; and {len(keys) - _MOST} more" if len(keys) > _MOST else "")


def _shown(plain: Mapping[str, object], key: str) -> str:
    return repr(plain[key]) if key in plain else "nothing"


def _short(plain: Mapping[str, object], key: str) -> str:
    """A value as a message shows it: of a digest the first letters."""
    text = _shown(plain, key)
    if key.startswith("content.") and key in plain:
        return text.strip("'")[:8]
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
