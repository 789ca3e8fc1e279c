"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def read_picture(path: Path) -> Floats:
    """The picture [3, H, W] in [-1, 1] of a file.

    Raises:
        OSError: no such file, or no picture.
    """
    with Image.open(path) as image:
        return from_bytes(np.asarray(image.convert("RGB")))


def write_picture(path: Path, picture: Floats) -> None:
    """Write a picture [3, H, W] in [-1, 1] (clipped)."""
    Image.fromarray(to_bytes(picture)).save(path)


def to_bytes(picture: Floats) -> NDArray[np.uint8]:
    """[3, H, W] in [-1, 1] (clipped) -> [H, W, 3] bytes."""
    scaled = (np.clip(picture, -1, 1).transpose(1, 2, 0) + 1) * 127.5
    pixels: NDArray[np.uint8] = scaled.round().astype(np.uint8)
    return pixels


def from_bytes(pixels: NDArray[np.uint8]) -> Floats:
    """[H, W, 3] bytes -> [3, H, W] in [-1, 1]."""
    picture: Floats = pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    return picture
