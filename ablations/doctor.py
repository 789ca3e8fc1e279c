"""``action=doctor``: whether a sweep can run here, and what to fix."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Free space below which a sweep is likely to fill the disk.
LEAST_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    what: str
    found: str
    fix: str = ""
    """What to do; empty if all is well."""


def checks_of_folder(root: Path) -> Iterator[Check]:
    """Whether ``root`` can hold a sweep."""
    name = root / f"doctor.{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            yield Check("claims", "a file was created exclusively, twice", "use a file system with exclusive creation")
        except FileExistsError:
            yield Check("claims", f"files in {root} are created exclusively")
        yield _locks(name)
        name.rename(name.with_suffix(".moved"))
        name.with_suffix(".moved").unlink()
    except OSError as error:
        yield Check("folder", f"cannot write in {root}: {error}", "choose another root=")
        return
    free = shutil.disk_usage(root).free / 2**30
    yield Check("disk", f"{free:.0f} GiB are free", "" if free > LEAST_GIB else "make room, or choose another root=")


def _locks(path: Path) -> Check:
    """Whether the file ``path`` can be locked: submitting jobs and mirroring need a lock."""
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Check("locks", f"flock: {error}", "choose a root= whose file system has flock (Lustre: mount -o flock)")
    return Check("locks", "flock works")


def report(checks: Iterable[Check]) -> bool:
    """Print each check when it is made; returns whether nothing has to be fixed."""
    well = True
    for check in checks:
        print(f"{'fix' if check.fix else 'ok':<5} {check.what:<11} {check.found}", flush=True)
        if check.fix:
            well = False
            print(f"      -> {check.fix}", flush=True)
    print("all is well" if well else "something has to be fixed")
    return well
