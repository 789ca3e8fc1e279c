"""The proxy's classifier: shape and colour of whatever is in one quadrant of an image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unigrpo.worlds.shapes.grammar import COLOURS, PICTURE, QUADRANT, SHAPES

WEIGHTS = Path(__file__).with_name("proxy.safetensors")


class Classifier(nn.Module):
    """Three strided convolutions and a linear layer, 6.7k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * (QUADRANT // 8) ** 2, len(SHAPES) + 1 + len(COLOURS)),
        )

    def forward(self, quadrants: Tensor) -> tuple[Tensor, Tensor]:
        """Quadrants [B, 3, 16, 16] -> logits of the shapes and of none [B, 6], and of the colours [B, 6]."""
        shapes, colours = self.features(quadrants).split((len(SHAPES) + 1, len(COLOURS)), 1)
        return shapes, colours


@lru_cache(maxsize=2)
def _shipped(device: torch.device) -> Classifier:
    classifier = Classifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.requires_grad_(False).eval().to(device)


@torch.no_grad()
def classify(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities in each place of images [B, 3, 32, 32]: shapes and none [B, 4, 6], colours [B, 4, 6]; fp32.

    Raises:
        ValueError: another shape.
    """
    if pictures.shape[1:] != (3, PICTURE, PICTURE):
        raise ValueError(f"pictures: expected [B, 3, {PICTURE}, {PICTURE}], got {list(pictures.shape)}")
    parts = pictures.float().unflatten(2, (2, QUADRANT)).unflatten(4, (2, QUADRANT))
    parts = parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, QUADRANT, QUADRANT)
    shapes, colours = _shipped(pictures.device)(parts)
    return shapes.softmax(1).unflatten(0, (-1, 4)), colours.softmax(1).unflatten(0, (-1, 4))
