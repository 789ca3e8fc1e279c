"""Settings of the whole suite: repeatable Hypothesis runs, one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from hypothesis import HealthCheck, Phase, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("default", derandomize=True, max_examples=40, **COMMON)
settings.register_profile("nightly", max_examples=1000, **COMMON)
# Seeded bugs are to be found, not explained: no shrinking.
settings.register_profile(
    "mutants", derandomize=True, max_examples=40, phases=[Phase.explicit, Phase.generate], **COMMON
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not rendered, which takes longest in a report: their files are empty."""
    from reports import drawing

    def finish(sheet: drawing.Sheet, alt: str, *, legend: bool = True) -> None:
        sheet.panel = drawing.Panel(drawing.file_name(sheet.name), sheet.title, alt, "<svg ></svg>", b"")

    monkeypatch.setattr(drawing.Sheet, "finish", finish)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave slow tests out of the coverage: tracing costs half as much again, and other tests see the same lines."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")
