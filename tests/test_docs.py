"""The pages say what is so: their commands, examples, tables and links are tried."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ablations.grid import grids, load_grid
from tests.pages import (
    PAGES,
    ROOT,
    SMALL_RUN,
    attempt,
    blocks,
    code,
    commands,
    name_of,
    run,
    table,
    tables,
)
from unigrpo import registry
from unigrpo.compose import recipes

README, ADDING = ROOT / "README.md", ROOT / "unigrpo" / "ADDING_A_STRATEGY.md"
SHOWN = {shlex.join(words): name_of(page) for page in PAGES if page != ADDING for words in commands(page)}


@pytest.mark.usefixtures("one_layer")
@pytest.mark.parametrize("command", SHOWN)
def test_every_command_works(command, tmp_path, monkeypatch):
    attempt(shlex.split(command), tmp_path, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_stand_in_blocks_that_are_tried(page):
    for block in blocks(page, "", "sh", "shell", "console", "text"):
        assert not re.search(r"^\$? ?(python3?|pip|tox|mlflow|unigrpo) ", block, re.MULTILINE), block


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_named_in_the_text_exist(page):
    for module in re.findall(r"`python -m ([\w.]+)", page.read_text(encoding="utf-8")):
        found = importlib.util.find_spec(module)
        assert found, module
        assert found.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__"), module


@pytest.mark.parametrize("page", [page for page in PAGES if page != ADDING], ids=name_of)
def test_python_examples_import_what_exists(page):
    for block in blocks(page, "python"):
        imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), name_of(page), "exec"), {})  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=name_of)
def test_tables_name_modules_that_exist(page):
    named = [name for rows in tables(page) for row in rows for name in code(row[0]) if name.endswith(".py")]
    assert [name for name in named if not (page.parent / name).exists()] == []


def test_ci_runs_the_command_of_the_readme():
    (command,) = [line for block in blocks(README, "bash") for line in block.splitlines() if line.endswith("tox")]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def test_the_readme_lists_every_strategy():
    listed = {code(slot)[0]: code(names) for slot, names in table(README, "slot", "strategies")}
    assert listed == {slot: list(_shipped(slot)) for slot in registry.SLOTS}


def _shipped(slot: str) -> dict[str, type]:
    # Other tests register strategies of their own.
    return {name: cls for name, cls in registry.strategies(slot).items() if cls.__module__.startswith("unigrpo.")}


def test_the_readme_asks_the_questions_of_the_grids():
    listed = {code(name)[0]: question for name, question in table(README, "grid", "question")}
    assert listed == {name: load_grid(name).question for name in grids()}


def test_recipes_are_listed():
    page = ROOT / "unigrpo" / "recipes" / "README.md"
    listed = [code(row[0])[0] for header, *rows in tables(page) if header[0] == "recipe" for row in rows]
    assert sorted(listed) == recipes()
    sentence = re.search(r"A recipe is a published method as data: (.*?)\(", README.read_text(), re.DOTALL)
    assert sentence
    assert sorted(code(sentence[1])) == recipes()


def test_the_page_on_strategies_knows_what_each_slot_asks_for():
    rows = table(ADDING, "slot", "method", "arguments")
    for slot, method, arguments, _ in rows:
        for strategy in _shipped(code(slot)[0]).values():
            asked = [*inspect.signature(getattr(strategy, code(method)[0])).parameters][1:]
            assert asked == code(arguments)[0].split(", "), (strategy, method)
    elsewhere = {"modalities", "text_scorer", "image_scorer"}
    assert {code(row[0])[0] for row in rows} == set(registry.SLOTS) - elsewhere


@pytest.fixture
def example(tmp_path, monkeypatch) -> Path:
    """A user's folder with the files of the page on adding a strategy."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for language in ("python", "yaml"):
        for block in blocks(ADDING, language):
            title = re.match(r"# (\w+\.\w+)\n", block)
            assert title, "the first line of an example names its file"
            (tmp_path / title[1]).write_text(block)
    return tmp_path


def test_the_tests_of_the_example_pass(example):
    assert "4 passed" in run("pytest", ["-p", "no:cacheprovider", "test_my_strategies.py"], example)


def test_the_commands_of_the_example_work(example):
    train, sweep = commands(ADDING)
    assert train[:3] == ["python", "-m", "unigrpo.train"]
    run("unigrpo.train", [*train[3:], *SMALL_RUN, "folder=run"], example)
    assert "my_strategies.VelocityHuber" in (example / "run" / "config.json").read_text()
    assert sweep[:3] == ["python", "-m", "ablations.sweep"]
    assert "huber" in run("ablations.sweep", sweep[3:], example)


def test_the_entry_point_of_the_example_makes_it_a_name(example):
    (block,) = blocks(ADDING, "toml")
    ((group, points),) = tomllib.loads(block)["project"]["entry-points"].items()
    installed = example / "my_strategies-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-strategies\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    script = "from unigrpo.compose import compose; print(compose(['regularizer=velocity_huber']).check().regularizer)"
    done = subprocess.run([sys.executable, "-c", script], cwd=example, capture_output=True, text=True, check=True)
    assert done.stdout == "VelocityHuber(weight=0.01, delta=0.1)\n"
    assert "velocity_huber" in run("unigrpo.registry", [], example)
