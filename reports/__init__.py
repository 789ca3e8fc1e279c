"""From a sweep's folder to a report: statistics, figures and pages that are a pure function of the files in it.

``python -m reports SWEEP`` or :func:`write`.  Stands on the run folders alone: it knows nothing of how they were made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write"]


def write(sweep_folder: Path) -> Path:
    """Write ``<sweep_folder>/report/`` anew: HTML, Markdown, LaTeX, CSV, JSON and figures.

    The same files in give the same bytes out, and a sweep that is still running gives a report of what is there.
    A figure that cannot be drawn is logged as an error and leaves a note in its place.

    Args:
        sweep_folder: the folder that holds ``sweep.json``.

    Returns:
        The path of ``report.html``.

    Raises:
        BrokenSweepError: ``sweep.json`` is missing or unreadable; the message names the file and the fault.
    """
    import logging

    from reports.pages import write_report

    written = write_report(sweep_folder)
    for fault in written.faults:
        logging.getLogger(__name__).error("a figure of the report could not be drawn: %s", fault)
    return written.page
