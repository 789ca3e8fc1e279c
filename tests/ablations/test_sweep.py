"""The command end to end, with a trainer that trains nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import reports
from ablations.cells import CellFolder, State
from ablations.launchers.local import visible_gpus
from ablations.sweep import main
from reports.collect import read
from tests.ablations.conftest import PATIENCE, REPOSITORY, outcome, wait_for

SMALL = "seeds=2"


def test_a_sweep_runs_every_cell_once_and_running_it_again_runs_nothing(sandbox, capsys):
    assert sandbox.inline(SMALL) == 0
    assert len(sandbox.starts()) == len(sandbox.results()) == 7
    assert "7 cells: 7 done" in capsys.readouterr().out
    before = sandbox.results()
    assert sandbox.inline(SMALL) == 0
    assert len(sandbox.starts()) == 7
    assert sandbox.results() == before


def test_sweep_json_says_what_the_report_needs(sandbox):
    sandbox.inline(SMALL, "dynamics=flow_sde,ode", "only=untouched:*")
    sweep = sandbox.sweep()
    assert sweep["baseline"] == "latent_kl@dynamics=flow_sde"
    assert sweep["seeds"] == [0, 1]
    assert sweep["command"][:4] == ["python", "-m", "ablations.sweep", "grid=kl_vs_mse"]
    arms = {arm["name"]: arm for arm in sweep["arms"]}
    assert list(arms["untouched"]["cells"]) == ["0"]
    assert list(arms["none@dynamics=flow_sde"]["cells"]) == ["0", "1"]
    assert arms["none@dynamics=ode"]["cells"] == {}
    assert {entry["arm"] for entry in sweep["refused"]} == {name for name in arms if name.endswith("ode")}
    (folder,) = sandbox.root.glob("sweeps/*")
    assert (folder / sweep["root"]).resolve() == (sandbox.root / "cells").resolve()
    assert read(folder).baseline == sweep["baseline"]


def test_growing_the_seeds_reuses_the_cells(sandbox):
    sandbox.inline("seeds=1")
    assert sandbox.inline("seeds=[0,5]") == 0
    assert len(sandbox.starts()) == 4 + 3
    assert sandbox.sweep()["seeds"] == [0, 5]


def test_a_failed_cell_fails_alone_and_is_tried_again_on_request(sandbox, capsys):
    sandbox.behave(**{"none:0": "raise", "latent_kl:1": "nan"})
    assert sandbox.inline(SMALL) == 1
    assert "7 cells: 5 done, 2 failed" in capsys.readouterr().out
    failure = CellFolder(sandbox.cell("none", 0)).failure()
    assert (failure["cause"], failure["message"]) == ("exception", "ValueError: told to <fail>")
    assert "fake_trainer" in failure["traceback"]
    failure = CellFolder(sandbox.cell("latent_kl", 1)).failure()
    assert (failure["cause"], failure["step"]) == ("non_finite", 1)

    started = len(sandbox.starts())
    assert sandbox.inline(SMALL) == 1
    assert len(sandbox.starts()) == started
    sandbox.behave()
    assert sandbox.inline(SMALL, "rerun=failed") == 0
    assert len(sandbox.starts()) == started + 2
    assert CellFolder(sandbox.cell("none", 0)).failure() is None


def test_rerun_all_starts_afresh_and_rerun_none_starts_nothing(sandbox):
    assert sandbox.inline("seeds=1", "rerun=none") == 1
    assert sandbox.starts() == []
    sandbox.inline("seeds=1")
    before = sandbox.results()
    assert sandbox.inline("seeds=1", "rerun=all") == 0
    assert sorted(Counter(sandbox.starts()).values()) == [2, 2, 2, 2]
    assert sandbox.results() == before
    rows = (sandbox.cell("none", 0) / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 4


def test_only_runs_a_part(sandbox):
    assert sandbox.inline(SMALL, "only=velocity_mse:*") == 0
    assert len(sandbox.results()) == 2
    assert sandbox.inline(SMALL, "only=velocity:*") == 2


def test_a_configuration_that_the_trainer_refuses_fails_its_cell(sandbox, monkeypatch):
    from tests.ablations import fake_trainer
    from unigrpo.errors import ConfigError

    def refuse(*_, **__):
        raise ConfigError("cannot run")

    monkeypatch.setattr(fake_trainer, "run", refuse)
    assert sandbox.inline("seeds=1", "only=none:0") == 1
    assert CellFolder(sandbox.cell("none", 0)).failure()["cause"] == "config"


def test_a_full_disk_ends_the_sweep_without_failing_the_cell(sandbox, capsys):
    sandbox.behave(**{"latent_kl:0": "full"})
    assert sandbox.inline(SMALL) == 1
    assert "disk full or read-only" in capsys.readouterr().err
    cell = CellFolder(sandbox.cell("latent_kl", 0))
    assert cell.state() is State.MISSING
    assert len(sandbox.results()) == 2  # what came before is kept, nothing was started after
    sandbox.behave()
    assert sandbox.inline(SMALL) == 0


def test_a_root_that_cannot_be_written_is_told_before_anything_runs(tmp_path, capsys):
    (tmp_path / "taken").write_text("a file, which holds no folder: for root, no permission is missing anywhere")
    arguments = ["grid=modalities", f"root={tmp_path / 'taken' / 'runs'}", "tracker=none", "launcher=inline"]
    assert main(arguments, runner="tests.ablations.fake_trainer:run") == 2
    assert "cannot write in root=" in capsys.readouterr().err


def test_a_report_that_fails_costs_no_cell(sandbox, monkeypatch, capsys):
    def broken(folder: Path) -> Path:
        raise ZeroDivisionError("no report")

    monkeypatch.setattr(reports, "write", broken)
    assert sandbox.inline("seeds=1") == 1
    captured = capsys.readouterr()
    assert "4 cells: 4 done" in captured.out
    assert "the report failed: ZeroDivisionError: no report" in captured.err


def test_the_report_is_written_again_only_when_something_changed(sandbox, monkeypatch):
    written = []
    write = reports.write
    monkeypatch.setattr(reports, "write", lambda folder: written.append(folder) or write(folder))
    sandbox.inline("seeds=1")
    sandbox.inline("seeds=1")
    assert len(written) == 1
    sandbox.inline("seeds=2")
    sandbox.inline("seeds=2", "action=report")
    assert len(written) == 3


def test_local_workers_isolate_what_kills_them(sandbox):
    sandbox.behave(**{"none:0": "die", "latent_kl:0": "die_once", "velocity_mse:0": "raise"})
    output = sandbox.finish("seeds=1", "launcher.workers=2", code=1)
    assert "4 cells: 2 done, 2 failed" in output
    killed = "its process was killed by signal 9, as the kernel does where memory runs out"
    assert f"latent_kl:0: {killed}; it goes on from its checkpoint" in output
    assert f"none:0: {killed}; it is started again, 2 of 3 times without a new checkpoint" in output
    failure = CellFolder(sandbox.cell("none", 0)).failure()
    often = "the last 3 attempts ended so without a new checkpoint"
    assert (failure["cause"], failure["message"]) == ("killed", f"{killed}; {often}")
    assert "ValueError: told to <fail>" in (sandbox.cell("velocity_mse", 0) / "log.txt").read_text()
    resumed = sandbox.cell("latent_kl", 0).name
    assert [line for line in sandbox.starts() if line.startswith(resumed)] == [f"{resumed} 0", f"{resumed} 2"]


def test_each_worker_gets_one_gpu_and_one_thread(sandbox):
    sandbox.finish("seeds=1", gpus="7,9")
    places = [json.loads(path.read_text()) for path in sandbox.root.glob("cells/*/env.json")]
    assert {place["CUDA_VISIBLE_DEVICES"] for place in places} == {"7", "9"}
    assert {place["OMP_NUM_THREADS"] for place in places} == {"1"}


@pytest.mark.parametrize(
    ("listed", "found"), [("", []), ("-1", []), ("0", ["0"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_the_gpus_that_may_be_used_are_known_without_torch(monkeypatch, listed, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == found


def test_the_driver_is_asked_for_gpus_where_nothing_restricts_them(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    tool.unlink()
    assert visible_gpus() == []


def test_on_a_terminal_a_table_shows_arms_and_states(sandbox, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    sandbox.behave(**{"none:0": "raise"})
    assert sandbox.inline("seeds=1") == 1
    output = capsys.readouterr().out
    assert "none:0 failed (exception): ValueError: told to <fail>" in output
    assert all(word in output for word in ("arm", "missing", "running", "velocity_mse", "4 of 4 cells"))


def test_ctrl_c_checkpoints_and_the_same_command_goes_on(sandbox):
    sandbox.behave(all="held")
    controller = sandbox.controller("seeds=1", "launcher.workers=2")
    wait_for(lambda: len(sandbox.starts()) >= 3)
    controller.send_signal(signal.SIGINT)
    output, _ = outcome(controller, code=130)
    assert "to go on:\n  python -m ablations.sweep grid=kl_vs_mse" in output
    assert len(sandbox.results()) < 4
    states = [CellFolder(path).state() for path in sandbox.root.glob("cells/*")]
    assert set(states) <= {State.DONE, State.MISSING}
    sandbox.behave()
    started = len(sandbox.starts())
    assert sandbox.inline("seeds=1") == 0
    assert any(int(line.split()[1]) > 0 for line in sandbox.starts()[started:])


def test_two_controllers_at_once_run_no_cell_twice_and_both_see_the_end(sandbox):
    sandbox.behave(sleep=0.05)
    controllers = [sandbox.controller("seeds=3", "launcher.workers=2") for _ in range(2)]
    for controller in controllers:
        output, _ = outcome(controller)
        assert "10 cells: 10 done" in output
    assert sorted(Counter(sandbox.starts()).values()) == [1] * 10
    rows = [row for path in sandbox.root.glob("cells/*/events.jsonl") for row in path.read_text().splitlines()]
    assert sum(json.loads(row)["event"] == "claimed" for row in rows) == 10


def test_random_kills_lose_nothing(sandbox):
    undisturbed = sandbox.beside("undisturbed")
    undisturbed.inline(SMALL)
    sandbox.behave(sleep=0.02)
    chance = random.Random(7)
    for _ in range(4):
        controller = sandbox.controller(SMALL, "launcher.workers=2")
        goal = len(sandbox.starts()) + chance.randint(1, 3)
        wait_for(lambda goal=goal, it=controller: len(sandbox.starts()) >= goal or it.poll() is not None)
        # Whoever is hit: workers that the controller outlives, a controller that its workers outlive, or all.
        targets = sandbox.workers()
        if controller.poll() is None:
            targets.append(controller.pid)
        for pid in chance.sample(targets, min(len(targets), chance.randint(1, 3))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        controller.communicate(timeout=PATIENCE)
    sandbox.behave()
    sandbox.finish(SMALL)  # no kill has made a cell a failed one
    assert sandbox.results() == undisturbed.results()
    for history in sandbox.root.glob("cells/*/events.jsonl"):
        events = Counter(json.loads(row)["event"] for row in history.read_text().splitlines())
        assert events["done"] <= 1 <= events["claimed"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "which grid? grid=NAME"),
        (["grid=kl_vs_ms"], "unknown grid 'kl_vs_ms'; did you mean 'kl_vs_mse'?"),
        (["gird=kl_vs_mse"], "unknown key 'gird'; did you mean 'grid'?"),
        (["grid=kl_vs_mse", "rerunn=all"], "unknown key 'rerunn'; did you mean 'rerun'?"),
        (["grid=kl_vs_mse", "regularizr=none"], "unknown key 'regularizr'; did you mean 'regularizer'?"),
        (["grid=kl_vs_mse", "rerun=fialed"], "rerun: unknown 'fialed'; did you mean 'failed'?"),
        (["grid=kl_vs_mse", "launcher=locl"], "unknown launcher 'locl'; did you mean 'local'?"),
        (["grid=kl_vs_mse", "launcher.worker=2"], "unknown key 'launcher.worker'; did you mean 'workers'?"),
        (["grid=kl_vs_mse", "launcher.workers=-1"], "launcher.workers=-1: expected 0 or more"),
        (["grid=kl_vs_mse", "seeds=0"], "seeds: expected a number of seeds or a list of them"),
        (["grid=kl_vs_mse", "seeds=[1,1]"], "seeds: expected distinct integers"),
        (["grid=kl_vs_mse", "dry_run=ye"], "dry_run: expected true or false"),
        (["grid=kl_vs_mse", "--dryrun"], "'--dryrun' is no key=value"),
        (["grid=kl_vs_mse", "dynamics=ode"], "no arm can run"),
    ],
)
def test_a_mistake_ends_with_2_and_the_nearest_valid_choice(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_and_list_name_what_there_is(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("grid=NAME", "velocity_mse", "rerun", "130", "optim", "kl_vs_mse"))
    assert main(["--list"]) == 0
    assert "grid=cfg_vs_cfg_free" in capsys.readouterr().out


def test_a_dry_run_imports_nothing_heavy_and_touches_nothing(tmp_path):
    code = f"""
import sys
from ablations.launchers.local import visible_gpus
from ablations.sweep import main
assert main(["grid=kl_vs_mse", "seeds=2", "adapter=lora", "root={tmp_path / "runs"}", "--dry-run"]) == 0
heavy = {{"torch", "peft", "mlflow", "scipy", "pandas", "matplotlib", "transformers", "diffusers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 cells: 8 missing" in done.stdout
    assert "with 2 seeds the smallest p that an exact paired test can give is 0.5" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_status_shows_what_there_is(sandbox, capsys):
    sandbox.inline("seeds=1", "only=none:0")
    capsys.readouterr()
    assert sandbox.inline("seeds=1", "action=status") == 0
    assert "4 cells: 3 missing, 1 done" in capsys.readouterr().out
