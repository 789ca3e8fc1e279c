"""The mirror, against a real MLflow store."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections import Counter

import pytest

from ablations.cells import CellFolder
from ablations.declaration import revisions
from ablations.store_cells import points_of
from ablations.store_faults import way_out
from ablations.store_text import keys, public, text_of
from tests.ablations.cluster import free_ports
from tests.ablations.conftest import outcome, wait_for
from tests.ablations.mlflow_server import runs, serve


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
    assert {file.path for file in store.list_artifacts(parent.info.run_id)} == {
        "report", "sweep.json", "declaration.json"
    }  # fmt: skip
    (declared,) = revisions(next(sandbox.root.glob("sweeps/*")))
    assert parent.data.tags["declaration_hash"] == declared["hash"]


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
    points = [(point.step, point.key, point.value) for point in points_of(CellFolder(tmp_path), 4)]
    assert points == [
        (0, "train/reward", 0.1),
        (1, "eval/strict", 0.5),
        (1, "odd_name", 1.0),
        (1, "train/reward", 0.3),
    ]


def test_a_deleted_experiment_is_restored_and_written_anew(sandbox, store, capsys):
    sandbox.inline("seeds=1", tracker="mlflow")
    experiment = store.get_experiment_by_name("unigrpo/kl_vs_mse").experiment_id
    (none,) = runs(store, "tags.arm = 'none'")
    store.delete_run(none.info.run_id)  # comes back with the experiment, and must not be there twice
    store.delete_experiment(experiment)
    capsys.readouterr()
    assert sandbox.inline("seeds=2", tracker="mlflow") == 0
    output = capsys.readouterr().out
    assert "the experiment 'unigrpo/kl_vs_mse' was deleted; it is restored" in output
    assert "warning" not in output
    assert f"/#/experiments/{experiment}/runs" in output
    cells = Counter((run.data.tags["kind"], run.data.tags.get("arm"), run.data.tags.get("seed")) for run in runs(store))
    assert len(cells) == 8
    assert set(cells.values()) == {1}


def test_a_renamed_experiment_is_still_the_one_of_its_sweep(sandbox, store):
    sandbox.inline("seeds=1", tracker="mlflow")
    experiment = store.get_experiment_by_name("unigrpo/kl_vs_mse").experiment_id
    store.rename_experiment(experiment, "my study")
    sandbox.inline("seeds=2", tracker="mlflow")
    assert [each.name for each in store.search_experiments()] == ["my study", "Default"]
    kinds = Counter(run.data.tags["kind"] for run in store.search_runs([experiment]))
    assert kinds == {"sweep": 1, "cell": 7}


#: What a hostile grid may be called, as far as a file may.
ODD_GRIDS = ("what's best", 'say "yes" to `it`', "50%_off\\", "ünï 日本 '")


def test_a_grid_of_any_name_is_mirrored(sandbox, store, tmp_path, capsys):
    from ablations.grid import GRIDS

    for name in ODD_GRIDS:
        path = tmp_path / f"{name}.yaml"
        shutil.copy(GRIDS / "kl_vs_mse.yaml", path)
        assert sandbox.inline("seeds=1", "rerun=missing", grid=str(path), tracker="mlflow") == 0, name
        experiment = store.get_experiment_by_name(f"unigrpo/{name}").experiment_id
        kinds = Counter(run.data.tags["kind"] for run in store.search_runs([experiment]))
        assert kinds == {"sweep": 1, "cell": 4}, name
        assert "warning" not in capsys.readouterr().out, name


@pytest.fixture
def ended(sandbox, monkeypatch):
    """A sweep of which nothing is mirrored yet; a mirror that would wait for its store fails the test."""

    def refuse(_):
        raise AssertionError("it waits")

    sandbox.inline("seeds=1")
    monkeypatch.setattr("ablations.tracking.time.sleep", refuse)
    return sandbox


def altered(migrated, folder, version):
    path = folder / "altered.db"
    shutil.copy(migrated, path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("update alembic_version set version_num = ?", (version,))
    return f"sqlite:///{path}"


def no_database(migrated, folder):
    (folder / "text.db").write_text("not a database " * 100)
    return f"sqlite:///{folder}/text.db"


def read_only(migrated, folder):
    shutil.copy(migrated, folder / "ro.db")
    return f"sqlite:///file:{folder}/ro.db?mode=ro&uri=true"


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        (lambda migrated, folder: altered(migrated, folder, "ffffffffffff"), "mlflow db upgrade"),
        (lambda migrated, folder: altered(migrated, folder, "451aebb31d03"), "mlflow db upgrade"),
        (no_database, "move that file away"),
        (read_only, "make the database writable"),
        (lambda _, folder: f"sqlite:///{folder}", "another store"),
        (lambda _, folder: f"{folder}/mlruns", "to a database such as sqlite:///mlflow.db"),
        (lambda *_: "nothing://nowhere", "MLFLOW_TRACKING_URI"),
        (lambda *_: "postgresql+nodriver://u:secret@localhost/db", "MLFLOW_TRACKING_URI"),
    ],
    ids=["newer", "older", "text", "read-only", "folder", "file store", "scheme", "driver"],
)
def test_a_refusal_that_lasts_is_told_at_once(ended, migrated, tmp_path, monkeypatch, capsys, address, advice):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(migrated, tmp_path))
    capsys.readouterr()
    assert ended.inline("seeds=1", tracker="mlflow") == 0
    output = capsys.readouterr()
    (warning,) = [line for line in output.out.splitlines() if "warning" in line]
    assert warning.startswith("warning: MLflow refuses: ")
    assert advice in warning
    assert "then the same command mirrors it" in warning
    assert "MLflow: nothing was written to" in output.out
    assert "secret" not in output.out
    assert "Traceback" not in output.err


class Answer(http.server.BaseHTTPRequestHandler):
    """Says the same to whatever asks for or sends a run, and that there is an experiment."""

    def do_GET(self):
        known = {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}}
        looks = self.path.partition("?")[0].endswith("experiments/get-by-name")
        body = json.dumps(known).encode() if looks else self.server.body
        self.send_response(200 if looks else self.server.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("code", "body", "advice"),
    [
        (401, b"who are you?", "MLFLOW_TRACKING_TOKEN"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', "get the right"),
        (404, b"<html>", "address of an MLflow server"),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', "address of an MLflow server"),
        (200, b"<html>please sign in</html>", "address of an MLflow server"),
    ],
)
def test_a_server_that_refuses_is_no_server_that_is_down(ended, server, capsys, code, body, advice):
    server.code, server.body = code, body
    capsys.readouterr()
    assert ended.inline("seeds=1", tracker="mlflow") == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "refuses" in warning
    assert advice in warning


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_in_trouble_is_waited_for(ended, server, capsys, monkeypatch, code):
    server.code, server.body = code, b"later"
    waits = []
    monkeypatch.setattr("ablations.tracking.time.sleep", waits.append)
    monkeypatch.setattr("ablations.tracking.PATIENCE", 0.2)
    assert ended.inline("seeds=1", tracker="mlflow") == 0
    assert waits
    assert "the same command catches up later" in capsys.readouterr().out


def test_what_locks_or_fills_a_database_passes():
    for message, name in (("database is locked", "SQLITE_BUSY"), ("database or disk is full", "SQLITE_FULL")):
        fault = sqlite3.OperationalError(message)
        fault.sqlite_errorname = name
        assert way_out(fault) == ""
    assert way_out(OSError(errno.ENOSPC, "no space left")) == ""
    assert way_out(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) == ""
    assert "can be written" in way_out(PermissionError(errno.EACCES, "denied"))
    assert "install" in way_out(ImportError("no mlflow", name="mlflow"))


def test_settings_of_the_surroundings_change_nothing_that_is_mirrored(sandbox, store, monkeypatch):
    for name, value in {
        "MLFLOW_EXPERIMENT_NAME": "another",
        "MLFLOW_EXPERIMENT_ID": "77",
        "MLFLOW_RUN_ID": "f" * 32,
        "MLFLOW_REGISTRY_URI": "nothing://nowhere",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
        "MLFLOW_TRUNCATE_LONG_VALUES": "false",
        "MLFLOW_TRACKING_URI": "  ",
    }.items():
        monkeypatch.setenv(name, value)
    assert sandbox.inline("seeds=1", tracker="mlflow") == 0
    found = runs(store)
    assert Counter(run.data.tags["kind"] for run in found) == {"sweep": 1, "cell": 4}
    assert all("train/reward" in run.data.metrics for run in found if run.data.tags.get("arm") == "none")
    assert [experiment.name for experiment in store.search_experiments()] == ["unigrpo/kl_vs_mse", "Default"]


def test_a_damaged_picture_costs_itself_alone(sandbox, store, capsys):
    sandbox.inline("seeds=1")
    add_picture(sandbox, "none")
    (sandbox.cell("none", 0) / "samples" / "p017.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    assert sandbox.inline("seeds=1", tracker="mlflow") == 0
    assert "p017.png is left out" in capsys.readouterr().out
    assert Counter(run.data.tags["kind"] for run in runs(store)) == {"sweep": 1, "cell": 4}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("odd=name", "odd_name"),
        ("a//b", "a/_/b"),
        ("../up", "_/up"),
        ("/abs/", "_/abs/_"),
        (".", "_"),
        ("", "_"),
        ("ünï: 日本 ok", "ünï: 日本 ok"),
        ("nul\0\n'\"`%\ud800", "nul_______"),
        ("x" * 300, "x" * 250),
    ],
)
def test_keys_are_what_mlflow_takes(name, key):
    from mlflow.utils.validation import _validate_metric_name

    assert keys([name]) == {name: key}
    _validate_metric_name(key)


def test_two_names_never_share_a_key():
    found = keys(["a=b", "a%b", "a_b", "x" * 300, "x" * 301])
    assert len(set(found.values())) == 5
    assert found["a_b"] == "a_b"
    assert all(len(key) <= 250 for key in found.values())


def test_text_is_what_a_database_holds():
    assert text_of("a\0b\ud800\x1b 日本\n", 100) == "a_b__ 日本\n"
    assert text_of("latent_kl@weight=0.1", 10) == "laten…=0.1"


def test_addresses_are_shown_without_what_is_secret():
    assert public("postgresql://u:p@ss@host/db?x=1&sslpassword=q&y=2") == "postgresql://host/db?x=1&sslpassword=...&y=2"
    assert public("http://host:5000/#/experiments/1") == "http://host:5000/#/experiments/1"


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
