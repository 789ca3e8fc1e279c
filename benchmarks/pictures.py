"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def read_picture(path: Path, size: int) -> Floats:
    """The picture [3, size, size] in [-1, 1] of a file.

    Raises:
        OSError: no such file, or no picture.
        ValueError: it has another size.
    """
    with Image.open(path) as image:
        if image.size != (size, size):
            width, height = image.size
            raise ValueError(f"{path}: expected a picture of {size} x {size} pixels, got {width} x {height}")
        pixels = np.asarray(image.convert("RGB"))
    picture: Floats = pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    return picture


def write_picture(path: Path, picture: Floats) -> None:
    """Write a picture [3, H, W] in [-1, 1] (clipped), in the bytes that a run's samples have."""
    import torch

    from unigrpo.training.report_files import save_png

    save_png(path, torch.from_numpy(picture))
