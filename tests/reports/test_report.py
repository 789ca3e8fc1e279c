"""The written report: whole, safe, reproducible, and honest about what is missing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reports
from reports.__main__ import find, main
from tests.reports.pages import Page
from tests.reports.synthetic import ARMS, write_sweep


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def page(folder: Path) -> Page:
    return Page((folder / "report" / "report.html").read_text())


@pytest.fixture(scope="module")
def written(troubled):
    assert reports.write(troubled) == troubled / "report" / "report.html"
    return troubled


def test_all_files_are_written(written):
    names = set(files(written / "report"))
    assert {"report.html", "report.md", "table.tex", "cells.csv", "summary.json"} <= names
    assert {"figures/forest_baseline.svg", "figures/forest_baseline.png", "figures/penalty_shape.svg"} <= names
    assert not list(written.glob(".report-*"))


def test_same_files_in_same_bytes_out(written):
    """In another process, with another hash seed, from another working directory."""
    first = files(written / "report")
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(reports.__file__).parents[1])}
    command = [sys.executable, "-m", "reports", "."]
    subprocess.run(command, cwd=written, env=environment, check=True, capture_output=True)
    assert files(written / "report") == first
    (look,) = (written / "looks.jsonl").read_text().splitlines()  # the same results are looked at once
    assert json.loads(look)["seeds"] == 3  # of six: a cell failed, one is missing, and one is of other prompts


def test_the_card_and_methods_say_what_was_declared(written):
    text = (written / "report" / "report.html").read_text()
    card, _, rest = text.partition("<main>")
    assert "<dt>Declared</dt><dd>before the runs (2026-01-02T03:04:05Z, hash " in card
    assert "2026-01-02T03:04:05Z, declared before any of 19 cells had finished: question Does a velocity-MSE" in rest
    assert "primary geneval/strict (max" in rest
    assert "This page: 3 seeds complete, of 6." in rest
    assert "- Declared: before the runs (" in (written / "report" / "report.md").read_text()
    assert json.loads((written / "report" / "summary.json").read_text())["declared_before"] is True


def test_page_is_well_formed_and_self_contained(written):
    found = page(written)
    assert found.faults == []
    assert len(found.ids) == len(set(found.ids))
    targets = {f"#{name}" for name in found.ids}
    assert found.links
    assert all(link.startswith("data:image/png;base64,") or link in targets for link in found.links)
    assert "@import" not in (written / "report" / "report.html").read_text()
    for used in re.findall(r"url\(([^)]*)\)", (written / "report" / "report.html").read_text()):
        assert used in targets


def test_every_picture_says_what_it_shows(written):
    found = page(written)
    pictures = [values for tag, values in found.tags if tag == "img"]
    assert pictures
    assert all(values["alt"] for values in pictures)
    vectors = [values for tag, values in found.tags if tag == "svg"]
    assert all(values.get("aria-label") or values.get("aria-hidden") for values in vectors)


def test_text_of_prompts_and_errors_is_never_markup(written):
    text = (written / "report" / "report.html").read_text()
    assert "<script>alert" not in text
    assert "<b>not bold" not in text
    assert "a red &lt;script&gt;alert(&#39;boo&#39;)&lt;/script&gt; circle &amp; a blue square" in text
    assert sum(tag == "script" for tag, _ in page(written).tags) == 1  # our own
    assert "<b>" not in (written / "report" / "report.md").read_text()


def test_sections_and_trouble_are_on_the_page(written):
    found = page(written)
    sections = "verdict scores differences learning hacking drift penalties diagnostics samples cost failures methods"
    assert set(sections.split()) <= set(found.ids)
    text = " ".join(found.text)
    assert "NonFiniteLoss: loss/image is nan" in text
    assert "image_ratio=raw: dynamics=ode has no density" in text
    assert "other-prompts" in text
    assert "not testable with n = 4 (smallest possible p = 0.12)" in text
    assert "python -m ablations.sweep grid=kl_vs_mse" in text
    assert "regularizer.weight" in text


def test_main_table_starts_with_the_baseline(written):
    rows = re.findall(r'<tr><th scope="row">([^<]+)<small>([^<]+)', (written / "report" / "report.html").read_text())
    assert rows[:4] == [
        ("none", "n = 6, baseline"),
        ("untouched", "n = 1"),
        ("latent_kl", "n = 4 of 6"),
        ("velocity_mse", "n = 5 of 6"),
    ]


def test_summary_is_for_programs(written):
    summary = json.loads((written / "report" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["schema"] == 2
    assert summary["verdict"]["status"] == "not testable"
    assert summary["arms"]["none"]["metrics"]["geneval/strict"]["n"] == 6
    assert {f["state"] for f in summary["failures"]} == {"failed", "missing", "excluded"}
    pair = summary["comparisons"]["baseline"]["pairs"][0]
    assert set(pair) >= {"arm", "other", "seeds", "p_adjusted", "interval", "crossed"}


def test_latex_table_balances(written):
    text = (written / "report" / "table.tex").read_text()
    assert text.count("{") == text.count("}")
    assert r"velocity\_mse" in text
    lines = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in lines} == {4}


def test_cells_csv_has_every_cell(written):
    lines = (written / "report" / "cells.csv").read_text().splitlines()
    assert lines[0].startswith("arm,seed,cell,state,")
    assert len(lines) == 1 + 1 + 3 * 6


def test_markdown_tables_have_equal_columns(written):
    lines = (written / "report" / "report.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert any("strict" in line for line in rows)
    widths = {line.count("|") - line.count("\\|") for line in rows}
    assert widths == {6, 7, 11}  # four arms; six columns of a spread; ten of a comparison


def test_one_seed_gives_values_without_intervals(tmp_path, undrawn):
    reports.write(folder := write_sweep(tmp_path, seeds=[3], updates=2))
    text = " ".join(page(folder).text)
    assert "not testable with n = 1" in text
    assert "not testable with n = 1" in text
    summary = json.loads((folder / "report" / "summary.json").read_text())
    assert summary["arms"]["none"]["metrics"]["geneval/strict"]["low"] is None


def test_a_sweep_without_a_single_result_still_gives_a_page(tmp_path):
    folder = write_sweep(tmp_path, seeds=[0, 1], updates=2)
    for done in (tmp_path / "cells").glob("*/DONE"):
        done.unlink()
    reports.write(folder)
    found = page(folder)
    assert found.faults == []
    text = " ".join(found.text)
    assert "No arm can be compared with the baseline yet." in text
    assert "7 of 7 cells not run or not finished" in text
    assert "samples" not in found.ids


def test_many_arms_fold_their_pairs(ladder, undrawn):
    reports.write(ladder)
    text = (ladder / "report" / "report.html").read_text()
    assert "<summary>21 comparisons</summary>" in text
    assert "Gold at equal proxy" in text
    assert (ladder / "report" / "figures" / "scatter_heldout_proxy.svg").exists()
    assert Page(text).faults == []


def test_a_significant_arm_is_bold_on_the_primary_measure_only(tmp_path, undrawn):
    arms = {"none": ARMS["none"], "velocity_mse": (*ARMS["velocity_mse"][:1], 0.8, *ARMS["velocity_mse"][2:])}
    reports.write(folder := write_sweep(tmp_path, arms=arms, updates=2))
    text = (folder / "report" / "report.html").read_text()
    row = re.search(r'<th scope="row">velocity_mse<small>n = 6</small></th>.*?</tr>', text, re.DOTALL).group()
    assert row.count("<b>") == 1
    assert re.search(r'<td data-value="0.7\d+"><b>0.7\d\d</b>', row)
    assert r"\textbf{0.7" in (folder / "report" / "table.tex").read_text()


def test_a_failed_report_leaves_the_old_one(tmp_path, monkeypatch, undrawn):
    folder = write_sweep(tmp_path, seeds=[0], updates=2)
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("old")
    (folder / "report" / "figures").mkdir()
    monkeypatch.setattr("reports.pages.os.replace", lambda *_: pytest.fail("replaced"))
    monkeypatch.setattr("reports.tables.summary_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reports.write(folder)
    assert (folder / "report" / "report.html").read_text() == "old"
    assert not list(folder.glob(".report-*"))


def test_importing_reports_is_light():
    code = "import reports, reports.__main__, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"numpy", "scipy", "matplotlib", "jinja2", "torch", "mlflow", "unigrpo", "ablations"}
    assert not heavy & set(loaded)


def test_command_finds_sweeps_by_path_folder_and_grid(tmp_path, monkeypatch, capsys, undrawn):
    monkeypatch.chdir(tmp_path)
    folder = write_sweep(Path("runs"), seeds=[0], updates=2)
    newer = folder.with_name("kl_vs_mse-1badcafe")
    newer.mkdir()
    plan = json.loads((folder / "sweep.json").read_text())
    (newer / "sweep.json").write_text(json.dumps(plan | {"created": "2026-02-02T00:00:00+00:00"}))
    broken = folder.with_name("kl_vs_mse-2badcafe")
    broken.mkdir()
    (broken / "sweep.json").write_text("{")
    assert find(str(folder)) == folder
    assert find("kl_vs_mse-0badcafe") == folder
    assert find("kl_vs_mse") == newer
    assert find("kl") is None
    assert main(["kl"]) == 2
    assert "kl_vs_mse-0badcafe" in capsys.readouterr().err
    assert main(["kl_vs_mse-2badcafe"]) == 1
    assert "cannot be read as JSON" in capsys.readouterr().err
    assert main(["kl_vs_mse-0badcafe"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


@pytest.mark.parametrize(
    ("family", "said", "unsaid"),
    [
        ("stories", ["Mean of the five aspects: ", "Interleaved, 0–5", "mean 2.3", "steps-3"], ["strict overall"]),
        ("edits", ["Editing score O: ", "Editing O by turn", "O 4.", "turn the square green"], ["strict overall"]),
        ("reflections", ["wrong repaired", "see red circle fine", "✓ pass"], ["five aspects", "Editing"]),
    ],
)
def test_families_of_episodes_have_their_pages(family, said, unsaid, request, undrawn):
    reports.write(folder := request.getfixturevalue(family))
    found = page(folder)
    assert found.faults == []
    assert len(found.ids) == len(set(found.ids))
    text = " ".join(found.text)
    for words in said:
        assert words in text
    for words in unsaid:
        assert words not in text
    assert "<script>alert('boo')</script>" in text  # as words of an episode ...
    assert sum(tag == "script" for tag, _ in found.tags) == 1  # ... never as markup
    summary = json.loads((folder / "report" / "summary.json").read_text())
    assert summary["comparisons"]["baseline"]["pairs"][0]["crossed"] is not None


def test_given_pieces_are_marked_and_stand_once(edits, undrawn):
    reports.write(edits)
    found = page(edits)
    pictures = [values for _, values in found.tags if "picture" in values.get("class", "").split()]
    given = [values for values in pictures if "given" in values["class"].split()]
    assert len(given) == 2  # the source picture of two prompts, though three arms were given it
    assert len(pictures) == len(given) + 2 * 3 * 3
    said = {id(values): values.get("alt") or values["aria-label"] for values in pictures}
    assert [id(values) for values in given] == [key for key, words in said.items() if "given picture" in words]
    assert {values["href"] for tag, values in found.tags if tag == "use" and "xlink:href" not in values} == {
        "#picture-0"  # it is the same for both, and the page holds it once
    }


def test_published_findings_stand_beside_ours_with_their_source(written):
    text = " ".join(page(written).text)
    assert "arXiv 2603.23500 v1, Fig. 5" in text


def test_published_tables_are_whole_and_say_where_they_come_from():
    published = json.loads(Path(reports.__file__).with_name("published.json").read_text())
    assert {"warmup", "rewards", "credit"} <= published.keys()
    for table in published.values():
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
        assert "arXiv" in table["source"]
        assert ("2603.09538" in table["source"]) == ("second-hand" in table["source"])
        assert table["note"]
