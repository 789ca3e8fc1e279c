"""Tiny random checkpoints, shared by all training tests."""

from __future__ import annotations

import pytest

from tests.models import tiny
from tests.training import runs
from unigrpo.models.mot import checkpoint


@pytest.fixture(scope="session", autouse=True)
def tiny_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder / "tiny", tiny.model())
    checkpoint.save(folder / "codes", tiny.model(code_levels=(3, 2, 2)))
    runs.CHECKPOINT, runs.CODES = str(folder / "tiny"), str(folder / "codes")
