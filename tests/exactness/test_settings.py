"""Bits compared under other kernels than this machine's own, as other CPUs have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What promises that bits are equal: a replay's those of the rollout, a copy's those of the policy.
PROMISES = (
    "tests/exactness/test_kernels.py::test_replay_gives_the_bits_of_sampling",
    "tests/training/test_trainer.py::test_math_9_12_the_reference_stays_and_drift_is_0_before_the_first_step",
    # With and without guidance; the other recipes take the same kernels.
    "tests/training/test_trainer.py::test_p13_first_log_ratios_are_exactly_0_in_every_recipe[unigrpo]",
    "tests/training/test_trainer.py::test_p13_first_log_ratios_are_exactly_0_in_every_recipe[flow_grpo]",
    "tests/training/test_trainer.py::test_p13_first_log_ratios_of_text_grpo_are_exactly_0",
)
SETTINGS = {"ATEN_CPU_CAPABILITY": ("avx2", "default"), "MKL_CBWR": ("COMPATIBLE",)}


@pytest.mark.slow
@pytest.mark.parametrize("setting", [f"{name}={value}" for name, values in SETTINGS.items() for value in values])
def test_bits_are_equal_under_other_kernels_too(setting):
    name, _, value = setting.partition("=")
    outside = {key: it for key, it in os.environ.items() if key not in SETTINGS and not key.startswith("COVERAGE_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *PROMISES]
    environment = outside | {name: value, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout.splitlines()[-1]
