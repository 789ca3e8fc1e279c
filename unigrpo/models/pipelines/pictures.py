"""Pictures that a pipeline's own encoders see beside the text: as features of an image, and as they ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class Pixels:
    """The pixels themselves as a :class:`~unigrpo.models.vision.VisionEncoder`: a feature is a line of the picture."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> features [B, H, 3 W] fp32."""
        return pixels.float().transpose(1, 2).flatten(2)

    def to(self, device: torch.device) -> Self:
        """There is nothing to move."""
        return self


def pictures_in(features: Tensor) -> list[Image]:
    """Features [B, H, 3 W] -> one picture in RGB each, of 256 levels as a file has them."""
    from PIL.Image import fromarray

    levels = ((features.unflatten(2, (3, -1)) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [fromarray(lines) for lines in levels.transpose(2, 3).contiguous().cpu().numpy()]
