"""One finished and one troubled sweep, written once."""

from pathlib import Path

import pytest

from tests.reports.synthetic import LADDER, write_sweep


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
