"""Grid files: one YAML file states one research question and the arms that answer it."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.blocks import Blocks
from ablations.ladder import At
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.registry import nearest
from unigrpo.strict_yaml import load_yaml

GRIDS = Path(__file__).parent / "grids"
CORRECTIONS = ("bonferroni", "bh", "none")
TESTS = ("sign_flip", "paired_t", "unpaired")
DESIGNS = ("fixed", "group_sequential")
UNTOUCHED = "untouched"
#: Repetitions of the baseline are arms called replicate1, replicate2, ...
REPLICATE = "replicate"


@dataclass(frozen=True)
class Matched:
    """Arms that are said to be of equal strength, and the measure in which that shows."""

    measure: str
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """How much the planned differences varied from seed to seed when the grid was run before.

    Attributes:
        sd: standard deviation of a comparison's differences by seed, in units of the primary measure.
        seeds: how many seeds it was found from.
        source: where that is written.
    """

    sd: float
    seeds: int
    source: str


@dataclass(frozen=True)
class Tune:
    """Settings that are tried before the question is asked.

    Attributes:
        seeds: on which they are tried; none of the grid's own.
        settings: arm -> overrides of each setting; equally many for every arm.
    """

    seeds: tuple[int, ...]
    settings: Mapping[str, tuple[tuple[str, ...], ...]]


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
    correction: str = "bonferroni"
    margin: float | None = None
    """Differences of the primary measure that are smaller do not matter: the margin of an equivalence test."""
    test: str = "sign_flip"
    design: str = "fixed"
    """Whether results are looked at once, or after so many seeds as ``looks`` says."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds of a group-sequential design at which results are looked at; the last is that of all seeds."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    overrides: tuple[str, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    zip: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    exclude: tuple[Mapping[str, Any], ...] = ()
    replicate: int = 0
    """Further arms with the baseline's configuration and other draws (A/A): their differences are noise alone."""
    blocks: Blocks | None = None
    """Models that seeds start from in turn."""
    matched: Matched | None = None
    """Arms whose equal strength is tested."""
    at: At | None = None
    """Ladders of arms that are compared in the place of arms, at one level of another measure."""
    spread: Spread | None = None
    """From an earlier run: what the plan goes by until cells of its own have finished."""
    tune: Tune | None = None
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a grid that tries settings (:mod:`ablations.tuning`), not of a file: arm -> the arms that try its settings."""

    def __post_init__(self) -> None:
        """Check what can be checked without composing a configuration.

        Raises:
            ConfigError: a key with a value that makes no grid.
        """
        if not self.arms:
            raise ConfigError("arms: expected at least one")
        if UNTOUCHED in self.arms:
            raise ConfigError(f"arms: {UNTOUCHED!r} is always there, do not list it")
        for name in self.arms:
            if "@" in name or not name.isprintable() or name != name.strip():
                raise ConfigError(f"arms: expected a name of printable characters without '@', got {name!r}")
        if len({unicodedata.normalize("NFC", name) for name in self.arms}) < len(self.arms):
            raise ConfigError("arms: two names look the same, since one letter can be written in two ways")
        if self.baseline not in self.arms:
            raise ConfigError(f"baseline: no arm is called {self.baseline!r}{nearest(self.baseline, self.arms)}")
        for name in self.comparisons:
            if name not in self.arms:
                raise ConfigError(f"comparisons: no arm is called {name!r}{nearest(name, self.arms)}")
            if name == self.baseline or self.comparisons.count(name) > 1:
                raise ConfigError(f"comparisons: expected other arms than the baseline, each once, got {name!r}")
        if set(self.primary) != {"metric", "direction"} or self.primary["direction"] not in ("max", "min"):
            raise ConfigError(f"primary: expected {{metric: NAME, direction: max or min}}, got {dict(self.primary)}")
        for key, known in (("correction", CORRECTIONS), ("test", TESTS), ("design", DESIGNS)):
            if (value := getattr(self, key)) not in known:
                raise ConfigError(f"{key}: unknown {value!r}{nearest(value, known)}")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha: expected a number between 0 and 1, got {self.alpha}")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ConfigError(f"margin: expected a number above 0, in units of the primary measure, got {self.margin}")
        if len({len(values) for values in self.zip.values()}) > 1:
            raise ConfigError("zip: expected lists of equal length")
        for key in self.zip:
            if key in self.axes:
                raise ConfigError(f"zip: {key} is among the axes already")
        if self.blocks and self.blocks.key in {*self.axes, *self.zip}:
            raise ConfigError(f"blocks: {self.blocks.key} is varied by axes or zip already")
        for key, values in {**self.axes, **self.zip}.items():
            if not values:
                raise ConfigError(f"{'axes' if key in self.axes else 'zip'}.{key}: expected at least one value")
        for rule in self.exclude:
            if not isinstance(rule, Mapping) or not rule:
                raise ConfigError(f"exclude: expected {{arm: NAME, axis: value}}, got {rule!r}")
            if "arm" in rule and rule["arm"] not in self.arms:
                raise ConfigError(f"exclude: no arm is called {rule['arm']!r}{nearest(str(rule['arm']), self.arms)}")
        check_seeds(self.seeds)
        self._check_looks()
        self._check_further_keys()

    @property
    def replicates(self) -> tuple[str, ...]:
        """Names of the arms that repeat the baseline."""
        return tuple(f"{REPLICATE}{number}" for number in range(1, self.replicate + 1))

    def _check_tune(self, tune: Tune) -> None:
        check_seeds(tune.seeds)
        if shared := sorted({*tune.seeds} & {*self.seeds}):
            raise ConfigError(f"tune.seeds: {shared[0]} is among the seeds that the question is answered on")
        for arm in tune.settings:
            if arm not in self.arms:
                raise ConfigError(f"tune.settings: no arm is called {arm!r}{nearest(arm, self.arms)}")
        compared = {self.baseline, *(self.comparisons or self.arms)}
        if missing := [arm for arm in self.arms if arm in compared and arm not in tune.settings]:
            raise ConfigError(f"tune.settings: {missing[0]!r} is compared and has none; every arm is tuned alike")
        if len({len(found) for found in tune.settings.values()}) > 1 or not all(tune.settings.values()):
            raise ConfigError(f"tune.settings: expected equally many for every arm, got {_counts(tune.settings)}")

    def _check_further_keys(self) -> None:
        if self.replicate < 0:
            raise ConfigError(f"replicate: expected how often to repeat the baseline, 0 or more, got {self.replicate}")
        if taken := sorted({*self.replicates} & {*self.arms}):
            raise ConfigError(f"arms: {taken[0]!r} is what a repetition of the baseline is called; choose another name")
        if self.matched is not None:
            names = self.matched.arms
            for name in names:
                if name not in self.arms:
                    raise ConfigError(f"matched.arms: no arm is called {name!r}{nearest(name, self.arms)}")
            if len({*names}) < max(2, len(names)):
                raise ConfigError(f"matched.arms: expected two arms or more, each once, got {list(names)}")
        if self.at is not None:
            self.at.check(self.arms, self.comparisons)
        if self.tune is not None:
            self._check_tune(self.tune)
        if self.spread is not None:
            if not 0 < self.spread.sd < math.inf:
                raise ConfigError(f"spread.sd: expected a number above 0, got {self.spread.sd}")
            if self.spread.seeds < 2:
                raise ConfigError(f"spread.seeds: a spread is known from 2 seeds on, got {self.spread.seeds}")

    def _check_looks(self) -> None:
        if self.design == "fixed":
            if self.looks:
                raise ConfigError(
                    f"looks: design=fixed has none, got {list(self.looks)}; give design: group_sequential"
                )
            return
        whole = all(isinstance(look, int) and not isinstance(look, bool) for look in self.looks)
        if not (self.looks and whole and self.looks[0] >= 2 and sorted({*self.looks}) == [*self.looks]):
            raise ConfigError(
                f"looks: design=group_sequential needs the numbers of seeds at which results are looked at, ascending"
                f" from 2 or more, as in [6, 8, 10]; got {list(self.looks)}"
            )
        if self.looks[-1] != len(self.seeds):
            raise ConfigError(
                f"looks: the last is at all seeds, expected {len(self.seeds)}, got {self.looks[-1]}; the grid lists the"
                " most seeds that there may be, and seeds=N on the command line begins with the first N"
            )

    def check_part(self, seeds: tuple[int, ...]) -> None:
        """See to it that a command's ``seeds`` are a part of what a group-sequential design declares.

        Raises:
            ConfigError: they are others, or not the first of them.
        """
        if self.design == "group_sequential" and seeds != self.seeds[: len(seeds)]:
            raise ConfigError(
                f"seeds: design=group_sequential declares {list(self.seeds)}, expected the first of them, got"
                f" {list(seeds)}; other seeds are another design: change seeds and looks in the grid"
            )


def _counts(settings: Mapping[str, tuple[tuple[str, ...], ...]]) -> str:
    return ", ".join(f"{arm} {len(found)}" for arm, found in settings.items())


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
    path = Path(home_expanded("grid", name)) if name.endswith(".yaml") else GRIDS / f"{name}.yaml"
    if not path.is_file():
        if name.endswith((".yaml", ".yml")) or "/" in name:
            raise ConfigError(
                f"grid={name}: expected a file whose name ends in .yaml, there is none at {path.absolute()}"
            )
        if Path(f"{name}.yaml").is_file():
            raise ConfigError(f"unknown grid {name!r}; of the file {name}.yaml give its whole name: grid={name}.yaml")
        raise ConfigError(f"unknown grid {name!r}{nearest(name, grids())}")
    try:
        return _grid(path.stem, load_yaml(path), preset)
    except ConfigError as error:
        raise ConfigError(f"grid {name}: {error}") from error


def search_beside(name: str) -> None:
    """Let modules be found that lie beside the grid file ``name``, after all others, here and in workers.

    Workers have the folders of this process, and jobs of Slurm its variables.
    """
    folder = str(Path(home_expanded("grid", name)).resolve().parent)
    if name.endswith(".yaml") and folder not in sys.path:
        sys.path.append(folder)
        before = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (before, folder)))


def _grid(name: str, data: Any, preset: str) -> Grid:
    data = _mapping("the file", data)
    presets = _mapping("presets", data.pop("presets", {}))
    for other, changes in presets.items():
        _known(f"presets.{other}: ", _mapping(f"presets.{other}", changes))
    if preset:
        if preset not in presets:
            raise ConfigError(f"preset: unknown {preset!r}{nearest(preset, presets)}")
        # The spread is that of whole cells.
        data = {key: value for key, value in data.items() if key != "spread"} | presets[preset]
    _known("", data)
    for key in ("question", "recipe", "baseline", "primary", "arms"):
        if key not in data:
            raise ConfigError(f"the key {key!r} is missing")
    return Grid(name, **{key: _value(key, value) for key, value in data.items()})


def _known(where: str, data: Mapping[str, Any]) -> None:
    known = set(Grid.__dataclass_fields__) - {"name", "candidates"}
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}unknown key {key!r}{nearest(key, known)}")


def _value(key: str, value: Any) -> Any:
    """``value`` in the type that the field ``key`` of :class:`Grid` has."""
    if key == "arms":
        return {name: _words(f"arms.{name}", items) for name, items in _mapping(key, value).items()}
    if key in ("axes", "zip"):
        return {name: _items(f"{key}.{name}", items) for name, items in _mapping(key, value).items()}
    if key in ("comparisons", "secondary", "overrides"):
        return _words(key, value)
    if key in ("seeds", "exclude", "looks"):
        return _items(key, value)
    if key == "primary":
        return _mapping(key, value)
    if key == "matched":
        found = _section(key, value, ("measure", "arms"))
        return Matched(_typed("matched.measure", found["measure"], str), _words("matched.arms", found["arms"]))
    if key == "at":
        found = _section(key, value, ("measure", "level", "ladders"))
        rungs = {name: _words(f"at.ladders.{name}", each) for name, each in _mapping("at", found["ladders"]).items()}
        return At(
            _typed("at.measure", found["measure"], str), float(_typed("at.level", found["level"], (int, float))), rungs
        )
    if key == "spread":
        found = _section(key, value, ("sd", "seeds", "from"))
        sd, seeds = _typed("spread.sd", found["sd"], (int, float)), _typed("spread.seeds", found["seeds"], int)
        return Spread(float(sd), seeds, _typed("spread.from", found["from"], str))
    if key == "tune":
        found = _section(key, value, ("seeds", "settings"))
        settings = {
            arm: tuple(_words(f"tune.settings.{arm}[{k}]", one) for k, one in enumerate(_items(f"tune.{arm}", each)))
            for arm, each in _mapping("tune.settings", found["settings"]).items()
        }
        return Tune(_items("tune.seeds", found["seeds"]), settings)
    if key == "blocks":
        found = {name: _items(f"{key}.{name}", items) for name, items in _mapping(key, value).items()}
        if len(found) > 1:
            raise ConfigError(f"blocks: expected one key with its values, got {', '.join(found)}")
        return next((Blocks(*each) for each in found.items()), None)
    if key == "replicate":
        return _typed(key, value, int)
    if key in ("alpha", "margin"):
        return float(_typed(key, value, (int, float)))
    return _typed(key, value, str)


def _mapping(key: str, value: Any) -> dict[str, Any]:
    for name in _typed(key, value, dict):
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{key}: expected words as names, got {name!r}; put it in quotes")
    return dict(value)


def _section(key: str, value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    found = _mapping(key, value)
    if {*found} != {*keys}:
        raise ConfigError(f"{key}: expected the keys {', '.join(keys)}, got {', '.join(found) or 'none'}")
    return found


def _words(key: str, value: Any) -> tuple[str, ...]:
    return tuple(_typed(f"{key}[{k}]", item, str) for k, item in enumerate(_items(key, value)))


def _items(key: str, value: Any) -> tuple[Any, ...]:
    # Of an arm without overrides nothing needs to be said; elsewhere nothing is more likely to be forgotten.
    return tuple(_typed(key, [] if value is None and key.startswith("arms.") else value, list))


def _typed(key: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{key}: expected a {'number' if isinstance(kind, tuple) else kind.__name__}, got {value!r}")
    return value
