"""The time points of a flow, from noise (t = 1) to the image (t = 0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def time_points(steps: int, shift: float = 1.0) -> Tensor:
    """The ``steps + 1`` points between ``steps`` Euler steps: uniform on [1, 0], then ``t <- s t / (1 + (s - 1) t)``.

    Args:
        steps: Euler steps, >= 1. (Steps, not points: BAGEL's "25 timesteps" are 24 of these.)
        shift: s >= 1; larger values spend more of the steps at high noise.

    Returns:
        [steps + 1] float64, strictly falling, first exactly 1 and last exactly 0.

    Raises:
        ValueError: ``steps`` or ``shift`` below 1.
    """
    if steps < 1 or shift < 1:
        raise ValueError(f"expected steps >= 1 and shift >= 1, got steps={steps}, shift={shift}")
    import torch

    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def shifted(t: Tensor, shift: float) -> Tensor:
    """``s t / (1 + (s - 1) t)``: times in [0, 1], moved towards noise by s >= 1."""
    return shift * t / (1 + (shift - 1) * t)
