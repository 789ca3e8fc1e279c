"""Pictures as files: what the image library opens is not yet what its author sees.

A picture is read as it is meant to be shown (turned as its EXIF orientation says, 16 bits of grey scaled to [0, 1]),
or not at all: one that is damaged, moves, shines through or has the colours of a printer is refused by name.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Floats = NDArray[np.float32]

#: Formats that hold pixels and start no other program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
#: Modes whose values are grey or RGB of 8 bits, or become so without loss.
_PLAIN = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")


def read_picture(path: Path, size: int) -> Floats:
    """The picture [3, size, size] in [-1, 1] of a file.

    Raises:
        OSError: no such file, or no right to read it.
        ValueError: no picture, a damaged one, one of another size, or one that has no single meaning in RGB.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: expected a file with a picture, got something else of that name")
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r}: expected the name of a file, which holds no null character")
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            # a large picture is told by its size, below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _levels(content, path, size).transpose(2, 0, 1) / np.float32(127.5) - 1
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(_FORMATS)
        raise ValueError(
            f"{path}: expected a picture ({kinds}), got {len(content)} bytes that are damaged or something else"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: expected a picture of {size} x {size} pixels, got a huge one ({error})") from error
    except Exception as error:  # the library's parsers raise whatever they stumble over
        raise ValueError(f"{path}: a damaged picture ({error or type(error).__name__})") from error


class _Refused(ValueError):
    """A picture that is whole, but not what is asked for."""


def _levels(content: bytes, path: Path, size: int) -> Floats:
    """Pixels [size, size, 3] in [0, 255]."""
    with _opened(content) as image:
        _check(image, path, size)
        image.verify()  # the checksums, of which loading looks at none in a PNG's data; it spoils the image
    with _opened(content) as image:
        image.load()
        shown = ImageOps.exif_transpose(image)
        if shown.mode.startswith("I;16"):  # convert("RGB") would cut off what is above 255
            grey = np.asarray(shown).astype(np.float32) / 257  # 65535 / 255
            return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
        if shown.has_transparency_data:
            low, _ = shown.convert("RGBA").getchannel("A").getextrema()
            if low != 255:
                raise _Refused("expected an opaque picture, got a transparent one; paint it on its background")
        return np.asarray(shown.convert("RGB")).astype(np.float32)


def _opened(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content), formats=_FORMATS)


def _check(image: Image.Image, path: Path, size: int) -> None:
    if image.size != (size, size):
        width, height = image.size
        raise _Refused(f"expected a picture of {size} x {size} pixels, got {width} x {height}")
    named = Image.registered_extensions().get(path.suffix.lower())
    if named is not None and named != image.format:  # lost colours, if a PNG was made by renaming a JPEG
        raise _Refused(f"expected {named}, as the name says, got {image.format}")
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise _Refused(f"expected one picture, got {frames} frames")
    if image.mode not in _PLAIN and not image.mode.startswith("I;16"):
        raise _Refused(f"expected grey or RGB of 8 bits or grey of 16, got mode {image.mode}; convert it to RGB")


def write_picture(path: Path, picture: Floats) -> None:
    """Write a picture [3, H, W] in [-1, 1] (clipped), in the bytes that a run's samples have."""
    import torch

    from unigrpo.training.artifacts import save_png

    save_png(path, torch.from_numpy(picture))
