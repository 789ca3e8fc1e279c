"""What MLflow's pages show at the addresses that a sweep prints."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ablations.grid import load_grid
from ablations.plan import make_plan
from ablations.store_text import TAG, safe
from ablations.store_views import SHARED, note_of, views
from tests.ablations.cluster import free_ports
from tests.ablations.mlflow_server import runs, serve


def experiment_of(store):
    return store.get_experiment_by_name("unigrpo/kl_vs_mse")


def views_in(store):
    tags = experiment_of(store).tags
    return {key: json.loads(value) for key, value in tags.items() if key.startswith(SHARED)}


def unpacked(view):
    """The state of a page in the envelope of a view."""
    return json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))


def test_an_experiment_says_what_it_is_and_how_to_look_at_it(sandbox, store, capsys):
    sandbox.inline("seeds=1", tracker="mlflow")
    output = capsys.readouterr().out
    assert experiment_of(store).tags["mlflow.experimentKind"] == "custom_model_development"
    made = views_in(store)
    (parent,) = runs(store, "tags.kind = 'sweep'")
    cells = [run.info.run_id for run in runs(store, "tags.kind = 'cell'")]
    for key, view in made.items():
        assert f"viewStateShareKey={key.removeprefix(SHARED)}" in output
        asked = store.search_runs([experiment_of(store).experiment_id], view["searchFilter"], order_by=["params.`arm`"])
        assert sorted(run.info.run_id for run in asked) == sorted(cells)
        columns = view["selectedColumns"]
        assert columns[:3] == ["params.`arm`", "params.`seed`", "metrics.`geneval/strict`"]
        # What 3.17 reads, and what versions before it read, are the same.
        assert (
            json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;")))).items()
            <= view.items()
        )
    grouped = [view for view in made.values() if view["groupBy"]]
    assert [view["groupBy"]["groupByKeys"] for view in grouped] == [[{"mode": "param", "groupByData": "arm"}]]
    assert grouped[0]["compareRunCharts"][0]["metricKey"] == "geneval/strict"
    assert parent.data.tags["mlflow.note.content"].startswith("**Does a velocity-MSE")


def test_views_that_are_gone_or_never_were_are_made(sandbox, store):
    sandbox.inline("seeds=1", tracker="mlflow")
    made = views_in(store)
    for key in made:
        store.delete_experiment_tag(experiment_of(store).experiment_id, key)
    sandbox.inline("seeds=2", tracker="mlflow")
    assert views_in(store) == made

    # A sweep that was mirrored before there were views, and has nothing else to mirror.
    for key in made:
        store.delete_experiment_tag(experiment_of(store).experiment_id, key)
    (memory,) = sandbox.root.glob("sweeps/*/mlflow.json")
    known = json.loads(memory.read_text())
    for entry in known.values():
        del entry["views"]
    memory.write_text(json.dumps(known))
    sandbox.inline("seeds=2", tracker="mlflow")
    assert views_in(store) == made


def test_a_kind_that_somebody_chose_stays(sandbox, store):
    sandbox.inline("seeds=1", tracker="mlflow")
    experiment = experiment_of(store).experiment_id
    kinds = [("genai_development_inferred", "custom_model_development"), ("finetuning", "finetuning")]
    for seeds, (kind, expected) in enumerate(kinds, start=2):
        store.set_experiment_tag(experiment, "mlflow.experimentKind", kind)
        sandbox.inline(f"seeds={seeds}", tracker="mlflow")
        assert experiment_of(store).tags["mlflow.experimentKind"] == expected


def test_a_store_that_refuses_views_has_the_cells_and_a_plain_address(sandbox, store, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
    from mlflow.tracking import MlflowClient

    def refuse(*_):
        raise MlflowException("too long", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert sandbox.inline("seeds=1", tracker="mlflow") == 0
    output = capsys.readouterr().out
    assert "warning" not in output
    assert "viewStateShareKey" not in output
    assert "/runs?workflowType=machine_learning&searchFilter=params.arm" in output
    assert Counter(run.data.tags["kind"] for run in runs(store)) == {"sweep": 1, "cell": 4}


def test_a_root_that_was_moved_finds_its_runs(sandbox, store):
    from mlflow.tracking import MlflowClient

    sandbox.inline("seeds=1", tracker="mlflow")
    moved = sandbox.beside("moved")
    sandbox.root.rename(moved.root)
    moved.inline("seeds=1", tracker="mlflow")
    there = MlflowClient(tracking_uri=f"sqlite:///{moved.root / 'mlflow.db'}")
    assert Counter(run.data.tags["kind"] for run in runs(there)) == {"sweep": 1, "cell": 4}
    assert len(views_in(there)) == 2


def test_views_fit_into_a_tag_whatever_the_names():
    plan = make_plan(load_grid("kl_vs_mse"))
    odd = "m" * 240 + "`'\"<b>日本"
    grid = replace(plan.grid, primary={**plan.grid.primary, "metric": odd}, secondary=[f"{n}{odd}" for n in range(40)])
    made = views(replace(plan, grid=grid), "f" * 32, ("a", "b"), 0.0)
    assert [len(value) <= TAG for value in made.values()] == [True, True]
    for value in made.values():
        state = unpacked(json.loads(value))
        assert state["selectedColumns"][2] == f"metrics.`{safe(odd)}`"


def test_the_note_of_a_sweep_is_what_its_report_says_first(tmp_path):
    plan = SimpleNamespace(grid=SimpleNamespace(question="Is it so?"))
    assert note_of(plan, tmp_path).startswith("**Is it so?**")
    (tmp_path / "report.md").write_text("# Is it so?\n\n**Not testable.** One seed.\n\n## Scores\n\n| a |\n")
    note = note_of(plan, tmp_path)
    assert note.startswith("**Is it so?**\n\n**Not testable.** One seed.")
    assert "Scores" not in note
    assert "report/report.html" in note


#: A browser of this machine; the package brings none.
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page():
    """A page of a headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    with (
        playwright.sync_playwright() as tool,
        tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as it,
    ):
        page = it.new_page(viewport={"width": 1600, "height": 900})
        page.set_default_timeout(120_000)  # the bundle is large, and machines are busy
        yield page


def test_the_printed_addresses_show_arms_seeds_and_the_primary_metric(sandbox, store, page, capsys):
    sandbox.inline("seeds=2", tracker="mlflow")
    table, charts = re.findall(r"then http://127.0.0.1:5000(\S+)", capsys.readouterr().out)
    (port,) = free_ports(1)
    serve(sandbox, sandbox.root, port)

    page.goto(f"http://127.0.0.1:{port}{table}")
    page.locator("[role=gridcell][col-id='params.`arm`']").nth(6).wait_for()
    cells = {
        name: page.locator(f"[role=gridcell][col-id='params.`{name}`']").all_inner_texts() for name in ("arm", "seed")
    }
    assert Counter(cells["arm"]) == {"untouched": 1, "none": 2, "latent_kl": 2, "velocity_mse": 2}
    assert Counter(cells["seed"]) == {"0": 4, "1": 3}
    scores = page.locator("[role=gridcell][col-id='metrics.`geneval/strict`']").all_inner_texts()
    assert sorted(map(float, scores)) == sorted(
        run.data.metrics["geneval/strict"] for run in runs(store, "tags.kind = 'cell'")
    )
    heads = page.locator("[role=columnheader][col-id='params.`arm`'], [role=columnheader][col-id^='metrics.`geneval']")
    left = {head.get_attribute("col-id"): head.bounding_box()["x"] for head in heads.all()}
    assert min(left, key=left.get) == "params.`arm`"
    assert page.get_by_text("Error loading shared view state").count() == 0

    page.goto(f"http://127.0.0.1:{port}{charts}")
    for arm in ("untouched", "none", "latent_kl", "velocity_mse"):
        page.get_by_text(f"Group: {arm}", exact=True).wait_for()
    page.get_by_text("Measures, primary: geneval/strict").wait_for()
