"""When, and by which code, something was made."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from unigrpo.io import read_json


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def git_sha() -> str:
    """Commit of the code, with ``+`` when files differ from it; empty if no repository has the code."""
    here = Path(__file__).parent
    if copied := read_json(here.parent / "snapshot.json"):  # a copy of the code remembers what it was made from
        return str(copied["git_sha"])
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)  # an environment may lie in another project's
        sha = _git(here, "rev-parse", "HEAD").strip()
        return sha + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout
