"""The style of all figures: colour-blind-safe marks, plain axes, and SVG whose bytes depend on the data alone."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reports import fonts
from reports.fonts import FONT
from reports.records import Arm
from reports.text import file_name, printable, shorten, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Text, grid lines and background; pages replace them by variables, so that one SVG fits light and dark.
INK, RULE, PAPER = "#1b1f24", "#d5d9df", "#fefefe"

#: Okabe and Ito's colour-blind-safe palette without its yellow, which is too faint for lines.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
UNTOUCHED = "#7b8088"

#: Markers by arm, with the path that draws each in a 10 x 10 key.
MARKERS = {
    "o": "M5 1.6a3.4 3.4 0 1 1 0 6.8a3.4 3.4 0 1 1 0-6.8z",
    "s": "M2 2h6v6h-6z",
    "^": "M5 1.4l4 7.2h-8z",
    "D": "M5 .8l4.2 4.2l-4.2 4.2l-4.2-4.2z",
    "v": "M5 8.6l4-7.2h-8z",
    "P": "M3.7 1h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
}
CROSS = "M2.2 1l2.8 2.8l2.8-2.8l1.2 1.2l-2.8 2.8l2.8 2.8l-1.2 1.2l-2.8-2.8l-2.8 2.8l-1.2-1.2l2.8-2.8l-2.8-2.8z"

#: Colour of a figure -> variable of the page's style sheet.
_VARIABLES = {colour: f"--c{i}" for i, colour in enumerate(PALETTE)} | {
    UNTOUCHED: "--untouched",
    INK: "--ink",
    RULE: "--rule",
    PAPER: "--paper",
}

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "font.family": FONT,
    "text.parse_math": False,  # names are words, and may have dollars
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "path.simplify": True,
}


#: Most characters of a name in a legend, and of an axis label; longer ones lose their middle.
_KEY, _LABEL = 40, 44


#: How a note above the axes, on the right, is set.
ABOVE: Mapping[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "bottom", "fontsize": 6}


@dataclass(frozen=True)
class Mark:
    """Colour, marker and line style of an arm, the same in all figures."""

    colour: str
    marker: str
    dashes: str

    @property
    def variable(self) -> str:
        """The page's name for the colour."""
        return themed(self.colour)

    @property
    def key_path(self) -> str:
        """Path of the marker for the page's key."""
        return MARKERS.get(self.marker, CROSS)


@dataclass(frozen=True)
class Panel:
    """A finished figure; it becomes a file and a part of the page."""

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    fault: str = ""
    """Why it could not be drawn; ``svg`` and ``png`` are empty then."""
    missing: frozenset[str] = frozenset()
    """Characters that no font on this machine has; the PNG shows boxes for them."""


def themed(colour: str) -> str:
    """The CSS expression that stands for one of the figures' colours on the page."""
    return f"var({_VARIABLES[colour]})"


def marks(arms: Sequence[Arm]) -> dict[str, Mark]:
    """A mark for every arm. Neighbours differ in colour and in marker, so that either is enough to tell them apart."""
    found = {arm.name: Mark(UNTOUCHED, "X", ":") for arm in arms if arm.untouched}
    return found | marks_of(arm.name for arm in arms if not arm.untouched)


def marks_of(names: Iterable[str]) -> dict[str, Mark]:
    """A mark for every one of ``names``, as :func:`marks` has them for arms."""
    shapes, dashes, found = list(MARKERS), ("-", "--", ":", "-."), {}
    for i, name in enumerate(names):
        turn, colour = divmod(i, len(PALETTE))
        found[name] = Mark(PALETTE[colour], shapes[(colour + turn) % len(shapes)], dashes[turn % len(dashes)])
    return found


def spread_out(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least ``gap`` apart, in the order of ``wanted`` and as near to it as can be (least squares)."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Less the room that those below take, places may not descend: pool neighbours that do.
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [fmean(block) for block in blocks for _ in block]
    places = dict(zip(order, (value + rank * gap for rank, value in enumerate(level)), strict=True))
    return [places[i] for i in range(len(wanted))]


class Sheet:
    """A figure that :func:`sheet` is drawing; ``panel`` is the result, None if nothing was drawn."""

    def __init__(self, name: str, title: str, figure: Figure, axes: Axes) -> None:
        self.name = name
        self.title = title
        self.figure = figure
        self.axes = axes
        self.panel: Panel | None = None

    @property
    def panels(self) -> Iterator[Panel]:
        """The panel, if there is one."""
        if self.panel is not None:
            yield self.panel

    def finish(self, alt: str, *, legend: bool = True) -> None:
        """Render the figure once as SVG and once as PNG.

        Args:
            alt: what the figure shows, for screen readers.
            legend: draw a legend of all that is :func:`labelled`. It is shown in the files; pages hide it, as they
                have one legend for all figures of a section.
        """
        import matplotlib

        for label in (self.axes.xaxis.label, self.axes.yaxis.label):
            label.set_text(shorten(label.get_text(), _LABEL))
        if legend:
            self._key()
        missing = _fit_text(self.figure)
        with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": ascii(self.name)}):
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page says so, once
            svg, png = _vector(self.figure), _bitmap(self.figure)
        self.panel = Panel(file_name(self.name), self.title, alt, svg, png, missing=missing)

    def _key(self) -> None:
        handles, labels = self.axes.get_legend_handles_labels()
        if handles:
            key = self.axes.legend(handles, labels, loc="best", fontsize=7)
            key.set_gid("legend")
            for text, label in zip(key.get_texts(), shortened([label[1:] for label in labels], _KEY), strict=True):
                text.set_text(label)


@contextmanager
def sheet(
    name: str,
    title: str,
    width: float = 4.3,
    height: float = 3.0,
    left: float = 0.78,
    right: float = 0.2,
    below: float = 0.46,
) -> Iterator[Sheet]:
    """A figure of ``width`` x ``height`` inches in the style of all reports, without pyplot and its global state.

    Margins are fixed, so that panels line up; layout engines would draw every figure three times.  matplotlib's
    settings outside of this function have no effect.  An error while drawing becomes the panel's ``fault``.

    Args:
        name: of the file; also the salt of the SVG's ids, so that ids of several figures on a page differ.
        title: shown above the panel on the page.
        width: of the figure, inches.
        height: of the figure, inches.
        left: margin beside the axes, inches.
        right: margin on their other side, inches.
        below: margin under the axes, inches.
    """
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    defaults = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if key != "backend"}
    with matplotlib.rc_context(defaults | _RC):
        figure = Figure(figsize=(width, height))
        above = 0.1
        box = (left / width, below / height, (width - left - right) / width, (height - below - above) / height)
        drawn = Sheet(name, title, figure, figure.add_axes(box))
        try:
            yield drawn
        except Exception as error:  # from matplotlib, its fonts or odd numbers
            drawn.panel = failed(name, title, error)


def _vector(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _bitmap(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def failed(name: str, title: str, error: Exception) -> Panel:
    """The panel in place of a figure that cannot be drawn."""
    return Panel(file_name(name), title, "", "", b"", fault=f"{type(error).__name__}: {error}")


def _matplotlib() -> ModuleType:
    """matplotlib, imported without the environment's backend and settings: wrong ones would make the import fail."""
    names = ("MPLBACKEND", "MATPLOTLIBRC")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        import matplotlib
    finally:
        os.environ |= kept
    return matplotlib


def labelled(name: str) -> str:
    """The ``label=`` for ``name``, with a space in front: matplotlib hides labels that are empty or begin with "_"."""
    return f" {name}"


def _fit_text(figure: Figure) -> frozenset[str]:
    """Make all text of ``figure`` printable and choose fonts that have its glyphs; returns characters that none has."""
    from matplotlib.text import Text

    missing: frozenset[str] = frozenset()
    for text in (found for found in figure.findobj(Text) if isinstance(found, Text)):
        words = printable(text.get_text())
        families, lacking = fonts.fallback(frozenset(words))
        missing |= lacking
        text.set_text(words)
        if families:
            text.set_fontfamily([FONT, *families])
    return missing


def inline(panel: Panel) -> str:
    """The panel's SVG for an HTML page: with the page's colours, and without ids that would clash."""
    from markupsafe import escape

    body = panel.svg[panel.svg.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda tag: _themed_tag(tag[0]), body)  # never the text between tags
    body = re.sub(r"(<svg[^>]*?) width=\"[\d.]+pt\" height=\"[\d.]+pt\"|", r"\1", body, count=1)
    return body.replace("<svg ", f'<svg role="img" aria-label="{escape(printable(panel.alt))}" ', 1)


def _themed_tag(tag: str) -> str:
    tag = tag.replace('id="legend"', 'class="legend"')
    tag = re.sub(r' id="[a-zA-Z][\w.]*?_\d+"', "", tag)
    return re.sub(r"#[0-9a-f]{6}", lambda colour: themed(colour[0]) if colour[0] in _VARIABLES else colour[0], tag)
