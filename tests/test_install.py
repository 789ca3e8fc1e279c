"""What is installed: the wheel holds all that the code reads, each thing once, and runs without its repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
import yaml

import unigrpo
from ablations.grid import load_grid
from ablations.plan import make_plan

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("unigrpo", "ablations", "benchmarks", "reports")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The wheel, unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=_uncovered())
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def distribution(site) -> PathDistribution:
    (info,) = site.glob("*.dist-info")
    return PathDistribution(info)


def _uncovered() -> dict[str, str]:
    """The environment of a process that imports another copy of the code, whose coverage does not count."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def _files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def test_it_holds_the_packages_and_nothing_else(site):
    there = {f"{name}/{file}" for name in PACKAGES for file in _files(ROOT / name)} - {"reports/report.png"}
    assert {file for file in _files(site) if ".dist-info/" not in file} == there
    kinds = Counter(Path(file).suffix for file in there)
    assert all(kinds[kind] for kind in (".yaml", ".j2", ".css", ".js", ".json", ".safetensors", ".typed"))


def test_no_file_is_there_twice(site):
    large = [path for path in site.rglob("*") if path.is_file() and path.stat().st_size > 1000]
    # Stable Diffusion 3 has two tokenizers, which its layout wants in two folders.
    large = [path for path in large if path.parent.name != "tokenizer_2"]
    times = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in large)
    assert set(times.values()) == {1}


def test_it_says_what_it_is(distribution):
    told = distribution.metadata
    assert told["Version"] == unigrpo.__version__
    assert told["License-Expression"] == "Apache-2.0"
    assert told.get_all("License-File") == ["LICENSE"]
    licence = distribution.read_text("licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0" in licence
    assert told["Author"] == PROJECT["authors"][0]["name"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == unigrpo.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_the_changelog_begins_with_what_is_not_released():
    sections = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert sections[0] == "## Unreleased"


#: What an installer makes of an entry point, but that it also says what was loaded from where.
SCRIPT = """
import json, sys
from {module} import {name}
code = {name}()
print(json.dumps([code, {{name: getattr(module, "__file__", None) for name, module in sys.modules.items()}}]))
"""


@pytest.fixture
def command(site, distribution, tmp_path):
    """Runs the installed command in a folder that has packages of the same names; its output and what it loaded."""
    (entry,) = distribution.entry_points.select(group="console_scripts")
    assert entry.name == "unigrpo"
    script = tmp_path / "bin" / entry.name
    script.parent.mkdir()
    script.write_text(SCRIPT.format(module=entry.module, name=entry.attr))
    for package in PACKAGES:
        (tmp_path / "here" / package).mkdir(parents=True)
        (tmp_path / "here" / package / "__init__.py").write_text("raise ImportError('of the present folder')")

    def run(*words: str) -> tuple[str, dict[str, str]]:
        environment = _uncovered() | {"PYTHONPATH": str(site)}
        line = [sys.executable, str(script), *words]
        done = subprocess.run(line, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        output, _, last = done.stdout.rstrip("\n").rpartition("\n")
        code, loaded = json.loads(last)
        assert code == 0
        for module, file in loaded.items():
            assert module.partition(".")[0] not in PACKAGES or Path(file).is_relative_to(site), module
        return output, loaded

    return run


#: What takes seconds to import.
HEAVY = {"torch", "mlflow", "scipy", "matplotlib", "pandas", "transformers", "diffusers", "hydra"}


def test_the_command_starts_at_once_wherever_it_is_installed(command):
    output, loaded = command("--version")
    assert output == f"unigrpo {unigrpo.__version__}"
    assert HEAVY.isdisjoint(loaded)


def test_a_plan_needs_nothing_but_what_is_installed(command, tmp_path):
    output, loaded = command("sweep", "grid=kl_vs_mse", "dry_run=true")
    grid = load_grid("kl_vs_mse")
    assert [cell.id for cell in make_plan(grid).cells() if cell.id not in output] == []
    assert (HEAVY - {"hydra"}).isdisjoint(loaded)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted(PACKAGES)
