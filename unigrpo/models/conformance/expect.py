"""What is expected, and the words if it is not so."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, float32, float64


def demand(holds: bool, fault: str) -> None:
    """Raise ``fault`` unless it holds."""
    if not holds:
        raise AssertionError(fault)


def same(what: str, found: object, expected: object) -> None:
    """Equal values."""
    demand(found == expected, f"{what}: expected {expected}, got {found}")


def equal(what: str, mine: Sequence[Tensor], theirs: Sequence[Tensor], why: str) -> None:
    """The same bits."""
    for a, b in zip(mine, theirs, strict=True):
        if not a.equal(b):
            raise AssertionError(f"{what}: expected the same bits, got differences up to {_gap(a, b):.3g}; {why}")


def close(what: str, mine: Tensor, theirs: Tensor, why: str) -> None:
    """Up to rounding: another number of rows or tokens may take another kernel."""
    scale = max(1.0, float(theirs.abs().max()))
    tolerance = 1e-4 if mine.dtype in (float32, float64) else 5e-2
    gap = _gap(mine, theirs)
    demand(
        gap <= tolerance * scale,
        f"{what}: expected the same up to rounding, got differences up to {gap:.3g}; {why}",
    )


def some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _gap(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.detach().float() - theirs.detach().float()).abs().max())
