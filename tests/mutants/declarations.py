"""Mistakes that would let a page call late what was early, or leave unsaid what was changed, dropped or looked at."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

TESTS = "ablations/test_declaration"

DECLARATION_BUGS = (
    Bug(
        "the first declaration of several counts",
        "reports/declaration.py",
        "len(sweep.revisions) == 1\n",
        "bool(sweep.revisions)\n",
        nodes(TESTS, "test_before_the_runs_is_said_if_and_only_if_it_is_so"),
    ),
    Bug(
        "a later declaration takes the place of the first",
        "ablations/declaration.py",
        '"revisions": [*known, revision]',
        '"revisions": [revision]',
        nodes(TESTS, "test_a_primary_that_is_changed_after_the_runs_is_said_with_both"),
    ),
    Bug(
        "a content that was declared once is no revision",
        "ablations/declaration.py",
        'if known and known[-1]["content"] == content:',
        'if content in [one["content"] for one in known]:',
        nodes(TESTS, "test_a_primary_that_is_changed_after_the_runs_is_said_with_both"),
    ),
    Bug(
        "only the cells of the present seeds had finished",
        "ablations/record.py",
        "for cell_id, name in _planned(folder).items()\n",
        'for cell_id, name in _cells_in(read_json(folder / "sweep.json")).items()\n',
        nodes(TESTS, "test_a_declaration_that_is_deleted_comes_after_the_cells"),
    ),
    Bug(
        "commands at once overwrite each other's declaration",
        "ablations/declaration.py",
        'with locked(folder / "declaration.lock"):',
        "for _ in [0]:",
        nodes(TESTS, "test_commands_at_once_lose_no_declaration"),
    ),
    Bug(
        "cells that are left out are read of the plan",
        "reports/history.py",
        "if identity not in present}",
        "if identity in present}",
        nodes(TESTS, "test_seeds_that_are_dropped_are_named"),
    ),
    Bug(
        "a failed cell of a seed that was dropped goes unsaid",
        "reports/history.py",
        "for identity, cell in gone.items() if _failed(root / identity)]",
        "for identity, cell in gone.items() if identity in present and _failed(root / identity)]",
        nodes(TESTS, "test_a_seed_of_which_every_run_failed_is_named_too"),
    ),
    Bug(
        "what finished at the second try counts as failed",
        "reports/history.py",
        'return (cell / "failure.json").exists() and not (cell / "DONE").exists()',
        'return (cell / "failure.json").exists()',
        nodes(TESTS, "test_failed_cells_of_dropped_seeds_are_named_apart_from_finished_ones"),
    ),
    Bug(
        "failed cells counted among the finished ones that are left out",
        "reports/declaration.py",
        "finished = [cell for cell in sweep.left_out if not cell.failed]",
        "finished = [*sweep.left_out]",
        nodes(TESTS, "test_a_seed_of_which_every_run_failed_is_named_too"),
    ),
    Bug(
        "a page's own look is one before it",
        "reports/records.py",
        "if look.results != self.results)",
        "if look.results)",
        nodes(TESTS, "test_a_group_sequential_design_declares_its_looks"),
    ),
    Bug(
        "a cell without the primary measure counts as done",
        "reports/records.py",
        'if cell.state == "done" and self.primary in cell.metrics)',
        'if cell.state == "done")',
        nodes(TESTS, "test_a_cell_without_the_primary_measure_is_missing"),
    ),
    Bug(
        "unstable by a number of failures",
        "reports/records.py",
        '5 * sum(cell.state == "failed" for cell in self.cells) > len(self.cells)',
        'sum(cell.state == "failed" for cell in self.cells) > 1',
        nodes("reports/test_analysis", "test_an_arm_is_unstable_by_the_share_of_its_seeds_that_failed"),
    ),
)
