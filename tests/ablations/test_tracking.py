"""The mirror, against a real MLflow store."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest

from ablations.cells import CellFolder
from ablations.tracking import _points
from tests.ablations.cluster import free_ports
from tests.ablations.conftest import outcome, wait_for


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database with MLflow's tables: making them takes seconds, copying them does not."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(sandbox, migrated):
    from mlflow.tracking import MlflowClient

    sandbox.root.mkdir()
    shutil.copy(migrated, sandbox.root / "mlflow.db")
    return MlflowClient(tracking_uri=f"sqlite:///{sandbox.root / 'mlflow.db'}")


def runs(store, query=""):
    experiment = store.get_experiment_by_name("unigrpo/kl_vs_mse")
    return store.search_runs([experiment.experiment_id], query)


def add_picture(sandbox, arm):
    from PIL import Image

    samples = sandbox.cell(arm, 0) / "samples"
    samples.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(samples / "p017.png")
    strip = [{"text": "a red circle", "given": False, "turn": 0}, {"picture": "p017.png", "given": False, "turn": 0}]
    (samples / "index.json").write_text(json.dumps([{"prompt": "a <b>", "tag": "colors", "strip": strip}]))


def test_every_cell_becomes_one_run_that_can_be_compared(sandbox, store):
    sandbox.behave(**{"velocity_mse:0": "raise"})
    sandbox.inline("seeds=1")
    add_picture(sandbox, "none")
    assert sandbox.inline("seeds=1", tracker="mlflow") == 1
    (parent,) = runs(store, "tags.kind = 'sweep'")
    cells = {run.data.tags["arm"]: run for run in runs(store, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")}
    assert set(cells) == {"untouched", "none", "latent_kl", "velocity_mse"}
    none = cells["none"]
    assert none.info.run_name == "none/s0"
    assert (none.data.params["arm"], none.data.params["seed"]) == ("none", "0")
    assert none.data.params["regularizer.name"] == "none"
    assert (none.data.tags["eval_set_hash"], none.data.tags["baseline"]) == ("e5", "false")
    assert cells["latent_kl"].data.tags["baseline"] == "true"
    assert set(none.data.metrics) >= {"train/reward", "geneval/strict", "cost/wall_s"}
    assert (none.info.status, cells["velocity_mse"].info.status) == ("FINISHED", "FAILED")
    assert cells["velocity_mse"].data.tags["status_detail"] == "exception: ValueError: told to <fail>"
    assert {file.path for file in store.list_artifacts(none.info.run_id)} >= {"config.json", "result.json", "images"}
    assert {file.path for file in store.list_artifacts(parent.info.run_id)} == {"report", "sweep.json"}


def test_points_are_there_once_however_often_the_command_runs(sandbox, store):
    sandbox.inline("seeds=1", tracker="mlflow")
    first = Counter(run.data.tags.get("arm") for run in runs(store))
    (memory,) = sandbox.root.glob("sweeps/*/mlflow.json")
    remembered = memory.read_text()
    sandbox.inline("seeds=1", tracker="mlflow")
    assert memory.read_text() == remembered

    # What a kill between the last point and its remembrance leaves behind.
    cut = json.loads(remembered)
    for entry in cut.values():
        del entry["cells"][sandbox.cell("none", 0).name]
    memory.write_text(json.dumps(cut))
    sandbox.inline("seeds=1", tracker="mlflow")
    assert Counter(run.data.tags.get("arm") for run in runs(store)) == first
    (run,) = runs(store, "tags.arm = 'none'")
    assert [point.step for point in store.get_metric_history(run.info.run_id, "train/reward")] == [0, 1, 2, 3]


def test_a_store_that_is_lost_is_filled_again(sandbox, store, migrated):
    sandbox.inline("seeds=1", tracker="mlflow")
    experiment = store.get_experiment_by_name("unigrpo/kl_vs_mse").experiment_id
    for run in store.search_runs([experiment], ""):
        store.delete_run(run.info.run_id)
    sandbox.inline("seeds=2", tracker="mlflow")
    assert Counter(run.data.tags["kind"] for run in runs(store)) == {"sweep": 1, "cell": 7}


def test_roots_that_share_a_store_leave_each_others_runs_alone(sandbox, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{sandbox.root / 'mlflow.db'}")
    sandbox.inline("seeds=1", tracker="mlflow")
    mine = {run.info.run_id for run in runs(store)}
    other = sandbox.beside("others")
    other.inline("seeds=1", tracker="mlflow")
    assert mine < {run.info.run_id for run in runs(store)}
    assert Counter(run.data.tags["kind"] for run in runs(store)) == {"sweep": 2, "cell": 8}

    # A root that forgot what it mirrored still knows which runs are its own.
    (memory,) = other.root.glob("sweeps/*/mlflow.json")
    memory.unlink()
    other.inline("seeds=1", tracker="mlflow")
    assert mine < {run.info.run_id for run in runs(store)}
    assert Counter(run.data.tags["kind"] for run in runs(store)) == {"sweep": 2, "cell": 8}


def test_a_dead_server_costs_one_warning_and_is_caught_up_with(sandbox, store, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    assert sandbox.inline("seeds=1", tracker="mlflow") == 0
    output = capsys.readouterr().out
    assert output.count("warning: MLflow") == 1
    assert "the same command catches up later" in output
    assert "secret" not in output
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sandbox.inline("seeds=1", tracker="mlflow") == 0
    assert Counter(run.data.tags["kind"] for run in runs(store)) == {"sweep": 1, "cell": 4}


def test_without_mlflow_a_sweep_runs_all_the_same(sandbox, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    assert sandbox.inline("seeds=1", tracker="mlflow") == 0
    assert capsys.readouterr().out.count("warning: MLflow") == 1


def test_tracker_none_leaves_no_trace(sandbox):
    sandbox.inline("seeds=1", "only=none:0")
    assert not list(sandbox.root.rglob("*mlflow*"))


def test_of_repeated_steps_the_last_counts_and_only_finite_numbers_pass(tmp_path):
    rows = [
        {"step": 0, "train/reward": 0.1},
        {"step": 1, "train/reward": 0.2, "eval/strict": 0.5},
        {"step": 1, "train/reward": 0.3, "odd=name": 1, "text": "no", "gone": None},
    ]
    lines = [json.dumps(row) for row in rows] + ['{"step": 2, "train/reward": NaN}', '{"step": 3, "tr']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    points = [(point.step, point.key, point.value) for point in _points(CellFolder(tmp_path), 4)]
    assert points == [
        (0, "train/reward", 0.1),
        (1, "eval/strict", 0.5),
        (1, "odd_name", 1.0),
        (1, "train/reward", 0.3),
    ]


def serve(sandbox, folder, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server; returns when it answers."""
    options = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1", *options]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    sandbox.commands.append(server)

    def answers() -> bool:
        # A first question to the store, which takes a server longer than opening its port.
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status == 200
        return False

    wait_for(answers)
    return server


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_sweep_misses_nothing(sandbox, migrated, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    shutil.copy(migrated, tmp_path / "mlflow.db")
    (port,) = free_ports(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    # Only the untouched model gets to its end, and into the store; then the server is killed.
    sandbox.behave(all="held")
    server = serve(sandbox, tmp_path, port)
    controller = sandbox.controller("launcher.workers=2", "seeds=2", tracker="mlflow")
    wait_for(lambda: any(json.loads(path.read_text()) for path in sandbox.root.glob("sweeps/*/mlflow.json")))
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    sandbox.behave(sleep=2.0)
    while "warning: MLflow: " not in (line := controller.stdout.readline()):
        assert line, "the sweep ended without a warning"
    serve(sandbox, tmp_path, port)
    sandbox.behave()
    outcome(controller)
    store = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    cells = [run for run in runs(store) if run.data.tags["kind"] == "cell"]
    assert len(cells) == 7
    for run in cells:
        updates = int(run.data.params["optim.updates"])
        points = store.get_metric_history(run.info.run_id, "train/reward") if updates else []
        assert [point.step for point in points] == list(range(updates))
        assert len(store.get_metric_history(run.info.run_id, "geneval/strict")) == 1
