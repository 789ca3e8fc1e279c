"""Commands on terminals that cannot show what they print, or without one."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from unigrpo import console
from unigrpo.registry.__main__ import main as registry


def test_a_letter_that_the_terminal_has_not_is_printed_by_its_number(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    registry([])
    print("a \u2192 b")
    print("nowhere", file=sys.stderr)
    sys.stdout.flush()
    assert b"a \\u2192 b" in raw.getvalue()


def test_other_streams_are_left_alone(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    console.prepare()
    assert sys.stdout is stream


@pytest.mark.parametrize("closed", ["", ">&-"])
def test_a_plan_needs_no_letters_and_no_terminal(tmp_path, closed):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "question: caf\u00e9?\nrecipe: unigrpo\nbaseline: \u03b2\nseeds: [0]\nalpha: 0.05\ncorrection: none\n"
        "primary: {metric: geneval/strict, direction: max}\narms: {\u03b2: [], \u65e5\u672c: [regularizer=none]}\n",
        encoding="utf-8",
    )
    command = f"exec {sys.executable} -m ablations.sweep grid={grid} dry_run=true root={tmp_path / 'runs'} {closed}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (rb"\u65e5\u672c:0" in done.stdout) == (not closed)
