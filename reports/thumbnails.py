"""Pictures of a page: small ones as they are, larger ones made smaller."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache

#: Pixels of the longer side of a picture on a page.
_SIDE = 256
#: Up to this many pixels a picture is shown larger than it is, with its pixels.
_COARSE = 96

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Thumbnail:
    """A picture as the page has it."""

    uri: str
    """A ``data:`` address, which keeps the page in one file."""
    coarse: bool
    """Whether it has so few pixels that they are to be seen."""


@lru_cache(maxsize=4096)
def thumbnail(png: bytes) -> Thumbnail:
    """The bytes of a PNG file as the page shows them; a picture of more than 256 pixels becomes WebP of 256."""
    side = _longer_side(png)
    if side > _SIDE and (smaller := _shrunk(png)):
        return Thumbnail(_uri("webp", smaller), coarse=False)
    return Thumbnail(_uri("png", png), coarse=side <= _COARSE)


def _longer_side(png: bytes) -> int:
    """0 for what is no PNG file, which browsers show as broken."""
    if not png.startswith(_SIGNATURE):
        return 0
    return max(int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"))


def _shrunk(png: bytes) -> bytes:
    from PIL import Image

    smaller = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png)) as picture:
            shown = picture.convert("RGB")
            shown.thumbnail((_SIDE, _SIDE))
            shown.save(smaller, "webp", quality=80, method=6)
    except (OSError, ValueError, Image.DecompressionBombError):
        return b""
    return smaller.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
