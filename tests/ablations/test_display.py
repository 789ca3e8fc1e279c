"""What is shown, and where it goes when nobody is there to read it."""

from __future__ import annotations

import os
import sys

from ablations.display import LiveView, unfailing_output


def test_a_table_that_never_began_still_says_what_there_is_to_say(capsys):
    LiveView("geneval/strict", 1).say("warning: MLflow is down")
    assert capsys.readouterr().out == "warning: MLflow is down\n"


def test_what_nobody_reads_goes_nowhere(monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        os.close(reader)
        with unfailing_output():
            print("this cannot be written", flush=True)
            print("nor this")
            assert sys.stdout.isatty() is False
        stream.write("nor what others write")
