"""The suite, and the seeded bugs in the time that it leaves: ``python -m tests.side_by_side PYTEST ARGUMENTS``.

Many tests wait for clusters, servers and processes.  The bugs, which need nobody, run beside them at a lower priority.
Exit status 0 if the suite passes and all bugs are killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile


def main(arguments: list[str]) -> int:
    """Run both; the bugs' table is printed before the suite's coverage."""
    bugs = [sys.executable, "-m", "tests.mutants", "--after-suite"]
    with tempfile.TemporaryFile("w+") as told:
        seeding = subprocess.Popen(bugs, stdout=told, stderr=subprocess.STDOUT, preexec_fn=lambda: os.nice(10))
        suite = subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
        seeded = seeding.wait()
        told.seek(0)
        print(told.read())
    return suite or seeded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
