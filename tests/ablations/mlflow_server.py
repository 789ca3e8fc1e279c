"""What is in a real store of MLflow, and its server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request

from tests.ablations.conftest import wait_for
from tests.pages import MLFLOW_UI


def runs(store, query=""):
    experiment = store.get_experiment_by_name("unigrpo/kl_vs_mse")
    return store.search_runs([experiment.experiment_id], query)


def serve(sandbox, folder, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server, by the command that the pages show; returns when it answers."""
    words = [word.replace("runs/mlflow.db", f"{folder}/mlflow.db") for word in MLFLOW_UI]
    options = [f"--port={port}", "--workers=1", f"--artifacts-destination={folder}/artifacts"]
    command = [sys.executable, "-m", *words, *options]
    outside = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    environment = {**outside, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
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
