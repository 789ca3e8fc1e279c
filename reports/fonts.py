"""Finds installed fonts for glyphs that the figures' own font lacks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

#: The font of all figures; it comes with matplotlib.
FONT = "DejaVu Sans"

#: Characters without a glyph of their own: joiners, and variation selectors.
_WITHOUT_GLYPH = frozenset("\u200c\u200d") | frozenset(map(chr, range(0xFE00, 0xFE10)))


def fallback(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Font families for those of ``characters`` that :data:`FONT` lacks, and the characters that no font has."""
    own = _own()
    wanted = frozenset(c for c in characters if not (c.isspace() or c in _WITHOUT_GLYPH or own.get_char_index(ord(c))))
    return _search(wanted) if wanted else ((), wanted)


@cache
def _own() -> FT2Font:
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont(FONT))


@cache
def _search(wanted: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    families: list[str] = []
    for name, path in _installed():
        if not wanted:
            break
        found = frozenset(c for c in wanted if _has(path, c))
        if found:
            families.append(name)
            wanted -= found
    return tuple(families), wanted


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """(family, file) of the installed upright fonts of regular weight, sans-serif ones first."""
    from matplotlib.font_manager import fontManager

    found = {
        font.name: font.fname
        for font in sorted(fontManager.ttflist, key=lambda font: str(font.fname), reverse=True)
        # "Last Resort" has a box for every character.
        if font.style == "normal" and font.weight in (400, "normal", "regular") and "Last Resort" not in font.name
    }
    return tuple(sorted(found.items(), key=lambda item: ("Sans" not in item[0], item)))


def _has(path: str, character: str) -> bool:
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
        return bool(font.scalable and font.get_char_index(ord(character)))
    except (OSError, RuntimeError, ValueError):  # removed since it was listed, or of a format that cannot be drawn
        return False
