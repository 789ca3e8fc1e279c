"""Mistakes that would let a report, or the mirror of a sweep, say less than it knows."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

REPORT_BUGS = (
    Bug(
        "names of arms read as formulas",
        "reports/drawing.py",
        '"text.parse_math": False',
        '"text.parse_math": True',
        nodes("reports/test_names", "test_no_figure_is_lost"),
    ),
    Bug(
        "a cell without the primary metric passed over",
        "reports/gaps.py",
        "if sweep.primary not in cell.metrics]",
        "if not cell.metrics]",
        nodes("reports/test_gaps", "test_a_score_that_is_no_number_is_named_and_its_mean_says_its_n"),
    ),
    Bug(
        "a refusal taken for an outage",
        "ablations/store_faults.py",
        'return "" if any(_passes(part) for part in chain) else _lasting(chain)',
        'return ""',
        nodes("ablations/test_tracking", "test_what_locks_or_fills_a_database_passes"),
    ),
)
