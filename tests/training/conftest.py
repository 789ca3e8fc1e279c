"""A tiny random checkpoint, shared by all training tests."""

from __future__ import annotations

import pytest

from tests.models import tiny
from tests.training import runs
from unigrpo.models import checkpoint


@pytest.fixture(scope="session", autouse=True)
def tiny_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    checkpoint.save(folder, tiny.model())
    runs.CHECKPOINT = str(folder)
