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
    """Run the command.

    Returns:
        0 on success; 1 if the report or a figure failed; 2 if there is no such sweep, the condition means nothing, or
        two sweeps cannot be compared; 3 if a condition of ``--fail-if`` holds.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")  # whatever the terminal can show
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m reports", description=__doc__, epilog="python -m reports compare A B: two sweeps side by side"
    )
    if words[:1] == ["compare"] and len(words) > 1:
        parser.add_argument("compare")
        parser.add_argument("sweep", nargs=2, help="as above")
    else:
        parser.add_argument("sweep", help="a sweep's folder, or the name of a grid or folder under runs/sweeps")
        condition = "such as 'geneval/strict<-0.01 or failed>0': exit code 3 if it holds"
        parser.add_argument("--fail-if", default="", metavar="CONDITION", help=condition)
    given = parser.parse_args(words)
    names = given.sweep if isinstance(given.sweep, list) else [given.sweep]
    folders = [folder for name in names if (folder := _found(name)) is not None]
    if len(folders) < len(names):
        return 2
    from reports.collect import BrokenSweepError

    try:
        return _compare(*folders) if len(folders) == 2 else _write(folders[0], given.fail_if)
    except (BrokenSweepError, OSError) as error:
        print(f"cannot write the report: {error}", file=sys.stderr)
        return 1


def _found(name: str) -> Path | None:
    folder = find(name)
    if folder is None:
        known = sorted(path.parent.name for path in SWEEPS.glob("*/sweep.json"))
        print(f"no sweep {name!r}; under {SWEEPS}: {', '.join(known) or 'none'}", file=sys.stderr)
    return folder


def _compare(first: Path, second: Path) -> int:
    from reports.against import UnlikeError, compare
    from reports.collect import read

    try:
        print(compare(read(first), read(second)))
    except UnlikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(folder: Path, fail_if: str) -> int:
    from reports.gate import GateError, broken
    from reports.pages import write_report

    try:
        reasons = broken(folder, fail_if)
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    written = write_report(folder)
    print(written.page)
    for fault in written.faults:
        print(f"a figure could not be drawn: {fault}", file=sys.stderr)
    for note in written.notes:
        print(note, file=sys.stderr)
    for reason in reasons:
        print(f"fail_if: {reason}", file=sys.stderr)
    return 1 if written.faults else 3 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
