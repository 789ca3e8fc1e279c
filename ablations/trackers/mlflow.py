"""Tracker ``mlflow``: a run for each cell in MLflow's database, or on its server."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ablations import tracking
from ablations.plan import Plan
from unigrpo.errors import ConfigError
from unigrpo.registry import register


@register("tracker", "mlflow", source="mlflow.org")
@dataclass(frozen=True)
class Mlflow:
    """MLflow: a table of arms, seeds and measures, charts by arm, files and pictures of each cell."""

    title: ClassVar[str] = "MLflow"

    def check(self, root: Path) -> None:
        """Check that ``root`` can stand in the address of MLflow's database, if that lies there."""
        own_store = not os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        if own_store and (found := re.search(r"\?|%[0-9a-fA-F]{2}", str(root.resolve()))):
            raise ConfigError(
                f"root={root}: {found[0]!r} in a path means something else in the address of MLflow's database, which"
                " lies there; rename it, give tracker=none, or set MLFLOW_TRACKING_URI"
            )

    def mirror(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> tracking.Mirror:
        """A mirror that waits for a store that is down."""
        return tracking.Mirror(root, folder, plan, say)
