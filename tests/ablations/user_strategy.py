"""Strategies as a user would keep them in a package of their own, which nothing imports but their path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unigrpo.registry import register


@register("regularizer", "doubled", source="a user")
@dataclass(frozen=True)
class Doubled:
    """A penalty with one field, which cannot live with the ODE."""

    weight: float = 2.0

    def conflicts(self, config: Any) -> Iterator[str]:
        if config.dynamics.name == "ode":
            yield "needs noise; use dynamics=flow_sde"


@register("regularizer", "demanding", source="a user")
@dataclass(frozen=True)
class Demanding:
    """A penalty whose strength has no default."""

    weight: float
