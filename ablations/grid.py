"""Grid files: one YAML file states one research question and the arms that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unigrpo.registry import ConfigError, nearest

GRIDS = Path(__file__).parent / "grids"
CORRECTIONS = ("holm", "none")
UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Grid:
    """What one grid file says; the README of this package explains every key."""

    name: str
    question: str
    recipe: str
    baseline: str
    primary: Mapping[str, str]
    arms: Mapping[str, tuple[str, ...]]
    comparisons: tuple[str, ...] = ()
    """Arms whose comparison with the baseline is planned, and corrected for; empty means all."""
    secondary: tuple[str, ...] = ()
    alpha: float = 0.05
    correction: str = "holm"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    overrides: tuple[str, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    zip: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    exclude: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without composing a configuration.

        Raises:
            ConfigError: a key with a value that makes no grid.
        """
        if not self.arms:
            raise ConfigError("arms: expected at least one")
        if UNTOUCHED in self.arms:
            raise ConfigError(f"arms: {UNTOUCHED!r} is always there, do not list it")
        if self.baseline not in self.arms:
            raise ConfigError(f"baseline: no arm is called {self.baseline!r}{nearest(self.baseline, self.arms)}")
        for name in self.comparisons:
            if name not in self.arms:
                raise ConfigError(f"comparisons: no arm is called {name!r}{nearest(name, self.arms)}")
        if set(self.primary) != {"metric", "direction"} or self.primary["direction"] not in ("max", "min"):
            raise ConfigError(f"primary: expected {{metric: NAME, direction: max or min}}, got {dict(self.primary)}")
        if self.correction not in CORRECTIONS:
            raise ConfigError(f"correction: unknown {self.correction!r}{nearest(self.correction, CORRECTIONS)}")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha: expected a number between 0 and 1, got {self.alpha}")
        if len({len(values) for values in self.zip.values()}) > 1:
            raise ConfigError("zip: expected lists of equal length")
        check_seeds(self.seeds)


def check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """``seeds`` themselves, if they are distinct non-negative integers and at least one.

    Raises:
        ConfigError: they are not.
    """
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected distinct integers of 0 or more, got {list(seeds)}")
    return seeds


def grids() -> list[str]:
    """Names of the shipped grids."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def load_grid(name: str, preset: str = "") -> Grid:
    """Read the grid ``name``: a shipped one, or a path that ends in .yaml.

    Args:
        name: of the grid.
        preset: of its ``presets``, whose keys replace those of the grid; empty for none.

    Raises:
        ConfigError: there is no such grid or preset, or the file does not describe one.
    """
    path = Path(name) if name.endswith(".yaml") else GRIDS / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"unknown grid {name!r}{nearest(name, grids())}")
    try:
        return _grid(path.stem, yaml.safe_load(path.read_text(encoding="utf-8")), preset)
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"grid {name}: {error}") from error


def _grid(name: str, data: Any, preset: str) -> Grid:
    data = dict(_typed("the file", data, dict))
    presets = _typed("presets", data.pop("presets", {}), dict)
    if preset:
        if preset not in presets:
            raise ConfigError(f"preset: unknown {preset!r}{nearest(preset, presets)}")
        data |= _typed(f"presets.{preset}", presets[preset], dict)
    known = set(Grid.__dataclass_fields__) - {"name"}
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}{nearest(str(key), known)}")
    for key in ("question", "recipe", "baseline", "primary", "arms"):
        if key not in data:
            raise ConfigError(f"the key {key!r} is missing")
    return Grid(name, **{key: _value(key, value) for key, value in data.items()})


def _value(key: str, value: Any) -> Any:
    """``value`` in the type that the field ``key`` of :class:`Grid` has."""
    if key in ("arms", "axes", "zip"):
        return {str(name): _items(f"{key}.{name}", items) for name, items in _typed(key, value, dict).items()}
    if key in ("seeds", "comparisons", "secondary", "overrides", "exclude"):
        return _items(key, value)
    return _typed(key, value, {"alpha": float, "primary": dict}.get(key, str))


def _items(key: str, value: Any) -> tuple[Any, ...]:
    return tuple(_typed(key, [] if value is None else value, list))


def _typed(key: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{key}: expected a {kind.__name__}, got {value!r}")
    return value
