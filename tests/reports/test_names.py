"""Names of arms are words: whatever is in them, they stand as they are in every figure and page."""

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import reports
from reports.__main__ import main
from reports.collect import BrokenSweepError, read
from reports.drawing import labelled, sheet
from reports.fonts import fallback
from reports.text import names, shorten
from tests.reports.pages import Page
from tests.reports.synthetic import write_sweep

ODD = (
    "_plain",
    "_nolegend_",
    "KL $$",
    r"$\bm{v}$ 100% %s \frac \$",
    "two\nlines nul\x00 \u202egnol",
    "",
    "long " + "x" * 300,
    "<script>alert('boo')</script> & \"quoted\" {{ 7 * 7 }}{% raw %}",
    "日本 🙂 \ud800 \U0010fffd",
    "=cmd|' /C calc'!A0 **b** `c` [l](u) ../x",
    ' id="line2d_1" #0072b2 id="legend"',
)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    arms = {
        name: ({"name": "velocity_mse", "weight": 0.01 * i}, 0.4 + 0.02 * i, 0.5, 0.01) for i, name in enumerate(ODD)
    }
    folder = write_sweep(tmp_path_factory.mktemp("odd"), arms=arms, seeds=[0], updates=2)
    reports.write(folder)
    return folder


@pytest.fixture(scope="module")
def shown():
    return list(names(ODD).values())


def words(path: Path) -> list[str]:
    """The texts of an SVG file, which is well-formed."""
    return [element.text or "" for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_every_name_has_its_key_in_the_figures(odd, shown):
    found = words(odd / "report" / "figures" / "train_reward.svg")
    assert [text for text in found if text in {shorten(name, 40) for name in shown}] == [
        shorten(name, 40) for name in shown
    ]


def test_every_comparison_is_labelled_with_its_names(odd, shown):
    labels = {text for text in words(odd / "report" / "figures" / "forest_baseline.svg") if " − " in text}
    assert labels == {f"{shorten(name, 26)} − _plain" for name in shown[1:]}


def test_no_figure_is_lost(odd):
    summary = json.loads((odd / "report" / "summary.json").read_text())
    assert not any("could not be drawn" in warning for warning in summary["warnings"])
    for path in (odd / "report" / "figures").glob("*.svg"):
        words(path)


def test_the_page_shows_every_name_and_takes_none_for_markup(odd, shown):
    found = Page((odd / "report" / "report.html").read_text(encoding="utf-8"))
    assert found.faults == []
    assert len(found.ids) == len(set(found.ids))
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    text = set(found.text)
    for name in shown:
        assert name in text
    assert "49" not in text
    for whole in (' id="line2d_1" #0072b2 id="legend" − _plain', "_nolegend_ − _plain"):
        assert whole in text  # in the tables and, untouched by the page's colours, in the figures


def test_colours_of_the_page_never_reach_into_a_name(odd):
    html = (odd / "report" / "report.html").read_text(encoding="utf-8")
    assert "#0072b2 id=" in html
    assert "var(--c0) id=" not in html


def test_no_file_holds_what_cannot_be_seen(odd):
    for path in (path for path in (odd / "report").glob("*.*") if path.suffix != ".parquet"):
        unseen = [c for c in path.read_text(encoding="utf-8") if c != "\n" and not c.isprintable()]
        assert set(unseen) <= {"\u2009", "\u00a0", "\u200d", "\U0010fffd"}, path


def test_tables_for_other_programs_keep_their_shape(odd, shown):
    with (odd / "report" / "cells.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not any(field.startswith(("=", "@")) for row in rows for field in row)
    lines = [line for line in (odd / "report" / "report.md").read_text().splitlines() if line.startswith("| ")]
    columns = {line.count("|") - line.count("\\|") for line in lines if "strict" in line or line.startswith("| | ")}
    assert columns == {len(ODD) + 3}


def test_glyphs_that_no_font_has_are_said_once(odd):
    (warning,) = [w for w in json.loads((odd / "report" / "summary.json").read_text())["warnings"] if "font" in w]
    assert "\U0010fffd" in warning
    assert "\\ud800" not in warning


def test_another_font_of_the_machine_has_what_ours_lacks():
    families, missing = fallback(frozenset("a \u200d\u20e4\U0010fffd"))  # STIX, which comes with matplotlib, has one
    assert families
    assert missing == {"\U0010fffd"}
    assert fallback(frozenset("aÄβ→−…")) == ((), frozenset())


def test_two_arms_of_one_name_are_refused(tmp_path):
    folder = write_sweep(tmp_path, seeds=[0], updates=1)
    plan = json.loads((folder / "sweep.json").read_text())
    plan["arms"].append(plan["arms"][2])
    (folder / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(BrokenSweepError, match="'latent_kl' is there twice"):
        read(folder)


@pytest.fixture
def small(tmp_path):
    return write_sweep(tmp_path, seeds=[0, 1], updates=2)


def test_a_figure_that_fails_leaves_a_note_and_the_page(small, monkeypatch, capsys, caplog, undrawn):
    import matplotlib.axes

    def refuse(*_, **__):
        raise ValueError("no <b>bars</b> today")

    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", refuse)
    assert main([str(small)]) == 1
    output = capsys.readouterr()
    assert output.out.strip().endswith("report.html")
    assert "ValueError: no <b>bars</b> today" in output.err
    html = (small / "report" / "report.html").read_text()
    assert "Could not be drawn: ValueError: no &lt;b&gt;bars&lt;/b&gt; today" in html
    assert Page(html).faults == []
    summary = json.loads((small / "report" / "summary.json").read_text())
    assert any("figures could not be drawn: Strict, by task, Image ratio" in warning for warning in summary["warnings"])
    assert (small / "report" / "figures" / "grad_text.svg").exists()  # of the same section, after it
    assert "could not be drawn (ValueError" in (small / "report" / "report.md").read_text()
    reports.write(small)
    assert "could not be drawn: Strict, by task" in caplog.text


def test_data_that_no_figure_can_be_made_of_cost_their_section_alone(small, monkeypatch, undrawn):
    monkeypatch.setattr("reports.curves.in_training", lambda _: 1 / 0)
    html = reports.write(small).read_text()
    assert "Could not be drawn: ZeroDivisionError" in html
    assert "Gradient norm, text" in html


def test_metrics_whose_names_make_one_file_are_both_kept(small, undrawn):
    for path in (small.parents[1] / "cells").glob("*/metrics.jsonl"):
        odd = {f"train/reward/{name}": 0.5 for name in ("a/b", "a_b", "A_b", "../../../evil", "nul\0", "y" * 300)}
        path.write_text("".join(json.dumps({"step": step} | odd) + "\n" for step in range(3)))
    reports.write(small)
    figures = {path.name for path in (small / "report" / "figures").glob("train_reward_*.svg")}
    assert len(figures) == 6
    assert len({name.casefold() for name in figures}) == 6


def test_a_name_is_no_formula():
    with sheet("name", "title") as drawn:
        drawn.axes.plot([0, 1], [1, 2], label=labelled("a $b$"))
        drawn.finish("alt")
    assert ">a $b$<" in drawn.panel.svg


DRAW = """
import sys
from reports.drawing import labelled, sheet
with sheet("name", "title") as drawn:
    drawn.axes.plot([0, 1], [1, 2], label=labelled("_a $b$"))
    drawn.axes.set(xlabel="x", ylabel="y")
    drawn.finish("alt")
sys.stdout.buffer.write(drawn.panel.svg.encode() + drawn.panel.png)
"""


def test_no_setting_outside_changes_a_figure(tmp_path):
    rc = "text.usetex: True\nfigure.facecolor: red\nsvg.fonttype: path\nsavefig.bbox: tight\nlines.linewidth: 9\n"
    (tmp_path / "matplotlibrc").write_text(rc)
    usual = os.environ | {"PYTHONPATH": str(Path(reports.__file__).parents[1])}
    odd = usual | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "nonsense"}
    one, other = (
        subprocess.run([sys.executable, "-c", DRAW], cwd=cwd, env=env, capture_output=True, check=True).stdout
        for cwd, env in ((Path(__file__).parent, usual), (tmp_path, odd))
    )
    assert b"_a $b$" in one
    assert one == other
