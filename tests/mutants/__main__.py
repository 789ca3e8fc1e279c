"""Seed each bug in a copy of its package, run its tests, say which were noticed: ``python -m tests.mutants [WORD]``.

The tests that bugs name must pass without any bug, which is tried first; with ``--after-suite`` it is not, as the suite
shows it.

torch is imported once; each bug is judged in a forked child that imports the mutated copy.  Exit status 0 if all were
killed, 1 if any survived, 2 if the list itself is faulty.  As many run at a time as there are cores, up to four.
"""

from __future__ import annotations

import compileall
import gc
import importlib
import itertools
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.mutants.bug import ROOT, Bug
from tests.mutants.bugs import BUGS

PASSED, FAILED = 0, 1  # pytest's exit codes; any other means that the tests did not run
MOST = 4  # bugs at a time: each takes some 500 MB


def main(word: str = "", *, after_suite: bool = False) -> int:
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
    os.environ |= {"HYPOTHESIS_PROFILE": "mutants", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(scratch, str(number)) for number in range(min(MOST, len(os.sched_getaffinity(0))))]
        for copy, package in itertools.product(copies, {package_of(bug) for bug in bugs}):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
            # Told apart by hashes, since a mutated file may have the size and second of the right one.
            compileall.compile_dir(copy / package, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        sound = judge([] if after_suite else [*without_bugs(bugs, len(copies))], copies)
        if logs := [log.read_text() for _, code, log in sound if code != PASSED]:
            console.print("tests fail without any bug", *logs, sep="\n", markup=False)
            return 2
        judged = track(judge(bugs, copies), "seeding bugs", len(bugs), console=console)
        outcomes = {bug: code for bug, code, _ in judged}
    return report(console, {bug: outcomes[bug] for bug in bugs})


#: What many children would import one by one.
HEAVY = (
    "PIL.Image",
    "accelerate",
    "hydra.core.override_parser.overrides_parser",
    "hypothesis.extra.numpy",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "numpy",
    "pytest",
    "rich.progress",
    "safetensors.torch",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.stats",
    "tokenizers",
    "torch.distributions",
    "transformers.modeling_utils",
)


def warm_up() -> None:
    """Import here what children need; the packages under test are imported by the children only."""
    for heavy in HEAVY:
        importlib.import_module(heavy)
    torch = sys.modules["torch"]
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # its first call imports half of torch.distributed
    gc.freeze()  # pytest collects garbage at its end, which would go through all of this in every child


def package_of(bug: Bug) -> str:
    """The top-level package that the bug is in."""
    return bug.file.partition("/")[0]


def without_bugs(bugs: Sequence[Bug], lots: int) -> Iterator[Bug]:
    """What changes nothing, for so many lots of each package's tests: those that bugs name must pass as things are."""
    named = defaultdict(set)
    for bug in bugs:
        named[package_of(bug)].update(bug.tests)
    for package, nodes in sorted(named.items()):
        # Tests of one file stay together: they share what its fixtures make.
        files = [tuple(found) for _, found in itertools.groupby(sorted(nodes), lambda node: node.partition("::")[0])]
        for lot in range(min(lots, len(files))):
            yield Bug("without any bug", f"{package}/__init__.py", "", "", sum(files[lot::lots], ()))


def judge(bugs: Sequence[Bug], copies: Sequence[Path]) -> Iterator[tuple[Bug, int, Path]]:
    """Each bug, as it is done, with the exit code of its tests against a copy with the bug in it, and their output."""
    waiting, free, running = [*reversed(bugs)], [*copies], dict[int, tuple[Bug, Path, str]]()
    while waiting or running:
        while waiting and free:
            bug, copy = waiting.pop(), free.pop()
            path = copy / bug.file
            right = path.read_text()
            path.write_text(right.replace(bug.old, bug.new))
            running[pytest_in_child(copy, package_of(bug), bug.tests)] = bug, copy, right
        child, status = os.wait()
        bug, copy, right = running.pop(child)
        (copy / bug.file).write_text(right)
        free.append(copy)
        yield bug, os.waitstatus_to_exitcode(status), copy / "log"


def pytest_in_child(copy: Path, package: str, nodes: Sequence[str]) -> int:
    """Run ``nodes`` in a forked child that has ``package`` from ``copy`` and ends with pytest's exit code; its id."""
    child = os.fork()
    if child:
        return child
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
    words = [argument for argument in sys.argv[1:] if argument != "--after-suite"]
    sys.exit(main(*words[:1], after_suite="--after-suite" in sys.argv))
