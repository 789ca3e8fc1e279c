"""Takes the pictures of ``mlflow.md`` from MLflow's own pages: ``python docs/mlflow_pictures.py ROOT``.

ROOT is the folder of a sweep that has been mirrored to its own database.  Needs playwright, and chromium on PATH.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ablations.store_memory import Memory
from ablations.store_views import addresses

HERE = Path(__file__).parent
PORT = 5011
#: The panel of the assistant opens by itself once a browser, over a third of the page.
NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
#: Pixels of the page.
SIZE = {"width": 1360, "height": 640}
#: Colours of a picture: enough for a page, and a quarter of the bytes.
COLOURS = 96


def main(root: Path) -> None:
    """Write one picture a page beside this file."""
    (record,) = root.glob("sweeps/*/mlflow.json")
    uri = f"sqlite:///{(root / 'mlflow.db').resolve()}"
    memory = Memory(record, uri)
    table, charts = addresses(memory.experiment, memory.views or ())
    command = [sys.executable, "-m", "mlflow", "ui", f"--port={PORT}", "--workers=1", f"--backend-store-uri={uri}"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(command, env={**os.environ, **settings}, start_new_session=True)
    try:
        _wait()
        with sync_playwright() as tool:
            options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
            browser = tool.chromium.launch(**options)
            page = browser.new_page(viewport=SIZE)
            page.add_init_script(NO_ASSISTANT)
            _take(page, table, "[role=gridcell][col-id='params.`arm`']", "mlflow_arms.png")
            _take(page, charts, ".js-plotly-plot", "mlflow_charts.png")
            browser.close()
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait() -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the server of MLflow does not answer")


def _take(page: Page, address: str, shown: str, name: str) -> None:
    page.goto(f"http://127.0.0.1:{PORT}{address}")
    page.get_by_role("button", name="Hide banner").click(timeout=120_000)
    page.locator(shown).first.wait_for(timeout=120_000)
    page.wait_for_timeout(4000)  # charts are drawn, and move
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(COLOURS).save(HERE / name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
