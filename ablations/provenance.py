"""The time, and the commit of the code."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from unigrpo.io import read_json


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def git_sha() -> str:
    """Commit of the code, with ``+`` if there are uncommitted changes; empty outside of a repository."""
    here = Path(__file__).parent
    if copied := read_json(here.parent / "snapshot.json"):  # a snapshot of the code records its commit
        return str(copied["git_sha"])
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)  # the code may be inside another repository
        sha = _git(here, "rev-parse", "HEAD").strip()
        return sha + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout
