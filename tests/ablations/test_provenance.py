"""By which code something was made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ablations import provenance


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Somebody's repository with one commit; the code is below ``site-packages``, which is not part of it."""
    git(tmp_path, "init", "-q")
    (tmp_path / "work.py").touch()
    git(tmp_path, "add", "work.py")
    git(tmp_path, "commit", "-q", "-m", "work")
    module = tmp_path / "site-packages" / "ablations" / "provenance.py"
    module.parent.mkdir(parents=True)
    shutil.copy(provenance.__file__, module)
    monkeypatch.setattr(provenance, "__file__", str(module))
    return tmp_path


def test_the_commit_of_another_project_is_not_told(project):
    assert provenance.git_sha() == ""


def test_the_commit_of_the_code_is_told_and_whether_it_was_changed(project):
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "code")
    commit = git(project, "rev-parse", "HEAD")
    assert provenance.git_sha() == commit
    (project / "work.py").write_text("changed")
    assert provenance.git_sha() == f"{commit}+"


def test_there_need_be_no_git(project, monkeypatch):
    monkeypatch.setenv("PATH", str(project))
    assert provenance.git_sha() == ""
