"""Bugs in how cells are run."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

SWEEP_BUGS = (
    Bug(
        name="a worker that died with its command counts against its cell",
        file="ablations/cells.py",
        old='holder.get("died") and holder.get("checkpoint") == present',
        new='holder.get("checkpoint") == present',
        tests=nodes("ablations/test_cells", "test_deaths_count_that_were_seen_in_a_row_and_gained_nothing"),
    ),
    Bug(
        name="the environment of sbatch beats the command",
        file="ablations/launchers/sbatch.py",
        old="if name in said or (name in _OWNED",
        new="if (name in _OWNED",
        tests=nodes("ablations/test_sbatch", "test_what_the_command_says_beats_the_environment_which_is_told"),
    ),
)
