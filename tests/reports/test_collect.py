"""Reading run folders: whole, unfinished, damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from reports.collect import BrokenSweepError, read
from reports.gaps import gaps
from reports.statistics import prompt_weights
from tests.reports.synthetic import write_sweep


def states(sweep):
    return {(cell.arm, cell.seed): cell.state for cell in sweep.cells if cell.state != "done"}


def test_finished_sweep(finished):
    sweep = read(finished)
    assert [arm.name for arm in sweep.arms] == ["none", "untouched", "latent_kl", "velocity_mse"]
    assert states(sweep) == {}
    cell = sweep.arm("latent_kl").done[3]
    assert cell.seed == 3
    assert cell.metrics["cost/cpu_s"] > 0
    assert cell.metrics["cost/nfe_train"] == 96 * 2 * 12
    assert len(cell.prompts) == 36
    assert {p.tag for p in cell.prompts.values()} >= {"counting", "colors"}
    prompt, thinking, picture = cell.samples[0].segments
    assert prompt.given
    assert prompt.text == cell.samples[0].prompt
    assert not thinking.given
    assert "circle red at top left" in thinking.text
    assert picture.picture.png.startswith(b"\x89PNG")
    assert cell.samples[0].scores["official"] == 1


def test_pictures_are_not_read_before_they_are_looked_at(finished, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert all(cell.samples for cell in read(finished).cells)


def test_states_of_cells(troubled):
    sweep = read(troubled)
    assert states(sweep) == {
        ("latent_kl", 2): "excluded",
        ("latent_kl", 5): "missing",
        ("velocity_mse", 4): "failed",
    }
    assert sorted(sweep.arm("latent_kl").values("geneval/strict")) == [0, 1, 3, 4]
    failure = next(cell.failure for cell in sweep.cells if cell.state == "failed")
    assert (failure.cause, failure.step) == ("non_finite", 17)


@pytest.fixture
def small(tmp_path):
    return write_sweep(tmp_path, seeds=[0, 1], updates=3)


def test_a_repeated_step_counts_once_and_a_torn_last_line_not_at_all(small):
    rows = [{"step": 0, "x": 1.0}, {"step": 1, "x": 2.0}, {"step": 1, "x": 5.0}, {"step": 2, "x": None, "y": True}]
    text = "\n".join(json.dumps(row) for row in rows) + '\n\n{"step": 3, "x": 7'
    (small.parent.parent / "cells" / "none0" / "metrics.jsonl").write_text(text)
    history = read(small).arm("none").done[0].history
    assert list(history) == ["x"]
    assert history["x"].steps.tolist() == [0, 1]
    assert history["x"].values.tolist() == [1, 5]


def test_prompts_are_scored_by_the_field_of_the_primary_metric(small):
    rows = [
        {"prompt": "a", "tag": "x", "O": 1.0, "strict": 0},
        {"prompt": "a", "tag": "x", "O": 3.0, "strict": 0},
        {"prompt": "b", "tag": "y", "O": 8.0, "strict": 0},
        {"prompt": "c", "tag": "y", "strict": 1},
    ]
    (small.parent.parent / "cells" / "none0" / "per_prompt.jsonl").write_text("\n".join(map(json.dumps, rows)))
    edit(small, primary={"metric": "editing/O", "direction": "max"})
    describe(small, "none0", {"name": "editing/O", "label": "O", "better": "higher", "row_field": "O"})
    sweep = read(small)
    assert {key: (p.tag, p.score) for key, p in sweep.arm("none").done[0].prompts.items()} == {
        "a": ("x", 2.0),
        "b": ("y", 8.0),
    }
    assert sweep.arm("none").done[1].prompts == {}  # its rows have no O


def test_rows_of_a_prompt_may_be_of_several_tags(small):
    """The prompts' scores add up to the metric, the mean of the tags' means: here 3 of x, 7 of y and 2 of z."""
    turns = {"a": [("x", 1.0), ("y", 6.0)], "b": [("y", 6.0), ("y", 9.0)], "c": [("x", 5.0), ("z", 2.0)]}
    rows = [{"prompt": key, "tag": tag, "O": score} for key, row in turns.items() for tag, score in row]
    (small.parent.parent / "cells" / "none0" / "per_prompt.jsonl").write_text("\n".join(map(json.dumps, rows)))
    edit(small, primary={"metric": "editing/O", "direction": "max"})
    describe(small, "none0", {"name": "editing/O", "label": "O", "better": "higher", "row_field": "O"})
    prompts = read(small).arm("none").done[0].prompts
    weights = prompt_weights([prompt.tag for prompt in prompts.values()])
    assert np.dot(weights, [prompt.score for prompt in prompts.values()]) == pytest.approx((3 + 7 + 2) / 3)


def test_the_same_words_may_be_asked_twice(small):
    index = small.parent.parent / "cells" / "none0" / "samples" / "index.json"
    entry = json.loads(index.read_text())[0]
    index.write_text(json.dumps([entry, entry]))
    assert len({sample.key for sample in read(small).arm("none").done[0].samples}) == 2


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", '{"metrics": {}}'),
        ("evaluation.json", "[]"),
        ("config.json", "{"),
        ("metrics.jsonl", '{"step": 1\n{"step": 2}\n'),
        ("samples/p1.png", None),
        ("samples/index.json", '[{"prompt": "a", "tag": "b", "scores": {}}]'),
    ],
)
def test_a_damaged_cell_is_named_and_costs_no_other(small, file, content):
    path = small.parent.parent / "cells" / "none1" / file
    path.unlink() if content is None else path.write_text(content)
    sweep = read(small)
    assert states(sweep) == {("none", 1): "broken"}
    assert sweep.arm("none").cells[1].failure.message


def test_an_unreadable_failure_is_still_a_failure(small):
    cell = small.parent.parent / "cells" / "none1"
    (cell / "DONE").unlink()
    (cell / "failure.json").write_text("oops")
    sweep = read(small)
    assert states(sweep) == {("none", 1): "failed"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ('{"schema": 99}', "schema 2"),
        ('{"schema": 1, "command": ["python", "-m", "x"]}', "got 1; the command .* anew.*: python -m x action=report"),
        ('{"schema": 2}', "missing or malformed"),
    ],
)
def test_a_broken_plan_is_a_clear_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(BrokenSweepError, match=f"sweep.json.*{message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("declaration.json", "{", "declaration.json: cannot be read as JSON"),
        (
            "declaration.json",
            "[]",
            "declaration.json: missing or malformed entry .*move it away: then the sweep counts",
        ),
        ("declaration.json", '{"schema": 3, "revisions": []}', "declaration.json: .*expected schema 1, got 3"),
        ("looks.jsonl", '{"seeds": 3}', "looks.jsonl: missing or malformed entry"),
    ],
)
def test_a_broken_file_beside_the_plan_is_named(small, file, content, message):
    (small / file).write_text(content)
    with pytest.raises(BrokenSweepError, match=f"^[^:]*{message}"):
        read(small)


def describe(folder, cell, *entries):
    """Let a cell describe its measures by ``entries`` alone."""
    (folder.parents[1] / "cells" / cell / "metrics_schema.json").write_text(json.dumps(entries))


def test_measures_are_described_by_the_cells_in_the_order_of_the_plan(small):
    one, other = ({"name": "a/b", "label": label, "group": "A", "better": "higher"} for label in ("one", "other"))
    describe(small, "none0", one)
    describe(small, "latentkl1", other, {"name": "new", "label": "new", "group": "A", "better": "lower"})
    schema = read(small).schema
    assert schema.metric("a/b").label == "one"
    assert schema.metric("new").better == "lower"
    assert schema.conflicts == ("a/b",)
    assert any("describe measures differently" in warning and "a/b" in warning for warning in gaps(read(small)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no metrics_schema.json: measures that no other cell describes are shown by their names"),
        ("{}", "describes no measure (expected a list of objects)"),
        ("[1]", "describes no measure (expected a list of objects)"),
        ("[", "describes no measure"),
        ('[{"name": "a", "label": "b"}]', "a: expected better: higher | lower | neither"),
    ],
)
def test_a_cell_that_does_not_describe_its_measures_counts_and_is_named(small, content, said):
    path = small.parent.parent / "cells" / "none1" / "metrics_schema.json"
    path.unlink() if content is None else path.write_text(content)
    sweep = read(small)
    assert states(sweep) == {}
    (fault,) = sweep.arm("none").cells[1].faults
    assert said in fault
    assert any(said in warning and "none/1" in warning for warning in gaps(sweep))


def edit(folder, **changes):
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_baseline_must_be_an_arm(small):
    edit(small, baseline="nobody")
    with pytest.raises(BrokenSweepError, match="nobody"):
        read(small)


def test_a_refused_arm_is_listed_but_has_no_row(small):
    plan = json.loads((small / "sweep.json").read_text())
    refused = {"name": "ode_raw", "overrides": [], "untouched": False, "cells": {}}
    edit(small, arms=[*plan["arms"], refused])
    sweep = read(small)
    assert "ode_raw" not in [arm.name for arm in sweep.arms]
    assert sweep.refused[0][0] == "ode_raw"
