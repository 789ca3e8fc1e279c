"""Pictures as files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Floats = NDArray[np.float32]

#: Modes whose way to RGB is exact; of those with transparency every pixel must be opaque.
_MODES = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")
_PNG_BIT_DEPTH = 24
"""Place of a PNG's bits per channel in its file: the header is always the first chunk."""


def read_picture(path: Path, size: int) -> Floats:
    """The picture [3, size, size] in [-1, 1] of a file, turned as its EXIF data say.

    Whatever would have to be guessed is refused: transparency, more than 8 bits per channel, inks, several frames, a
    format other than the one in the name, and bytes that do not fit the checksums of a PNG.

    Raises:
        OSError: no such file, or it may not be read.
        ValueError: it is no whole picture, of another size, or one of those refused; the file is named.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a picture, got what is no file")
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked before decoding
            pixels = _pixels(content, path.suffix.lower(), size)
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:  # its message names the buffer
        raise ValueError(f"{path}: expected a picture, got {len(content)} bytes of something else") from error
    except Exception as error:  # damage makes decoders raise nearly anything, SyntaxError and struct.error too
        raise ValueError(f"{path}: expected a whole picture, got a damaged one ({error})") from error
    picture: Floats = pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    return picture


class _RefusedError(Exception):
    """A picture that can be read, but not in one way."""


def _pixels(content: bytes, suffix: str, size: int) -> NDArray[np.uint8]:
    """The pixels [size, size, 3] of a picture's file."""
    with Image.open(io.BytesIO(content)) as image:
        if image.size != (size, size):
            width, height = image.size
            raise _RefusedError(f"expected a picture of {size} x {size} pixels, got {width} x {height}")
        named = Image.registered_extensions().get(suffix)
        if named is not None and image.format != named:
            raise _RefusedError(f"expected a picture in the format of its name, {named}, got {image.format}")
        if getattr(image, "n_frames", 1) > 1:
            raise _RefusedError(f"expected one frame, got {image.n_frames}")  # type: ignore[attr-defined]
        deep = image.format == "PNG" and content[_PNG_BIT_DEPTH] > 8
        if image.mode not in _MODES or deep:
            raise _RefusedError(
                f"expected 8 bits per channel of grey, palette or RGB, got mode {image.mode}{' of 16 bits' * deep}"
            )
    with Image.open(io.BytesIO(content)) as image:
        image.verify()  # checks a PNG's checksums, which decoding does not; nothing can be read after it
    with Image.open(io.BytesIO(content)) as image:
        turned = ImageOps.exif_transpose(image)
        if "A" in turned.getbands() or "transparency" in turned.info:
            lowest = int(np.asarray(turned.convert("RGBA"))[..., 3].min())
            if lowest < 255:
                raise _RefusedError(f"expected an opaque picture, got one with alpha down to {lowest}")
        return np.asarray(turned.convert("RGB"))


def write_picture(path: Path, picture: Floats) -> None:
    """Write a picture [3, H, W] in [-1, 1] (clipped), in the bytes that a run's samples have."""
    import torch

    from unigrpo.training.report_files import save_png

    save_png(path, torch.from_numpy(picture))
