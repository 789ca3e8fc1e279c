"""Reads the repository's Markdown pages and tries their commands, each in a variant that takes seconds."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.reports import synthetic
from unigrpo.compose import compose

ROOT = Path(__file__).parent.parent
_FOLDERS = ("unigrpo", "ablations", "benchmarks", "reports", "tests", "docs")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(page for name in _FOLDERS for page in (ROOT / name).rglob("*.md"))]

#: What the pages say to look at the runs with; started by ``tests/ablations/test_tracking.py``.
MLFLOW_UI = shlex.split("mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///runs/mlflow.db")

#: Appended to a training's command.
SMALL_ROLLOUT = ["rollout.prompts=2", "rollout.group_size=2", "rollout.minibatches=1"]
SMALL_RUN = [
    *SMALL_ROLLOUT,
    "optim.updates=1",
    "evaluation.prompts_per_tag=1",
    "evaluation.retention_prompts_per_tag=1",
    "evaluation.images_per_prompt=1",
    "evaluation.steps=2",
    "evaluation.every=0",
]


def program_file(module: str) -> str:
    """Where a module lies that ``python -m`` runs."""
    return f"{module.replace('.', '/')}.py"


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of ``languages``; ``""`` is none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def tables(page: Path) -> Iterator[list[list[str]]]:
    """The tables of a page: rows of cells, the header first, without the line below it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for is_table, rows in groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
            yield [cells[0], *cells[2:]]


def table(page: Path, *header: str) -> list[list[str]]:
    """The rows of the page's table whose header begins with ``header``."""
    return next(rows[1:] for rows in tables(page) if tuple(rows[0][: len(header)]) == header)


def code(cell: str) -> list[str]:
    """What a cell sets as code."""
    return re.findall(r"`([^`]+)`", cell)


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's bash blocks, as words; ``a && b`` are two."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            found += [list(part) for joint, part in groupby(words, lambda word: word == "&&") if not joint]
    return found


def attempt(words: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a command in ``folder``; fails if that fails, or if there is no way to try it.

    What a command starts in the environment that the README sets up is started in the one that runs the tests.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if any("my_" in word for word in words):  # one of the examples' files, in the user's folder
        shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
        monkeypatch.syspath_prepend(str(folder))
    if any("pipelines/" in word for word in words):
        _make_pipelines(folder)
    if any("=janus/" in word for word in words):
        _make_janus(folder)
    if any("=bagel/" in word for word in words):
        _make_bagel(folder)
    program, *rest = words
    match [program.removeprefix(".venv/bin/"), *rest]:
        case ["python3", "-m", "venv", ".venv"] | ["source", ".venv/bin/activate"]:
            pass
        case ["pip", "install", "-c", "constraints.txt", *what]:
            _check_install(what)
        case ["tox", *arguments]:
            _check_tox(arguments)
        case ["pytest", *paths]:
            assert all((ROOT / path).exists() for path in paths)
        case ["mlflow", "ui", *_]:
            assert list(words) == MLFLOW_UI
        case ["python", "-m", "tests.mutants"]:
            assert (ROOT / "tests/mutants/__main__.py").is_file()  # run by tox
        case ["python", "docs/website.py"]:
            assert (ROOT / "docs/website.py").is_file()  # run by tests/test_site.py
        case ["python", "-m", "tests.models.memory"]:
            assert (ROOT / "tests/models/memory.py").is_file()  # minutes; its sizes: tests/test_published_recipes.py
        case ["python", "-m", "benchmarks.speed.report" | "benchmarks.speed.texts" | "benchmarks.speed.against_trl"]:
            # What they draw, sample and train is tried by tests/benchmarks/test_speed*.py.
            assert (ROOT / program_file(rest[1])).is_file()
        case ["python", "-m", "reports.simulation"]:
            run("reports.simulation", ["1", "all must differ"], folder)
        case ["unigrpo", "certify", *arguments]:
            _try_certify(arguments, folder, monkeypatch)
        case ["unigrpo", "estimate", *arguments]:
            _try_estimate(arguments, folder)
        case ["torchrun", "--nproc-per-node=8", "-m", "unigrpo.train", *arguments]:
            compose(arguments).check()  # two processes are started by tests/training/test_engines.py
        case ["unigrpo", command, *arguments] if command in _COMMANDS:
            _TRIERS[_COMMANDS[command]](arguments, folder, monkeypatch)
        case ["python", "-m", module, *arguments] if module in _TRIERS:
            _TRIERS[module](arguments, folder, monkeypatch)
        case _:
            pytest.fail(f"no way to try {shlex.join(words)!r}: teach {name_of(Path(__file__))} one")


def leave_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports make their figures without rendering them: their files are empty."""
    from reports import drawing

    def finish(sheet: drawing.Sheet, alt: str, *, legend: bool = True) -> None:
        sheet.panel = drawing.Panel(drawing.file_name(sheet.name), sheet.title, alt, "<svg ></svg>", b"")

    monkeypatch.setattr(drawing.Sheet, "finish", finish)


def run(module: str, arguments: Sequence[str], folder: Path) -> str:
    """Run a module in a process of its own, in ``folder``; its output."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _check_install(what: Sequence[str]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for name in what:
        local = re.fullmatch(r"\.(?:\[(\w+)\])?", name)
        if local and local[1]:
            assert local[1] in project["optional-dependencies"]
        assert local or name == "-e" or name in pinned, name


def _check_tox(arguments: Sequence[str]) -> None:
    environments = re.findall(r"^\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    match arguments:
        case []:
            pass
        case ["-e", environment]:
            assert environment in environments
        case ["-e", environment, "--", path]:
            assert environment in environments
            assert (ROOT / path).exists()
        case _:
            pytest.fail(f"no way to try tox {shlex.join(arguments)!r}")


def _with_checkpoints(arguments: Sequence[str], folder: Path) -> None:
    from unigrpo import checkpoints

    for checkpoint in (word.partition("=")[2] for word in arguments if word.startswith("model.checkpoint=runs")):
        shutil.copytree(checkpoints.SHIPPED / "tiny-shapes", folder / checkpoint)
    for pipeline in (word.partition("=")[2] for word in arguments if word.startswith("model.path=runs")):
        shutil.copytree(checkpoints.SHIPPED / "tiny-sd3", folder / pipeline)


def _make_pipelines(folder: Path) -> None:
    from tests.models.pipelines import tiny

    tiny.saved("StableDiffusion3Pipeline", folder / "pipelines" / "sd3")
    tiny.saved("FluxKontextPipeline", folder / "pipelines" / "kontext")
    tiny.language_model(folder / "pipelines" / "qwen3")


def _make_janus(folder: Path) -> None:
    from tests.models.janus import tiny

    tiny.saved(folder / "janus" / "tiny")


def _make_bagel(folder: Path) -> None:
    from tests.models.bagel import published

    published.write(folder / "bagel" / "tiny")


def _try_certify(arguments: Sequence[str], folder: Path, _: pytest.MonkeyPatch) -> None:
    from ablations.cli import main

    assert main(["certify", *arguments]) == 0
    assert (folder / "pipelines" / "sd3" / "certificate.json").is_file()


def _try_estimate(arguments: Sequence[str], folder: Path) -> None:
    from ablations.cli import main

    _with_checkpoints(arguments, folder)
    weights = [*folder.rglob("*model.safetensors")]
    assert weights
    for path in weights:
        path.unlink()
    assert main(["estimate", *arguments, *SMALL_RUN]) == 0


def _try_train(arguments: Sequence[str], folder: Path, _: pytest.MonkeyPatch) -> None:
    from unigrpo.training.command import main

    _with_checkpoints(arguments, folder)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main([*arguments, *SMALL_RUN, f"folder={folder / 'run'}"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert (folder / "run" / "result.json").is_file()


def _files(folder: Path) -> list[Path]:
    """All but what Python keeps of files that were imported, here or where they are copied from."""
    return [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]


def _try_sweep(arguments: Sequence[str], folder: Path, _: pytest.MonkeyPatch) -> None:
    from ablations.sweep import main

    _with_checkpoints(arguments, folder)
    before = _files(folder)
    assert main([*arguments, "dry_run=true"]) == 0
    assert _files(folder) == before


def _try_checkpoint(arguments: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unigrpo.config import EvaluationConfig
    from unigrpo.worlds.shapes import train_checkpoint

    small = EvaluationConfig(prompts_per_tag=1, images_per_prompt=2)
    monkeypatch.setattr(train_checkpoint, "EvaluationConfig", lambda: small)
    train_checkpoint.main([*arguments, "autoencoder_steps=2", "steps=2", "examples=64"])
    assert (folder / arguments[0] / "model.safetensors").is_file()


def _try_pipeline(arguments: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unigrpo.config import EvaluationConfig
    from unigrpo.worlds.shapes import train_pipeline

    small = EvaluationConfig(prompts_per_tag=1, images_per_prompt=1, steps=1)
    monkeypatch.setattr(train_pipeline, "EvaluationConfig", lambda: small)
    few = ["autoencoder_steps=1", "autoencoder_batch=2", "steps=1", "batch=2", "examples=8"]
    assert train_pipeline.main([*arguments, *few]) == 0
    assert (folder / arguments[0] / "model_index.json").is_file()


def _try_sft(arguments: Sequence[str], folder: Path, _: pytest.MonkeyPatch) -> None:
    import json

    from unigrpo.sft import main

    lines = [
        {"prompt": f"draw a {c} circle", "answer": [{"text": f"top left {c} circle ."}]}
        for c in ("red", "blue", "green")
    ]
    (folder / "my.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main([*arguments, "schedule.steps=2"]) == 0
    assert (folder / arguments[0] / "model.safetensors").is_file()


def _try_reports(arguments: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reports.__main__ import main

    leave_undrawn(monkeypatch)
    written = synthetic.write_sweep(folder / "runs", seeds=range(2), updates=4)
    if "/" in arguments[0]:
        written.rename(folder / arguments[0])
    assert main(arguments) == 0


def _try_speed(arguments: Sequence[str], folder: Path, _: pytest.MonkeyPatch) -> None:
    from benchmarks.speed.__main__ import main

    main([*arguments, *SMALL_ROLLOUT, "sampler.steps=4", "--repeats", "2"])


def _try_listing(arguments: Sequence[str], folder: Path, _: pytest.MonkeyPatch) -> None:
    assert "velocity_mse" in run("unigrpo.registry", arguments, folder)


#: Subcommand of ``unigrpo`` -> the module that it starts with the same words (``tests/ablations/test_cli.py``).
_COMMANDS = {
    "train": "unigrpo.train",
    "sweep": "ablations.sweep",
    "report": "reports",
    "sft": "unigrpo.sft",
    "registry": "unigrpo.registry",
}
_TRIERS: dict[str, Callable[[Sequence[str], Path, pytest.MonkeyPatch], None]] = {
    "unigrpo.train": _try_train,
    "unigrpo.sft": _try_sft,
    "unigrpo.worlds.shapes.train_checkpoint": _try_checkpoint,
    "unigrpo.worlds.shapes.train_pipeline": _try_pipeline,
    "unigrpo.registry": _try_listing,
    "ablations.sweep": _try_sweep,
    "reports": _try_reports,
    "benchmarks.speed": _try_speed,
}
