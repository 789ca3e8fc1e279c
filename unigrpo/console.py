"""What every command does to its streams before it prints."""

from __future__ import annotations

import io
import os
import sys


def prepare() -> None:
    """Let no letter that a terminal has not, and no stream that is closed, end a command; print its number instead."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the command was started with it closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
