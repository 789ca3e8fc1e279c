"""A copy of the code: jobs that start later run the submitted code, even if it is edited in the meantime."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from pathlib import Path

from ablations.provenance import git_sha
from unigrpo.io import write_json

#: What every worker imports.
PACKAGES = ("unigrpo", "ablations", "benchmarks", "reports")
#: Folders that packages are installed in.
_INSTALLED = {"site-packages", "dist-packages"}


def take(root: Path, runner: str) -> Path:
    """Copy the project's code and the user's to ``root/code/<digest>``, unless it is there; returns that folder.

    The user's code is what was imported from the current folder, such as strategies, and the package of ``runner``.

    Raises:
        OSError: the folder cannot be written.
    """
    files = dict(sorted(_files(runner)))
    sha = hashlib.sha256()
    for name, path in files.items():
        sha.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    folder = root.resolve() / "code" / sha.hexdigest()[:12]
    if folder.exists():
        os.utime(folder)  # marks it as used, so that action=gc keeps it
    else:
        temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        for name, path in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        write_json(temporary / "snapshot.json", {"git_sha": git_sha()})
        try:
            temporary.rename(folder)
        except OSError:  # another controller was faster
            shutil.rmtree(temporary)
            if not folder.exists():
                raise
    return folder


def _files(runner: str) -> Iterator[tuple[str, Path]]:
    """(name in the copy, file) of whole packages, with the data files beside their modules."""
    for name in {*PACKAGES, runner.partition(".")[0].partition(":")[0], *_users()}:
        spec = importlib.util.find_spec(name)
        if spec is None or (spec.origin is None and not spec.submodule_search_locations):
            continue
        if not spec.submodule_search_locations:
            yield Path(str(spec.origin)).name, Path(str(spec.origin))
            continue
        for location in map(Path, spec.submodule_search_locations):
            for folder, below, names in os.walk(location):
                below[:] = [inner for inner in below if inner != "__pycache__" and not inner.startswith(".")]
                for file in names:
                    path = Path(folder) / file
                    yield f"{name}/{path.relative_to(location).as_posix()}", path


def _users() -> set[str]:
    """Top-level names of modules imported from the current folder, without packages installed there."""
    here = Path.cwd().resolve()
    # Installed packages may be below the current folder too: in an environment, or in ~/.local.
    standard = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    loaded = ((name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()))
    # Some modules, such as torch.ops, name a file that does not exist.
    files = ((name, Path(file).resolve()) for name, file in loaded if file and Path(file).is_file())
    mine = ((name, file) for name, file in files if file.is_relative_to(here) and _INSTALLED.isdisjoint(file.parts))
    own = (name for name, file in mine if not any(map(file.is_relative_to, standard)))
    return {name.partition(".")[0] for name in own} - {"__main__", "__mp_main__"}
