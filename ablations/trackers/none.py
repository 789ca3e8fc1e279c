"""Tracker ``none``: the files and the report are enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ablations.plan import Plan
from unigrpo.registry import register


@register("tracker", "none", source="")
@dataclass(frozen=True)
class Untracked:
    """Nothing is mirrored."""

    title: ClassVar[str] = ""

    def check(self, root: Path) -> None:
        """There is nothing to check."""

    def mirror(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        """No mirror."""
