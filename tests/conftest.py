"""Settings of the whole suite: repeatable Hypothesis runs, one thread."""

import os
from collections.abc import Iterator
from pathlib import Path

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
    from tests.pages import leave_undrawn

    leave_undrawn(monkeypatch)


@pytest.fixture(scope="session")
def shallow_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped checkpoints under their names, with one layer of four."""
    from tests.shipped import shallow

    folder = tmp_path_factory.mktemp("checkpoints")
    shallow(folder)
    return folder


@pytest.fixture
def one_layer(shallow_checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shallow checkpoints stand in for the shipped ones, where what a model can is of no matter."""
    from unigrpo import checkpoints

    monkeypatch.setattr(checkpoints, "SHIPPED", shallow_checkpoints)
    checkpoints.settings_of.cache_clear()
    yield
    checkpoints.settings_of.cache_clear()


#: Files whose lines, all but one in two hundred, are seen by cheaper tests too; tracing makes a test of Python code
#: half as slow again.
UNTRACED = (
    "ablations/test_chaos.py",
    "ablations/test_local.py",
    "ablations/test_own_metric.py",
    "ablations/test_slurm.py",
    "algorithms/test_awm.py",
    "benchmarks/test_speed.py",
    "models/test_conformance.py",
    "models/test_context.py",
    "objective/test_gradcheck.py",
    "objective/test_trust_region.py",
    "reports/test_analysis.py",
    "reports/test_figures.py",
    "rollout/heads/test_tokens.py",
    "rollout/test_rollout.py",
    "rollout/test_rounds.py",
    "test_recipes.py",
    "training/test_rounds.py",
    "training/test_run.py",
    "training/test_trainer.py",
    "worlds/test_dataset.py",
    "worlds/test_edit_prompts.py",
    "worlds/test_judge.py",
    "worlds/test_sft_data.py",
    "worlds/test_story_judge.py",
    "worlds/test_things.py",
)


@pytest.fixture(autouse=True)
def untraced_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose coverage is not measured starts processes whose coverage is not measured either."""
    if request.node.get_closest_marker("no_cover"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave slow tests and those of :data:`UNTRACED` out of the coverage."""
    untraced = {Path(__file__).parent / name for name in UNTRACED}
    for item in items:
        if item.get_closest_marker("slow") or item.path in untraced:
            item.add_marker("no_cover")
