"""Seed each bug in a copy of its package, run its tests, say which were noticed: ``python -m tests.mutants [WORD]``.

torch is imported once; each bug is judged in a forked child that imports the mutated copy.  Exit status 0 if all were
killed, 1 if any survived, 2 if the list itself is faulty.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.mutants.bug import ROOT, Bug
from tests.mutants.bugs import BUGS

PASSED, FAILED = 0, 1  # pytest's exit codes; any other means that the tests did not run


def main(word: str = "") -> int:
    """Judge the bugs whose name or file contains ``word``; the exit status."""
    console = Console()
    bugs = [bug for bug in BUGS if word in bug.name or word in bug.file]
    misplaced = [bug for bug in bugs if bug.occurrences() != 1]
    for bug in misplaced:
        console.print(f"[red]{bug.name}[/]: {bug.occurrences()} times in {bug.file}, expected once:\n  {bug.old}")
    if misplaced or not bugs:
        console.print(f"{len(bugs)} bugs match {word!r}, {len(misplaced)} of them cannot be seeded")
        return 2

    warm_up()
    sys.dont_write_bytecode = True  # a mutated file may have the size and second of the right one
    os.environ |= {"HYPOTHESIS_PROFILE": "mutants", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for package in {package_of(bug) for bug in bugs}:
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        for package in sorted({package_of(bug) for bug in bugs}):
            nodes = sorted({node for bug in bugs if package_of(bug) == package for node in bug.tests})
            if pytest_in_child(copy, package, nodes) != PASSED:
                console.print(f"[red]tests named for {package} fail without any bug[/]\n{(copy / 'log').read_text()}")
                return 2
        outcomes = {bug: judge(copy, bug) for bug in track(bugs, "seeding bugs", console=console)}
    return report(console, outcomes)


def warm_up() -> None:
    """Import here what every child needs; the packages under test are imported by the children only."""
    for heavy in ("numpy", "pytest", "torch.distributions", "hypothesis.extra.numpy", "transformers.modeling_utils"):
        importlib.import_module(heavy)
    torch = sys.modules["torch"]
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # its first call imports half of torch.distributed


def package_of(bug: Bug) -> str:
    """The top-level package that the bug is in."""
    return bug.file.partition("/")[0]


def judge(copy: Path, bug: Bug) -> int:
    """Exit code of the bug's tests against the copy with the bug in it."""
    path = copy / bug.file
    right = path.read_text()
    path.write_text(right.replace(bug.old, bug.new))
    try:
        return pytest_in_child(copy, package_of(bug), list(bug.tests))
    finally:
        path.write_text(right)


def pytest_in_child(copy: Path, package: str, nodes: list[str]) -> int:
    """Run ``nodes`` in a forked child that has ``package`` from ``copy``; pytest's exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        log = os.open(copy / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(copy))
        # Before pytest puts the repository itself in front.
        module = importlib.import_module(package)
        if copy not in Path(str(module.__file__)).parents:
            raise ImportError(f"{package} comes from {module.__file__}, expected it from {copy}")
        code = int(sys.modules["pytest"].main(["-x", "-q", "-p", "no:cacheprovider", *nodes]))
    finally:
        os._exit(code)


def report(console: Console, outcomes: dict[Bug, int]) -> int:
    """Print a table; the exit status."""
    names = {PASSED: "[red]survived", FAILED: "[green]killed"}
    table = Table("bug", "file", "outcome")
    for bug, code in outcomes.items():
        table.add_row(bug.name, bug.file, names.get(code, f"[red]tests did not run ({code})"))
    console.print(table)
    killed = sum(code == FAILED for code in outcomes.values())
    console.print(f"{killed} of {len(outcomes)} bugs killed")
    return 0 if killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
