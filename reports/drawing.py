"""How figures look: colour-blind-safe marks, quiet axes, and SVG whose bytes depend on the data alone."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.collect import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Ink, rules and paper; the page swaps them for its own so that one SVG serves light and dark.
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
    "font.family": "DejaVu Sans",
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


@dataclass(frozen=True)
class Mark:
    """How one arm is drawn, everywhere."""

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
    """One finished picture: a file of its own and a part of the page."""

    name: str
    title: str
    alt: str
    svg: str
    png: bytes


def themed(colour: str) -> str:
    """The CSS expression that stands for one of the figures' colours on the page."""
    return f"var({_VARIABLES[colour]})"


def marks(arms: Sequence[Arm]) -> dict[str, Mark]:
    """A mark for every arm: colour and marker change together, so that neither is needed to tell arms apart."""
    trained = [arm.name for arm in arms if not arm.untouched]
    shapes, dashes = list(MARKERS), ("-", "--", ":", "-.")
    found = {arm.name: Mark(UNTOUCHED, "X", ":") for arm in arms if arm.untouched}
    for i, name in enumerate(trained):
        turn, colour = divmod(i, len(PALETTE))
        found[name] = Mark(PALETTE[colour], shapes[(colour + turn) % len(shapes)], dashes[turn % len(dashes)])
    return found


@contextmanager
def canvas(width: float = 4.3, height: float = 3.0, left: float = 0.78) -> Iterator[tuple[Figure, Axes]]:
    """A figure of ``width`` x ``height`` inches in the house style, without pyplot and its global state.

    Margins are fixed, ``left`` inches beside the axes: panels line up with each other, and layout engines, which draw
    every figure three times over, are not needed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height))
        below, right, above = 0.46, 0.2, 0.1
        box = (left / width, below / height, (width - left - right) / width, (height - below - above) / height)
        yield figure, figure.add_axes(box)


def finish(figure: Figure, axes: Axes, name: str, title: str, alt: str, *, legend: bool = True) -> Panel:
    """Render a figure once as SVG and once as PNG; call inside :func:`canvas`.

    Args:
        figure: the figure.
        axes: its axes, for the legend.
        name: file name without suffix, where slashes of a metric's name become underscores; also the salt of the SVG's
            ids, so that pages can hold many.
        title: shown above the panel on the page.
        alt: what there is to see, for those who cannot.
        legend: draw a key of the labelled artists; files carry it, pages hide it in favour of a common one.
    """
    import matplotlib

    name = name.replace("/", "_")
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=7).set_gid("legend")
    vector, bitmap = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(vector, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.savefig(bitmap, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return Panel(name, title, alt, vector.getvalue(), bitmap.getvalue())


def inline(panel: Panel) -> str:
    """The panel's SVG as a part of an HTML page: themed by the page's variables, free of ids that would clash."""
    from markupsafe import escape

    body = panel.svg[panel.svg.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace('id="legend"', 'class="legend"')
    body = re.sub(r' id="[a-zA-Z][\w.]*?_\d+"', "", body)
    body = re.sub(r"(<svg[^>]*?) width=\"[\d.]+pt\" height=\"[\d.]+pt\"|", r"\1", body, count=1)
    for colour in _VARIABLES:
        body = body.replace(colour, themed(colour))
    return body.replace("<svg ", f'<svg role="img" aria-label="{escape(panel.alt)}" ', 1)
