"""Choosing settings before the question is asked: every arm alike, on validation prompts and seeds of its own."""

from __future__ import annotations

import dataclasses

from ablations.grid import Grid
from unigrpo.errors import ConfigError

#: What keeps a tuning away from the prompts that the question is answered on.
SPLIT = "evaluation.split=validation"


def candidates(grid: Grid) -> Grid:
    """The grid that tries each setting of ``grid.tune``: an arm for each, called ``ARM #1`` and so on.

    Nothing is compared in it: it ends in a table of scores, from which the best setting of each arm is chosen.

    Raises:
        ConfigError: the grid has no settings to try.
    """
    if grid.tune is None:
        raise ConfigError(f"tune=true: the grid {grid.name} has no settings to try; give it the key tune")
    named = {
        arm: {f"{arm} #{k}": (*grid.arms[arm], *setting) for k, setting in enumerate(settings, start=1)}
        for arm, settings in grid.tune.settings.items()
    }
    arms = {name: overrides for found in named.values() for name, overrides in found.items()}
    return dataclasses.replace(
        grid,
        name=f"{grid.name}_tuning",
        question=f"Which settings does each arm of {grid.name} do best with? ({grid.question})",
        baseline=next(iter(arms)),
        arms=arms,
        comparisons=(),
        margin=None,
        design="fixed",
        looks=(),
        seeds=grid.tune.seeds,
        overrides=(*grid.overrides, SPLIT),
        axes={},
        zip={},
        exclude=(),
        replicate=0,
        matched=None,
        at=None,
        spread=None,
        tune=None,
        candidates={arm: tuple(found) for arm, found in named.items()},
    )
