"""What the package ships, whatever strategies other tests have registered beside it."""

from __future__ import annotations

from unigrpo import registry


def shipped(slot: str) -> dict[str, type]:
    """Name -> class of the strategies of ``slot`` that come with the library."""
    return {name: cls for name, cls in registry.strategies(slot).items() if cls.__module__.startswith("unigrpo.")}
