"""The house: what is installed and shipped is what pyproject.toml says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]


@pytest.mark.parametrize("wanted", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
def test_the_tested_set_lies_in_the_ranges(wanted):
    requirement = Requirement(wanted)
    pins = [pin for pin in PINS if pin.name == requirement.name.lower()]
    assert pins
    for pin in pins:
        (version,) = pin.specifier
        assert version.operator == "=="
        assert requirement.specifier.contains(version.version)


def test_the_constraints_fit_every_machine():
    assert all(pin.url is None for pin in PINS)
    assert [str(pin) for pin in PINS if pin.name == "torch"] == ["torch==2.13.0"]
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_ci_can_be_started():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_tox_hands_on_what_chooses_kernels_and_nothing_that_changes_pytest():
    command = [sys.executable, "-m", "tox", "config", "-e", "tests,mutants", "-k", "pass_env"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for environment in told.split("[testenv:")[1:]:
        passed = environment.split()
        assert {"ATEN_CPU_CAPABILITY", "MKL_CBWR"} <= set(passed)
        assert not [name for name in passed if name.startswith(("PYTHONPATH", "PYTEST_", "COVERAGE_", "OMP_"))]
