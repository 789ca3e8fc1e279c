"""One finished and one troubled sweep, and small ones of the other families, written once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reports import drawing
from tests.reports.families import EDITING, REFLECT, STORIES, Family
from tests.reports.synthetic import ARMS, LADDER, write_sweep

#: The file whose tests look at PNG files.
WITH_BITMAPS = "test_report.py"


@pytest.fixture(scope="module", autouse=True)
def without_bitmaps(request: pytest.FixtureRequest) -> Iterator[None]:
    """PNG files, which take longer to draw than the page's SVG, are empty where no test looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name != WITH_BITMAPS:
            patch.setattr(drawing, "_bitmap", lambda figure: b"")
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("finished"), updates=12)


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One failed, one missing and one cell of another evaluation set."""
    return write_sweep(
        tmp_path_factory.mktemp("troubled"),
        failed=[("velocity_mse", 4)],
        missing=[("latent_kl", 5)],
        strange=[("latent_kl", 2)],
        updates=12,
    )


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("ladder"), arms=LADDER, grid="kl_vs_mse_ladder", updates=12)


def _small(tmp_path_factory: pytest.TempPathFactory, grid: str, family: Family) -> Path:
    arms = {name: ARMS[name] for name in ("none", "velocity_mse")}
    folder = tmp_path_factory.mktemp(grid)
    return write_sweep(folder, arms=arms, seeds=range(3), updates=11, grid=grid, family=family)


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _small(tmp_path_factory, "rewards", STORIES)


@pytest.fixture(scope="session")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _small(tmp_path_factory, "editing_turns", EDITING)


@pytest.fixture(scope="session")
def reflections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _small(tmp_path_factory, "single_vs_multi_round", REFLECT)
