"""Nothing leaves a mean unseen: whatever a cell's files lack is said."""

import hashlib
import json
import shutil
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from reports.analysis import analyse
from reports.collect import BrokenSweepError, read
from reports.files import read_rows
from reports.pages import render
from reports.tables import main_table
from tests.reports.synthetic import write_sweep


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("template"), seeds=[0, 1, 2], updates=3)


@pytest.fixture
def sweep(template, tmp_path):
    """A whole sweep of three arms and three seeds, to be damaged."""
    shutil.copytree(template.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "sweeps" / template.name


def cell(sweep, name):
    return sweep.parents[1] / "cells" / name


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def written(sweep, analysis=None):
    """The files of the report, figures apart."""
    sections = "differences parts turns learning hacking drift penalties diagnostics"
    files = render(analysis or analyse(read(sweep)), dict.fromkeys(sections.split(), ()))
    return {name: content.decode() for name, content in files.items()}


def warnings(sweep):
    return "\n".join(analyse(read(sweep)).warnings)


def broken(sweep):
    return [(c.arm, c.seed, c.failure.message) for c in read(sweep).cells if c.state == "broken"]


def test_a_whole_sweep_has_no_gap(sweep):
    text = warnings(sweep)
    for words in ("Incomplete", "have no", "fewer cells", "Curves", "kinds of machine"):
        assert words not in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5", True])
def test_a_score_that_is_no_number_is_named_and_its_mean_says_its_n(sweep, value):
    for file in ("result.json", "evaluation.json"):
        path = cell(sweep, "latentkl1") / file
        metrics = json.loads(path.read_text())["metrics"]
        change(path, metrics=metrics | {"geneval/strict": value})
    text = warnings(sweep)
    unscored = "1 of 10 finished cells have no strict overall score, count as missing, and have no part in its"
    assert f"{unscored} means and pairs: latent_kl/1." in text
    assert "Incomplete files, latent_kl/1: geneval/strict is" in text
    table = main_table(analyse(read(sweep)))
    (row,) = [row for row in table.rows if row.arm == "latent_kl"]
    assert row.note == "n = 2 of 3"
    assert "n =" not in row.entries[0].spread
    assert row.entries[1].spread.endswith("n = 3")
    assert "<dt>Cells done</dt><dd>9 of 10</dd>" in written(sweep)["report.html"]


def test_a_measure_that_a_seed_lacks_is_named(sweep):
    for file in ("result.json", "evaluation.json"):
        path = cell(sweep, "latentkl1") / file
        metrics = json.loads(path.read_text())["metrics"]
        del metrics["heldout/proxy"]
        change(path, metrics=metrics)
    assert "Means over fewer cells than are done, with their n beside them: latent_kl, heldout/proxy (2 of 3)." in (
        warnings(sweep)
    )


def test_results_that_disagree_are_named(sweep):
    path = cell(sweep, "none0") / "evaluation.json"
    change(path, metrics=json.loads(path.read_text())["metrics"] | {"heldout/proxy": 0.123})
    assert "none/0: evaluation.json and result.json differ in heldout/proxy" in warnings(sweep)


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "short"])
def test_curves_that_are_cut_off_are_named(sweep, damage):
    path = cell(sweep, "velocitymse2") / "metrics.jsonl"
    text = path.read_text()
    if damage == "absent":
        path.unlink()
    else:
        path.write_text({"empty": "", "cut": text[:-20], "short": text[: text.index("\n") + 1]}[damage])
    said = warnings(sweep)
    assert "Curves that end early or have holes, and with them their arm's mean: velocity_mse/2 (" in said
    assert ("the last line is cut off" in said) == (damage == "cut")
    assert ("holds no update" in said) == (damage in ("absent", "empty"))


def test_values_that_come_twice_are_named(sweep):
    path = cell(sweep, "none0") / "metrics.jsonl"
    first = path.read_text().split("\n")[0]
    path.write_text(path.read_text() + first + "\n")  # the same again changes nothing
    assert "twice for a step" not in warnings(sweep)
    path.write_text(path.read_text() + json.dumps({"step": 0, "train/reward": 0.99}) + "\n")
    assert "none/0: metrics.jsonl has 1 values twice for a step; the later ones count." in warnings(sweep)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "per_prompt.jsonl holds no row"),
        ("", "per_prompt.jsonl holds no row"),
        ('{"prompt": "a", "tag": "b", "strict": 1}\n{"prompt": "a", "ta', "per_prompt.jsonl: the last line is cut off"),
        ('{"prompt": "a", "tag": "b", "strict": NaN}\n', "per_prompt.jsonl: strict is no number in 1 of 1 rows"),
    ],
)
def test_prompts_that_are_not_there_are_named(sweep, content, said):
    path = cell(sweep, "none0") / "per_prompt.jsonl"
    path.unlink() if content is None else path.write_text(content)
    assert f"none/0: {said}" in warnings(sweep)


def rows_of(path, keep=lambda row: True, **values):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | values) + "\n" for row in rows if keep(row)))


def every(sweep, file):
    return (sweep.parents[1] / "cells").glob(f"*/{file}")


def test_the_page_says_on_how_many_prompts_and_images_its_scores_rest(sweep):
    tags = "single_object 6, two_object 6, counting 6, colors 6, position 6, color_attr 6"
    files = written(sweep)
    assert files["report.html"].count(f"36 prompts, 2 images each ({tags})") == 2  # beside the scores, and in Methods
    assert "<dt>Evaluated on</dt><dd>36 prompts, 2 images each</dd>" in files["report.html"]
    assert "Evaluated on 36 prompts, 2 images each (" in files["report.md"]
    assert ", on 36 prompts, 2 images each (" in files["table.tex"].split("\n")[0]
    size = json.loads(files["summary.json"])["evaluated"]
    assert (size["prompts"], size["images"], size["by_tag"]["counting"]) == (36, [2], 6)


def test_one_prompt_of_one_tag_is_one_prompt(sweep):
    for path in every(sweep, "per_prompt.jsonl"):
        rows_of(path, lambda row: row["prompt"] == "counting-1" and row["image"] == 0)
    files = written(sweep)
    assert "Evaluated on 1 prompt, 1 image.\n" in files["report.md"]
    assert "Few prompts: scores rest on 1 prompt, 1 image." in warnings(sweep)
    assert "they leave" not in warnings(sweep)  # one prompt does not tell how prompts differ


def test_prompts_with_unequal_numbers_of_images_and_rows_without_any(sweep):
    for path in every(sweep, "per_prompt.jsonl"):
        rows_of(path, lambda row: row["tag"] in ("counting", "colors") and (row["tag"], row["image"]) != ("colors", 1))
    assert "Evaluated on 12 prompts, 1 to 2 images each (counting 6, colors 6).\n" in written(sweep)["report.md"]
    for path in every(sweep, "per_prompt.jsonl"):
        path.unlink()
    files = written(sweep)
    assert not any("Evaluated on" in content for content in files.values())
    assert "Few prompts" not in warnings(sweep)


def test_few_prompts_are_warned_of_with_what_they_alone_leave_open(sweep):
    (line,) = [line for line in warnings(sweep).split("\n") if line.startswith("Few prompts")]
    assert "so few prompts alone leave a 95 % half-width of up to 0.16 (0.1 with 97 prompts)" in line
    # Six tags of six prompts, each of its own meaning, whose variances have five degrees of freedom each.
    tables = [cell.prompts for cell in read(sweep).arm("none").done]
    scores = np.reshape([fmean(table[key].score for table in tables) for key in tables[0]], (6, 6))
    parts = scores.var(axis=1, ddof=1) / 6 / 36
    half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / 5).sum()) * parts.sum() ** 0.5
    assert f"; of strict overall score they leave ±{half:.2g} (none)" in line


def test_prompts_that_are_enough_are_not_warned_of(sweep):
    for path in every(sweep, "per_prompt.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        more = [row | {"prompt": f"{row['prompt']}-{i}"} for i in range(3) for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in more[: 2 * 97]))
    assert "Few prompts" not in warnings(sweep)
    for path in every(sweep, "per_prompt.jsonl"):
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-2]))
    assert "Few prompts: scores rest on 96 prompts, 2 images each." in warnings(sweep)


def test_texts_that_are_cut_off_are_warned_of_with_the_key_to_raise(sweep):
    for path in every(sweep, "result.json"):
        share = {"none0": 0.9, "none1": 0.9, "none2": 0.9, "latentkl0": 0.4}.get(path.parent.name, 0.05)
        metrics = json.loads(path.read_text())["metrics"] | {"text/cut": share}
        change(path, metrics=metrics)
        change(path.with_name("evaluation.json"), metrics=metrics)
        change(path.with_name("config.json"), episode={"name": "x", "max_text": 24, "max_pictures": 3, "turns": 2})
    (line,) = [line for line in warnings(sweep).split("\n") if line.startswith("Texts cut off")]
    assert "before they ended: none 90 %, latent_kl 17 %." in line
    assert line.endswith("raise episode.max_text (24).")


def test_costs_that_are_not_there_are_named_and_no_zero(sweep):
    (cell(sweep, "latentkl1") / "cost.json").unlink()
    text = warnings(sweep)
    assert "latent_kl/1: cost.json has no cost/cpu_s" in text
    assert "CPU time relative" not in text  # as it would be, were it counted as 0


@pytest.mark.parametrize("file", ["cost.json", "env.json"])
def test_a_damaged_optional_file_is_named(sweep, file):
    (cell(sweep, "none1") / file).write_text("[1]")
    ((arm, seed, message),) = broken(sweep)
    assert (arm, seed) == ("none", 1)
    assert f"{file}: expected an object, got list" in message


def test_a_result_that_changed_after_its_end_does_not_count(sweep):
    folder = cell(sweep, "none1")
    (folder / "DONE").write_text(hashlib.sha256((folder / "result.json").read_bytes()).hexdigest() + "\n")
    assert broken(sweep) == []
    with (folder / "result.json").open("a") as file:
        file.write(" ")
    assert "changed since DONE was written for it" in broken(sweep)[0][2]


def test_a_copied_cell_does_not_count_twice(sweep):
    shutil.rmtree(cell(sweep, "none2"))
    shutil.copytree(cell(sweep, "none1"), cell(sweep, "none2"))
    assert "config.json: expected seed 2, got 1" in broken(sweep)[0][2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"1": "none1"', '"0": "none1"', "the key '0' is there twice"),
        ('"1": "none1"', '"00": "none1"', "'none' has seed 0 twice"),
        ('"1": "none1"', '"1": "none0"', "'none' has the cell 'none0' for several seeds"),
        ('"direction": "maximize"', '"direction": "up"', "expected max or min, got 'up'"),
    ],
)
def test_a_plan_that_counts_a_run_twice_is_refused(sweep, old, new, message):
    path = sweep / "sweep.json"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(BrokenSweepError, match=message):
        read(sweep)


def test_arms_of_the_same_runs_are_named(sweep):
    path = sweep / "sweep.json"
    plan = json.loads(path.read_text())
    plan["arms"][3]["cells"] = plan["arms"][2]["cells"]
    path.write_text(json.dumps(plan))
    assert "very same runs, whose difference is 0 by construction: latent_kl = velocity_mse." in warnings(sweep)


def test_seeds_and_arms_without_a_cell_are_named(sweep):
    path = sweep / "sweep.json"
    plan = json.loads(path.read_text())
    del plan["arms"][2]["cells"]["1"]
    plan["arms"][3]["cells"] = {}
    path.write_text(json.dumps(plan))
    assert "Seeds of the plan for which it has no cell: latent_kl 1." in warnings(sweep)
    assert ("velocity_mse", "the plan has no cell for it") in read(sweep).refused


def test_lines_end_where_json_lines_end(sweep, tmp_path):
    path = cell(sweep, "none0") / "per_prompt.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    odd = "a\u2028red\u2029circle\x85and\x1ca square\x0c"
    path.write_text("\n".join(json.dumps(row | {"text": odd}, ensure_ascii=False) for row in rows))
    assert broken(sweep) == []
    assert len(read(sweep).arm("none").done[0].prompts) == 36
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert read_rows(tmp_path / "bom.jsonl") == ([{"a": 1}, {"a": 2}], False)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(BrokenSweepError, match=r"bytes\.jsonl: cannot be read as text"):
        read_rows(tmp_path / "bytes.jsonl")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(BrokenSweepError, match=r"list\.jsonl, line 1: expected an object, got list"):
        read_rows(tmp_path / "list.jsonl")


def test_a_failure_record_of_other_types_costs_no_page(sweep):
    folder = cell(sweep, "none1")
    (folder / "DONE").unlink()
    (folder / "failure.json").write_text('{"cause": null, "message": ["a"], "traceback": ["b"], "step": "c"}')
    assert "None" in written(sweep)["report.html"]


def test_a_picture_that_cannot_be_read_costs_no_page(sweep, monkeypatch):
    analysis = analyse(read(sweep))

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    assert "(picture cannot be read)" in written(sweep, analysis)["report.html"]


ONE, OTHER = "GenuineIntel 6-106, AVX512, torch 2.13.0, 1 thread", "AuthenticAMD 25-17, AVX512, torch 2.13.0, 1 thread"


def on(sweep, kind, *names):
    for name in names:
        change(cell(sweep, name) / "env.json", kind=kind)


def everywhere(sweep, kind):
    on(sweep, kind, *(path.parent.name for path in (sweep.parents[1] / "cells").glob("*/env.json")))


def test_one_kind_of_machine_is_named_and_no_warning(sweep):
    everywhere(sweep, ONE)
    assert "kinds of machine" not in warnings(sweep)
    files = written(sweep)
    assert f"<p>Cells ran on: {ONE}.</p>" in files["report.html"]
    assert f"Kind of machine: {ONE}" in files["report.md"]


def test_several_kinds_of_machine_are_told_with_their_cells_and_pairs(sweep):
    everywhere(sweep, ONE)
    on(sweep, OTHER, "latentkl1", "velocitymse1", "velocitymse2")
    (cell(sweep, "none0") / "env.json").write_text("{}")
    text = warnings(sweep)
    assert "Cells ran on 3 kinds of machine. Bytes repeat on one kind only" in text
    assert f"{OTHER} (n = 3): latent_kl 1, velocity_mse 1 2; " in text
    assert f"{ONE} (n = 6): none 1 2, untouched 0, latent_kl 0 2, velocity_mse 0; " in text
    assert "unknown kind (n = 1): none 0." in text
    (line,) = [line for line in text.split("\n") if line.startswith("Paired by seed across kinds")]
    assert "latent_kl − none, seed 0, 1; " in line
    assert "velocity_mse − none, seed 0, 1, 2; " in line
    assert "velocity_mse − latent_kl, seed 2." in line
    assert "untouched" not in line  # one model, whatever it was measured on
    files = written(sweep)
    kinds = json.loads(files["summary.json"])["kinds"]
    assert kinds["unknown kind"] == [{"arm": "none", "seed": 0}]
    assert "Kind of machine: 3 kinds" in files["report.md"]


def test_what_runs_say_of_their_model_is_told(sweep):
    for name in ("none0", "none1"):
        (cell(sweep, name) / "env.json").write_text(json.dumps({"remarks": ["it has no <certificate>"]}))
    assert "Of the model of none/0, none/1: it has no <certificate>." in warnings(sweep)
    assert "it has no &lt;certificate&gt;" in written(sweep)["report.html"]


def test_older_cells_are_of_an_unknown_kind(sweep):
    assert list(read(sweep).kinds) == ["unknown kind"]
    assert "kinds of machine" not in warnings(sweep)
