"""The written forms of a report: HTML, Markdown, LaTeX, CSV, JSON and figure files."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports import blocks, curves, declaration, export, figures, ladder, noise, simulated, tables
from reports.analysis import analyse, drawn
from reports.collect import read
from reports.controls import floor_of, strength
from reports.drawing import Mark, Panel, failed, inline, marks
from reports.findings import Analysis
from reports.history import add_look
from reports.leading import leading
from reports.metrics import capitalize_first, number, p_value
from reports.penalties import profiles
from reports.records import Sweep
from reports.samples import filters, sample_grid
from reports.text import distinct, markdown, one_line, printable, shorten, tex
from reports.thumbnails import thumbnail
from reports.tuning import expected_best, tried
from reports.verdict import span

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"

_CORRECTIONS = {"bonferroni": "Bonferroni", "bh": "Benjamini-Hochberg", "none": "uncorrected"}

#: Name of a test -> what it is called on the page.
_TESTS = {
    "sign_flip": "exact two-sided sign-flip tests of the paired differences",
    "paired_t": "two-sided paired t tests",
    "unpaired": "exact two-sided permutation tests of unpaired arms",
}

#: Tables of more comparisons than this are folded.
_UNFOLDED = 12

#: Id of a section -> its title in the contents.
_SECTIONS = {
    "scores": "Scores",
    "differences": "Differences",
    "factors": "Factors",
    "parts": "Parts",
    "turns": "Turns",
    "learning": "Learning",
    "hacking": "Reward against judge",
    "drift": "Drift",
    "penalties": "Penalties",
    "diagnostics": "Diagnostics",
    "tuning": "Tuning",
    "samples": "Samples",
    "cost": "Cost",
    "failures": "Failures",
    "methods": "Methods",
    "reproduce": "Reproduce",
}

#: Names of more characters than these may be broken, or lose their middle; CSV and JSON have them whole.
_NAME, _LONGEST = 24, 400

#: Most characters that the warning about missing glyphs lists.
_MISSING = 40

#: States of a cell that the section on failures lists.
_TROUBLE = ("failed", "broken", "excluded")


@dataclass(frozen=True)
class Written:
    """A report on disk."""

    page: Path
    """Its ``report.html``."""
    faults: tuple[str, ...]
    """Figures that could not be drawn, each with its error; the pages have a note in their place."""
    notes: tuple[str, ...] = ()
    """What else is not there, and why."""


def write_report(folder: Path) -> Written:
    """Read the sweep in ``folder`` and write ``folder/report``; an older report is replaced only by a whole new one.

    Raises:
        BrokenSweepError: the sweep cannot be read.
    """
    analysis = analyse(read(folder))
    sections = _panels(drawn(analysis))
    panels = [panel for found in sections.values() for panel in found]
    faults = tuple(f"{panel.title}: {panel.fault}" for panel in panels if panel.fault)
    analysis = replace(analysis, warnings=(*analysis.warnings, *_figure_warnings(panels)))
    files = render(analysis, sections) | export.tables(analysis.sweep)
    for panel in (panel for panel in panels if not panel.fault):
        files[f"figures/{panel.name}.svg"] = panel.svg.encode()
        files[f"figures/{panel.name}.png"] = panel.png
    target, fresh = folder / "report", Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    try:
        fresh.chmod(0o755)
        (fresh / "figures").mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        add_look(folder, analysis.sweep)  # before anybody can read it
        if target.exists():
            shutil.rmtree(target)
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Written(target / "report.html", faults, () if export.has_parquet() else (export.WITHOUT_PYARROW,))


def _figure_warnings(panels: Sequence[Panel]) -> Iterator[str]:
    failures = [panel.title for panel in panels if panel.fault]
    if failures:
        yield f"{len(failures)} of {len(panels)} figures could not be drawn: {', '.join(failures)}."
    missing = "".join(sorted(frozenset().union(*(panel.missing for panel in panels))))
    if missing:
        named = missing[:_MISSING] + ("…" if len(missing) > _MISSING else "")
        yield (
            f"No font on this machine has {named}: PNG figures show boxes in their place; this page and the SVG figures"
            " are shown with the fonts of their reader."
        )


def render(analysis: Analysis, sections: Mapping[str, Sequence[Panel]]) -> dict[str, bytes]:
    """File name -> content of the pages and the summary."""
    context = _context(analysis, sections)
    return {
        "report.html": _template("report.html.j2", escape=True).render(context).encode(),
        "report.md": _template("report.md.j2", escape=False).render(context).encode(),
        "table.tex": _template("table.tex.j2", escape=False).render(context).encode(),
        "summary.json": tables.summary_json(analysis).encode(),
    }


def _panels(analysis: Analysis) -> dict[str, tuple[Panel, ...]]:
    """Section -> its figures, with the names of their files."""
    sweep = analysis.sweep
    sections = {
        "differences": figures.forests(analysis),
        "factors": figures.factors(sweep),
        "parts": figures.parts(analysis),
        "turns": curves.turns(sweep),
        "learning": curves.learning(sweep),
        "hacking": curves.hacking(sweep),
        "drift": figures.drift(analysis),
        "penalties": figures.penalties(sweep),
        "diagnostics": curves.diagnostics(sweep),
    }
    found = {section: list(_as_far_as_possible(section, panels)) for section, panels in sections.items()}
    names = distinct(panel.name for panels in found.values() for panel in panels)
    return {section: tuple(replace(panel, name=next(names)) for panel in panels) for section, panels in found.items()}


def _as_far_as_possible(section: str, panels: Iterator[Panel]) -> Iterator[Panel]:
    """The figures of a section. If preparing one fails, the rest of the section is replaced by a note."""
    try:
        yield from panels
    except Exception as error:
        yield failed(section, f"Figures of the section {_SECTIONS[section]!r}", error)


def _context(analysis: Analysis, sections: Mapping[str, Sequence[Panel]]) -> dict[str, Any]:
    sweep = analysis.sweep
    shown = leading(sweep)
    key = _key(shown)
    arms, differing = tables.config_differences(shown)
    samples = sample_grid(shown)
    return {
        "analysis": analysis,
        "sweep": sweep,
        "primary": sweep.schema.metric_phrase(sweep.primary),
        "decides": ladder.phrase(sweep),
        "correction_names": _CORRECTIONS,
        "tests": _TESTS[sweep.test],
        "simulated": simulated.of_two_arms(sweep.test, len(sweep.seeds)),
        "marks": key,
        "trained_marks": [(name, mark) for name, mark in key if sweep.arm(name).trained],
        "facts": _facts(analysis),
        "declared": declaration.history(sweep),
        "evaluated": sweep.evaluated.in_words + (f" ({tags})" if (tags := sweep.evaluated.tags_in_words) else ""),
        "sections": sections,
        "main": tables.main_table(analysis),
        "full": tables.full_table(analysis),
        "costs": tables.cost_table(analysis),
        "seed_rows": tables.seed_rows(sweep),
        "spread_rows": noise.rows(analysis.spreads),
        "families": [(f, [tables.pair_row(p, f, sweep) for p in f.pairs]) for f in analysis.families],
        "split_rows": [*blocks.rows(sweep.blocks, analysis.splits)],
        "strength": strength(sweep, analysis.matched),
        "exploratory": [tables.pair_row(p, analysis.exploratory, sweep) for p in analysis.exploratory.pairs],
        "factors": tables.factor_table(sweep),
        "noise": floor_of(sweep),
        "forests": _forests(analysis, sections["differences"]),
        "equal_proxy": _equal_proxy_rows(analysis),
        "tuning": _tuning(sweep),
        "samples": samples,
        "failures": [cell for cell in sweep.cells if cell.failure is not None],
        "excluded": [cell for cell in sweep.cells if cell.state == "excluded"],
        "config_arms": arms,
        "config_rows": differing,
        "environment": tables.environment(sweep),
        "published": _published().get(sweep.grid),
        "command": shlex.join(sweep.command),
        "again": shlex.join(["python", "-m", "reports", sweep.name]),
        "fence": "`" * (1 + max([2, *map(len, re.findall("`+", shlex.join(sweep.command)))])),
        "blocks": curves.PATH_BLOCKS,
        "spread": _spread(sweep),
        "contents": _contents(sections, sweep),
        "style": _asset("style.css") + filters(samples),
        "script": _asset("sort.js"),
    }


def _contents(sections: Mapping[str, Sequence[Panel]], sweep: Sweep) -> list[tuple[str, str]]:
    done = any(cell.state == "done" for cell in sweep.cells)
    absent = {name for name, panels in sections.items() if not panels and name != "differences"}
    absent -= {"factors"} if any(arm.factors for arm in sweep.arms) else set()
    absent |= set() if sweep.candidates or sweep.tuning else {"tuning"}
    absent |= set() if done else {"samples", "cost"}
    absent |= set() if sweep.refused or any(c.state in _TROUBLE for c in sweep.cells) else {"failures"}
    return [(name, title) for name, title in _SECTIONS.items() if name not in absent]


def _spread(sweep: Sweep) -> str:
    """How much more latent KL weighs the last step than the first, as a phrase; empty if it has no such weights."""
    kl = next((p for p in profiles(sweep.trained) if p.kind != "velocity_mse" and p.weights.min() > 0), None)
    if kl is None:
        return ""
    ratio = kl.weights[-1] / kl.weights[0]
    return f"here latent KL weighs {ratio:.0f}× as much at t = {kl.times[-1]:.2g} as at t = 1"


def _key(sweep: Sweep) -> list[tuple[str, Mark]]:
    style = marks(sweep.arms)
    return [(arm.name, style[arm.name]) for arm in sweep.arms if arm.done]


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    sweep = analysis.sweep
    failed = sum(cell.state == "failed" for cell in sweep.cells)
    hours = sum(cell.metrics.get("cost/cpu_s", 0.0) for cell in sweep.cells if cell.state == "done") / 3600
    return [
        ("Seeds", str(len(sweep.seeds))),
        ("Cells done", f"{len(sweep.counted)} of {len(sweep.cells)}"),
        ("Failed", str(failed)),
        ("CPU-hours", f"{hours:.2f}"),
        *([("Evaluated on", sweep.evaluated.in_words)] if sweep.evaluated.prompts else []),
        (
            "Primary measure",
            f"{ladder.phrase(sweep)}\u00a0{'↑' if sweep.higher_is_better else '↓'}",
        ),
        ("Baseline", sweep.baseline),
        ("Declared", declaration.short(sweep)),
        ("Kind of machine", next(iter(sweep.kinds), "–") if len(sweep.kinds) < 2 else f"{len(sweep.kinds)} kinds"),
    ]


def _forests(analysis: Analysis, panels: Sequence[Panel]) -> dict[str, Any]:
    """Forest plots by size: small ones are shown, large ones are folded with their table."""
    forest = {panel.name.removeprefix("forest_"): panel for panel in panels}
    large = {family.key for family in analysis.families if len(family.pairs) > _UNFOLDED}
    return {
        "small": [panel for key, panel in forest.items() if key not in large],
        "large": {key: [forest[key]] if key in forest else [] for key in large},
    }


def _equal_proxy_rows(analysis: Analysis) -> list[tuple[str, list[str], str]]:
    """(proxy level, gold by ladder, difference of the first two), formatted."""
    rows = []
    for level in analysis.equal_proxy:
        cells = []
        for name in analysis.ladders:
            gold = level.gold.get(name)
            half = gold.half_width if gold else None
            spread = "" if half is None else f" ±{number(half)}"
            cells.append("–" if gold is None else f"{number(gold.mean)}{spread} (n = {gold.n})")
        difference = ""
        if level.difference is not None:
            difference = f"{number(level.difference.mean, signed=True)} ({span(level.difference, 3)}),"
            difference += f" p {p_value(level.p_adjusted)}, n = {level.difference.n}"
            difference += f"; {level.unreached} seeds do not reach it" if level.unreached else ""
        rows.append((number(level.level), cells, difference))
    return rows


def _tuning(sweep: Sweep) -> dict[str, Any] | None:
    """The settings that were tried for the arms, and the score that the best of 1, 2, ... of them would have."""
    tuning = sweep if sweep.candidates else sweep.tuning
    if tuning is None:
        return None
    rows = tried(tuning, None if sweep.candidates else sweep)
    curves = expected_best(rows, higher_is_better=tuning.higher_is_better)
    return {
        "rows": [(row, number(row.mean), ", ".join(number(score) for score in row.scores)) for row in rows],
        "budget": [(arm, [number(score) for score in scores]) for arm, scores in curves.items()],
        "most": max(map(len, curves.values()), default=0),
        "seeds": tuning.seeds,
    }


def _published() -> dict[str, Any]:
    """Published findings by grid, shown beside ours."""
    published: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return published


def _asset(name: str) -> Markup:
    from markupsafe import Markup

    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _named(name: str) -> str:
    """A name in a table: a long one may be broken anywhere, so that it does not make its column as wide as it is."""
    from markupsafe import Markup

    shown = shorten(printable(name), _LONGEST)
    return Markup('<span class="name">{}</span>').format(shown) if len(shown) > _NAME else shown


def _template(name: str, *, escape: bool) -> Any:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "tex": tex,
        "md": markdown,
        "one_line": one_line,
        "shorten": shorten,
        "named": _named,
        "picture": lambda panel: Markup(inline(panel)),
        "capitalize_first": capitalize_first,
        "thumbnail": lambda picture: thumbnail(picture.png),
        "score": lambda value: f"{value:.3g}".replace("-", "−"),
    }
    return environment.get_template(name)
