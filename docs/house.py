"""Draws ``house.svg``: packages as rooms, imports as arrows, as they are in the code.  ``python docs/house.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

HERE = Path(__file__).parent
#: From the top down: a room imports only rooms below it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("ablations",),
    ("benchmarks", "reports"),
    ("worlds",),
    ("training",),
    ("algorithms",),
    ("rewards", "metrics"),
    ("models",),
    ("rollout",),
    ("data", "flow", "objective"),
    ("foundation",),
)
WHAT: Mapping[str, str] = {
    "ablations": "grids, cells, launchers, tracking",
    "reports": "statistics, figures, pages (read files only)",
    "benchmarks": "file formats and scores; speed",
    "worlds": "the plugin: drawn shapes, judge, rewards, metrics",
    "training": "trainer, evaluation, checkpoints, artifacts",
    "algorithms": "policy gradient, AWM, SFT",
    "rewards": "outcome and process rewards",
    "metrics": "what is measured",
    "models": "policies, processors",
    "rollout": "sample and replay; heads, episodes",
    "data": "prompts, datasets",
    "flow": "dynamics, windows, guidance",
    "objective": "ratios, clips, credit, penalties",
    "foundation": "registry, configuration, noise, io, errors",
}
_WIDTH, _HEIGHT, _GAP, _STEP = 250, 50, 26, 92


def room(module: str) -> str:
    """The room of a module; what is no package of its own belongs to the foundation, commands to training."""
    top, *rest = module.split(".")
    if top != "unigrpo":
        return top
    part = {"train": "training", "sft": "training"}.get(rest[0], rest[0]) if rest else ""
    return part if part in WHAT else "foundation"


def arrows() -> set[tuple[str, str]]:
    """(Room, room that it imports from), less what only type checkers import."""
    graph = grimp.build_graph("unigrpo", "ablations", "benchmarks", "reports", exclude_type_checking_imports=True)
    found = set()
    for module in graph.modules - {"unigrpo"}:  # its face opens all rooms
        for other in graph.find_modules_directly_imported_by(module):
            if room(module) != room(other):
                found.add((room(module), room(other)))
    return found


def circles(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that do not lead to a lower floor."""
    floor = {name: k for k, names in enumerate(FLOORS) for name in names}
    return {(one, other) for one, other in found if floor[one] >= floor[other]}


def picture(found: set[tuple[str, str]]) -> str:
    """The drawing; arrows that another way down implies are left out."""
    widest = max(map(len, FLOORS))
    width, height = widest * (_WIDTH + _GAP) + _GAP, len(FLOORS) * _STEP + 20
    places = {}
    for k, names in enumerate(FLOORS):
        start = (width - len(names) * (_WIDTH + _GAP) + _GAP) / 2
        places |= {name: (start + n * (_WIDTH + _GAP), 15 + k * _STEP) for n, name in enumerate(names)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<title>The packages and what they import</title><rect width="{width}" height="{height}" fill="#fff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>',
    ]
    for one, other in sorted(_direct(found)):
        (x, y), (u, v) = places[one], places[other]
        lines.append(
            f'<path d="M{x + _WIDTH / 2:g} {y + _HEIGHT:g} {u + _WIDTH / 2:g} {v - 2:g}" stroke="#667" fill="none"'
            ' stroke-width="1.3" marker-end="url(#tip)"/>'
        )
    for name, (x, y) in places.items():
        lines += [
            f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="7" fill="#eef3fa" stroke="#345"/>',
            f'<text x="{x + 12:g}" y="{y + 21:g}" font-size="15" font-weight="bold" fill="#123">{name}</text>',
            f'<text x="{x + 12:g}" y="{y + 39:g}" font-size="10.5" fill="#345">{escape(WHAT[name])}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _direct(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without arrows that a longer way says already."""
    below: dict[str, set[str]] = {}
    for one, other in found:
        below.setdefault(one, set()).add(other)

    def reach(name: str) -> set[str]:
        return {further for other in below.get(name, ()) for further in ({other} | reach(other))}

    return {
        (one, other)
        for one, other in found
        if not any(other in reach(between) for between in below[one] if between != other)
    }


def text(found: set[tuple[str, str]]) -> str:
    """The arrows in words, floor by floor."""
    names = [name for floor in FLOORS for name in floor]
    return "\n".join(f"{one} -> {', '.join(b for b in names if (one, b) in found)}" for one in names)


if __name__ == "__main__":
    now = arrows()
    if upwards := circles(now):
        raise SystemExit(f"imports that do not lead downwards: {sorted(upwards)}")
    (HERE / "house.svg").write_text(picture(now), encoding="utf-8")
    print(text(now))
