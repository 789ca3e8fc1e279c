"""Turns a sweep's folder into a report; the same files always give the same report.

Use ``python -m reports SWEEP`` or :func:`write`.  Only the files of the runs are read; nothing is imported from the
packages that made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write"]


def write(sweep_folder: Path) -> Path:
    """Write ``<sweep_folder>/report/``: HTML, Markdown, LaTeX, CSV, JSON and figures. An older report is replaced.

    The same files always give the same bytes. A sweep that is still running gives a report of the cells that are done.
    A figure that cannot be drawn is logged as an error, and the pages have a note in its place.

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
