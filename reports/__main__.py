"""``python -m reports SWEEP``: write the report of a sweep's folder, or of the newest sweep of a grid."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

#: Where sweeps lie unless told otherwise.
SWEEPS = Path("runs/sweeps")


def find(name: str) -> Path | None:
    """The folder that ``name`` means: a path, a folder under ``runs/sweeps``, or a grid's newest sweep there."""
    for folder in (Path(name), SWEEPS / name):
        if (folder / "sweep.json").is_file():
            return folder
    return max(
        (path.parent for path in SWEEPS.glob(f"{name}-*/sweep.json") if path.parent.name.rpartition("-")[0] == name),
        key=lambda folder: (_created(folder), folder.name),
        default=None,
    )


def _created(folder: Path) -> str:
    try:
        return str(json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 on success, 1 if the report or a figure failed, 2 if there is no such sweep."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")  # whatever the terminal can show
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    parser.add_argument("sweep", help="a sweep's folder, or the name of a grid or folder under runs/sweeps")
    name = parser.parse_args(arguments).sweep
    folder = find(name)
    if folder is None:
        known = sorted(path.parent.name for path in SWEEPS.glob("*/sweep.json"))
        print(f"no sweep {name!r}; under {SWEEPS}: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    from reports.collect import BrokenSweepError
    from reports.pages import write_report

    try:
        written = write_report(folder)
    except (BrokenSweepError, OSError) as error:
        print(f"cannot write the report: {error}", file=sys.stderr)
        return 1
    print(written.page)
    for fault in written.faults:
        print(f"a figure could not be drawn: {fault}", file=sys.stderr)
    return 1 if written.faults else 0


if __name__ == "__main__":
    sys.exit(main())
