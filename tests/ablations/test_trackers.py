"""Trackers with files of their own, read back by their own readers."""

from __future__ import annotations

import json
import struct

import pytest

from ablations.request import read
from ablations.trackers import Mlflow, Untracked
from tests.ablations.test_tracking import add_picture
from unigrpo.errors import ConfigError
from unigrpo.registry import strategies

ARM = "a/b <b>"
GRID = f"""
question: "?"
recipe: unigrpo
baseline: "../../up"
primary: {{metric: geneval/strict, direction: max}}
seeds: [0]
arms: {{"../../up": [regularizer=none], "{ARM}": [regularizer=velocity_mse], LONG: [regularizer=latent_kl]}}
"""


def runs(sandbox):
    """Folder of a run below the sweep's -> what TensorBoard's own reader finds in it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (base,) = (sandbox.root / "tensorboard").iterdir()
    found = {}
    for events in base.rglob("events.out*"):
        reader = EventAccumulator(str(events.parent), size_guidance={"scalars": 0, "images": 0})
        found[events.parent.relative_to(base).as_posix()] = reader.Reload()
    return found


@pytest.fixture
def tensorboard(sandbox, capsys):
    """A sandbox with a sweep of one seed that was mirrored to TensorBoard after it had ended."""
    pytest.importorskip("tensorboard")
    sandbox.behave(**{"velocity_mse:0": "raise"})
    sandbox.inline("seeds=1")
    add_picture(sandbox, "none")
    capsys.readouterr()
    assert sandbox.inline("seeds=1", tracker="tensorboard") == 1
    return sandbox


def test_every_cell_is_a_run_of_tensorboard(tensorboard, capsys):
    found = runs(tensorboard)
    assert set(found) == {"untouched/s0", "none/s0", "latent_kl/s0", "velocity_mse/s0"}
    none = found["none/s0"]
    rows = [json.loads(row) for row in (tensorboard.cell("none", 0) / "metrics.jsonl").read_text().splitlines()]
    curve = [(point.step, point.value) for point in none.Scalars("train/reward")]
    assert curve == [(row["step"], pytest.approx(row["train/reward"])) for row in rows]
    result = json.loads((tensorboard.cell("none", 0) / "result.json").read_text())["metrics"]
    (final,) = none.Scalars("geneval/strict")
    assert (final.step, final.value) == (4, pytest.approx(result["geneval/strict"]))
    (picture,) = none.Images("samples/p017")
    assert (picture.width, picture.height, picture.encoded_image_string[:4]) == (8, 8, b"\x89PNG")
    assert f"TensorBoard: tensorboard --logdir {tensorboard.root / 'tensorboard'}" in capsys.readouterr().out


def test_its_hyperparameters_are_arm_seed_and_what_the_arms_differ_in(tensorboard):
    from tensorboard.plugins.hparams.metadata import PLUGIN_NAME, parse_session_start_info_plugin_data

    (content,) = runs(tensorboard)["latent_kl/s0"].PluginTagToContent(PLUGIN_NAME).values()
    found = parse_session_start_info_plugin_data(content).hparams
    assert (found["arm"].string_value, found["seed"].number_value) == ("latent_kl", 0)
    assert found["regularizer.name"].string_value == "latent_kl"
    assert found["optim.updates"].number_value == 4


def test_cells_are_written_once_and_anew_if_they_are_gone_or_end_otherwise(tensorboard):
    (base,) = (tensorboard.root / "tensorboard").iterdir()
    before = {path: path.read_bytes() for path in base.rglob("events.out*")}
    tensorboard.inline("seeds=1", tracker="tensorboard")
    assert {path: path.read_bytes() for path in base.rglob("events.out*")} == before
    (base / "none" / "s0" / "signature").unlink()  # as after a kill
    tensorboard.behave()
    assert tensorboard.inline("seeds=1", "rerun=failed", tracker="tensorboard") == 0
    found = runs(tensorboard)
    assert set(found) == {"untouched/s0", "none/s0", "latent_kl/s0", "velocity_mse/s0"}
    assert len(found["velocity_mse/s0"].Scalars("geneval/strict")) == 1
    assert len(found["none/s0"].Scalars("geneval/strict")) == 1


def test_names_of_arms_lead_nowhere_else(sandbox, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "mine.yaml").write_text(GRID.replace("LONG", "x" * 300))
    assert sandbox.inline(grid=str(tmp_path / "mine.yaml"), tracker="tensorboard") == 0
    found = runs(sandbox)
    assert len(found) == 4
    assert all(len(run.Scalars("geneval/strict")) == 1 for run in found.values())


def test_a_tracker_that_fails_stops_no_sweep(sandbox, capsys):
    pytest.importorskip("tensorboard")
    sandbox.root.mkdir()
    (sandbox.root / "tensorboard").write_text("in the way")
    assert sandbox.inline("seeds=1", tracker="tensorboard") == 0
    told = capsys.readouterr()
    assert (told.out + told.err).count("the same command mirrors what is missing") == 1
    (sandbox.root / "tensorboard").unlink()
    sandbox.inline("seeds=1", tracker="tensorboard")
    assert len(runs(sandbox)) == 4


def test_weights_and_biases_is_written_to_files_without_a_key(sandbox, monkeypatch, capsys, tmp_path):
    """Nobody is asked for a key, and no network is needed."""
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "mine.yaml").write_text(GRID.replace("LONG", "x" * 300))
    given = {"grid": str(tmp_path / "mine.yaml")}
    sandbox.inline(f"only={ARM}:0", **given)
    add_picture(sandbox, ARM)
    capsys.readouterr()
    sandbox.inline(f"only={ARM}:0", tracker="wandb", **given)
    sandbox.inline(f"only={ARM}:0", tracker="wandb", **given)
    (run,) = (sandbox.root / "wandb").glob("offline-run-*")
    history, summary, settings = [], {}, {}
    for record in _records(next(run.glob("*.wandb"))):
        if record.HasField("history"):
            history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        if record.HasField("run") and record.run.config.update:
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            assert (record.run.run_group, record.run.display_name) == (ARM, f"{ARM}/s0")
    for row in history:
        summary |= row
    rows = [json.loads(row) for row in (sandbox.cell(ARM, 0) / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/reward"] for row in history[: len(rows)]] == [row["train/reward"] for row in rows]
    result = json.loads((sandbox.cell(ARM, 0) / "result.json").read_text())["metrics"]
    assert summary["geneval/strict"] == result["geneval/strict"]
    assert any(key.startswith("samples/p017") for key in summary)
    assert (settings["arm"], settings["seed"], settings["regularizer.name"]) == (ARM, "0", "velocity_mse")
    assert f"Weights & Biases: wandb sync {sandbox.root / 'wandb'}/offline-run-*" in capsys.readouterr().out


def _key(item):
    return item.key or ".".join(item.nested_key)


def _records(path):
    """The records of a run's file: after 7 bytes a log as LevelDB has it, blocks of 32 KiB with pieces of records."""
    from wandb.proto import wandb_internal_pb2

    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        left = -at % 2**15
        if 0 < left < 7:  # no room for the head of a piece: checksum, length, kind
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_a_missing_package_is_said_before_anything_runs(sandbox, monkeypatch, capsys):
    monkeypatch.setattr("ablations.trackers.contents.find_spec", lambda name: None)
    for tracker in ("tensorboard", "wandb"):
        assert sandbox.inline("seeds=1", "dry_run=true", tracker=tracker) == 2
        assert f"tracker={tracker}: the package {tracker} is not installed; pip install" in capsys.readouterr().err
    assert not sandbox.root.exists()


def test_trackers_are_strategies_of_a_slot():
    assert set(strategies("tracker")) >= {"mlflow", "none", "tensorboard", "wandb"}
    assert isinstance(read(["grid=kl_vs_mse"]).tracker, Mlflow)
    assert isinstance(read(["grid=kl_vs_mse", "tracker=none"]).tracker, Untracked)
    with pytest.raises(ConfigError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        read(["grid=kl_vs_mse", "tracker=tensorbord"])
