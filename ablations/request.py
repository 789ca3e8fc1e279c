"""The command line of the sweeper: reserved keys here, everything else is an override of RunConfig."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.costs import Budget
from ablations.grid import Grid, check_seeds, grids, load_grid, search_beside
from ablations.launchers import Launcher
from ablations.trackers import Tracker
from ablations.tuning import candidates
from unigrpo.compose import ELSEWHERE, recipes
from unigrpo.config import RunConfig, slot_of
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.plain import build_strategy
from unigrpo.registry import find, nearest, strategies
from unigrpo.strict_yaml import read_yaml

#: Reserved key -> what it means.
RESERVED = {
    "grid": "which question: a name of --list, or a path that ends in .yaml",
    "preset": "one of the grid's presets; small: a few updates of a few prompts, to see that all of it runs",
    "tune": "true: try the settings of the grid's key tune, on validation prompts and seeds of their own",
    "primary": "the measure that decides, in place of the grid's: primary=reward/total, or primary=NAME,min",
    "margin": "differences of that measure that do not matter, in its units, in place of the grid's: margin=.02",
    "seeds": "5 takes the first five of the grid's seeds (and goes on counting), [3,4,7] takes these",
    "dry_run": "true: show the plan and touch nothing (also --dry-run, -n)",
    "launcher": "local (default), slurm or inline; launcher.workers=2, launcher.minutes=90",
    "rerun": "missing (default), failed (those too), all (done ones too, from the start), none (report only)",
    "only": "run only the cells whose arm:seed matches this glob",
    "action": "run (default), plan, status, report, cancel, explain, estimate, gc or doctor",
    "fail_if": "with action=report: exit code 4 if it holds, such as fail_if='geneval/strict<-0.01 or failed>0'",
    "root": "folder of cells, sweeps and mlflow.db (default: runs)",
    "tracker": "mlflow (default), tensorboard, wandb or none",
    "budget": "budget.gpu_hours=8, budget.cells=12, budget.wall=2h: start no cell that would go beyond",
}
_CHOICES = {
    "rerun": ("missing", "failed", "all", "none"),
    "action": ("run", "plan", "status", "report", "cancel", "explain", "estimate", "gc", "doctor"),
}

USAGE = """usage: python -m ablations.sweep grid=NAME [key=value ...]
       python -m ablations.sweep --list | --help

Runs every cell (arm x seed) of a grid that is not done yet, mirrors it to MLflow and writes the report.
The same command again runs only what is missing."""

EXIT_CODES = """exit codes:
  0    all cells are done and the report is written
  1    some cells failed or are missing, a folder could not be written, or the report failed
  2    a mistake in the command or the grid; nothing was run
  3    the budget is used up and cells are left
  4    the condition of fail_if holds
  130  interrupted: cells were checkpointed, the same command goes on"""


@dataclass(frozen=True)
class Request:
    """One command, understood."""

    grid: Grid
    seeds: tuple[int, ...] | None
    launcher: Launcher
    rerun: str
    only: str
    action: str
    dry_run: bool
    """Whether to touch nothing."""
    budget: Budget
    fail_if: str
    """When ``action=report`` is a failure; empty for never."""
    root: Path
    tracker: Tracker
    overrides: tuple[str, ...]


def read(arguments: Sequence[str]) -> Request:
    """Understand a command line.

    Raises:
        ConfigError: a mistake in it, with the nearest valid spelling.
    """
    values: dict[str, str] = {}
    launcher: dict[str, str] = {}
    budget: dict[str, str] = {}
    overrides = []
    for argument in arguments:
        if argument in ("-n", "--dry-run"):
            argument = "dry_run=true"
        key, equals, value = argument.partition("=")
        if key.startswith("launcher."):
            launcher[key.partition(".")[2]] = value
        elif key.startswith("budget."):
            if (name := key.partition(".")[2]) not in (names := ("gpu_hours", "cells", "wall")):
                raise ConfigError(f"unknown key {key!r}{nearest(name, names)}")
            budget[name] = value
        elif key in RESERVED and equals:
            values[key] = value
        else:
            overrides.append(_override(argument))
    for key, choices in _CHOICES.items():
        if values.get(key, choices[0]) not in choices:
            raise ConfigError(f"{key}: unknown {values[key]!r}{nearest(values[key], choices)}")
    if "grid" not in values:
        raise ConfigError(f"which grid? grid=NAME{nearest('', grids())}")
    grid = load_grid(values["grid"], values.get("preset", ""))
    search_beside(values["grid"])
    if _flag("tune", values.get("tune", "false")):
        grid = candidates(grid)
    if "primary" in values:
        grid = _with_primary(grid, _primary(values["primary"]))
    if "margin" in values:
        grid = dataclasses.replace(grid, margin=_margin(values["margin"]))
    if "fail_if" in values and values.get("action") != "report":
        raise ConfigError("fail_if: goes with action=report")
    root = Path(home_expanded("root", values.get("root", "runs")))
    tracker: Tracker = build_strategy("tracker", values.get("tracker", "mlflow"), "tracker")
    tracker.check(root)
    return Request(
        grid=grid,
        seeds=_seeds(values["seeds"], grid.seeds) if "seeds" in values else None,
        launcher=_launcher(values.get("launcher", "local"), launcher),
        rerun=values.get("rerun", "missing"),
        only=values.get("only", "*"),
        action=values.get("action", "run"),
        dry_run=_flag("dry_run", values.get("dry_run", "false")),
        budget=Budget.read(budget),
        fail_if=values.get("fail_if", ""),
        root=root,
        tracker=tracker,
        overrides=tuple(overrides),
    )


def help_text() -> str:
    """What ``--help`` prints."""
    reserved = "\n".join(f"  {key:<9} {what}" for key, what in RESERVED.items())
    keys = [f.name for f in dataclasses.fields(RunConfig)]
    slotted = "\n".join(f"  {key:<19} {' | '.join(strategies(slot))}" for key in keys if (slot := slot_of(key)))
    rest = ", ".join(key for key in keys if not slot_of(key) and key != "seed")
    return f"""{USAGE}

keys of the sweeper:
{reserved}

everything else overrides the configuration of every arm: group=strategy, a.b=value, +a=value, ~a;
a=1,2 or a=choice(x,y) or a=range(1,4) adds an axis
{slotted}
  {rest}

grids: {", ".join(grids())}
recipes: {", ".join(recipes())}

{EXIT_CODES}"""


def list_text() -> str:
    """What ``--list`` prints."""
    lines = []
    for name in grids():
        grid = load_grid(name)
        arms = ", ".join(grid.arms)
        lines.append(f"grid={name}\n  {grid.question}\n  recipe {grid.recipe}; arms {arms}; {len(grid.seeds)} seeds")
    return "\n".join(lines)


def _override(argument: str) -> str:
    """``argument``, if it overrides something that RunConfig has."""
    root = argument.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0]
    keys = [f.name for f in dataclasses.fields(RunConfig)]
    if root not in keys or ("=" not in argument and not argument.startswith("~")):
        if "=" not in argument:
            raise ConfigError(f"{argument!r} is no key=value; see --help")
        if root in ELSEWHERE:
            raise ConfigError(f"unknown key {root!r}: {ELSEWHERE[root]}")
        raise ConfigError(f"unknown key {root!r}{nearest(root, [*RESERVED, *keys])}")
    return argument


def _launcher(name: str, given: Mapping[str, str]) -> Launcher:
    hints = typing.get_type_hints(find("launcher", name))
    values = {}
    for key, text in given.items():
        hint = hints.get(key)
        # Where text is expected all is text: the account 0123, and the partition "on".
        all_text = set(typing.get_args(hint) or [hint]) <= {str, ...}
        values[key] = _word(text) if hint is str else _yaml(f"launcher.{key}", text, all_text=all_text)
    launcher: Launcher = build_strategy("launcher", {**values, "name": name}, "launcher")
    return launcher


def _word(text: str) -> str:
    """``text`` without the quotes that YAML would take away; anything but a word of YAML is text as it stands."""
    try:
        value = read_yaml(text, all_text=True)
    except ConfigError:
        return text
    return value if isinstance(value, str) else text


def _yaml(key: str, text: str, *, all_text: bool = False) -> Any:
    try:
        return read_yaml(text, all_text=all_text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _primary(text: str) -> dict[str, str]:
    metric, comma, direction = text.partition(",")
    if not metric or (comma and direction not in ("min", "max")):
        raise ConfigError(f"primary: expected NAME, or NAME,min where lower is better, got {text!r}")
    return {"metric": metric, "direction": direction or "max"}


def _with_primary(grid: Grid, primary: dict[str, str]) -> Grid:
    """The grid with another primary measure: of another one its margin and spread say nothing."""
    if primary["metric"] == grid.primary["metric"]:
        return dataclasses.replace(grid, primary=primary)
    return dataclasses.replace(grid, primary=primary, margin=None, spread=None)


def _margin(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"margin: expected a number above 0, as in margin=.02, got {text!r}") from None


def _seeds(text: str, listed: tuple[int, ...]) -> tuple[int, ...]:
    value = _yaml("seeds", f"[{text}]" if "," in text and not text.startswith("[") else text)
    if isinstance(value, list):
        return check_seeds(tuple(value))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"seeds: expected a number of seeds or a list of them, got {text!r}")
    unlisted = (seed for seed in range(value + len(listed)) if seed not in listed)
    return tuple([*listed, *unlisted][:value])


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{key}: expected true or false, got {text!r}")
    return text.lower() == "true"
