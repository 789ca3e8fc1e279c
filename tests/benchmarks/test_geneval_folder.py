"""Folders of pictures: what is official, and what is absent, comes twice or is something else."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.geneval import score
from benchmarks.geneval.files import read_pictures, read_results, write_pictures, write_prompts
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.prompts import TASKS, by_task
from unigrpo.worlds.shapes.render import render

PROMPTS = [tests[0] for tests in by_task("test").values()]


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """Two right pictures of a prompt of every task."""
    folder, rng = tmp_path_factory.mktemp("right"), random.Random(0)
    write_pictures(folder, PROMPTS, [render([satisfying_scene(prompt, rng) for _ in "ab"]) for prompt in PROMPTS])
    return folder


@pytest.fixture
def folder(right, tmp_path):
    return Path(shutil.copytree(right, tmp_path / "pictures"))


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str]:
        """Exit code and what was printed."""
        monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
        code = 0
        try:
            score.main()
        except SystemExit as stop:
            code = int(str(stop.code))
        return code, "".join(capsys.readouterr())

    return run


def renamed(place: Path, ending: str) -> None:
    for picture in sorted((place / "samples").iterdir()):
        picture.rename(picture.with_suffix(ending))


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def relinked(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def refolded(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: emptied(folder / "00004/samples"), "2 are absent: 00004/samples/0000.png, 00004/samples/0001.png;"),
    (lambda folder: shutil.rmtree(folder / "00004/samples"), "2 are absent: 00004/samples/0000.png"),
    (lambda folder: renamed(folder / "00004", ".jpg"), "00004/samples/0001.png (but 00004/samples/0000.jpg)"),
    (lambda folder: renamed(folder / "00004", ".PNG"), "00004/samples/0001.png (but 00004/samples/0000.PNG)"),
    (lambda folder: [renamed(place, ".webp") for place in folder.iterdir()], "expected NNNNN/samples/NNNN.png in it"),
    (
        lambda folder: [(place / "samples/0001.png").rename(place / "samples/0001.jpeg") for place in folder.iterdir()],
        "6 are absent: 00000/samples/0001.png",
    ),
    (lambda folder: (folder / "00003/samples/0001.png").unlink(), "1 are absent: 00003/samples/0001.png;"),
    (lambda folder: shutil.rmtree(folder / "00002"), "up to 00005, found no 00002, 1 are absent"),
    (lambda folder: shutil.rmtree(folder / "00000"), "found no 00000"),
    (lambda folder: shutil.rmtree(folder / "00005"), "found single_object, two_object, counting, colors, position;"),
    (lambda folder: shutil.copytree(folder / "00000", folder / "00006"), f"{PROMPTS[0].prompt!r} in 00000, 00006"),
    (lambda folder: shutil.copytree(folder / "00000", folder / "0"), "00000: expected every number once, found 0"),
    (lambda folder: (folder / "00006").touch(), "00006: expected the folder of a prompt"),
    (lambda folder: (folder / "00001/metadata.jsonl").unlink(), "00001/metadata.jsonl"),
    (lambda folder: refolded(folder / "00001/samples/0000.png"), "00001/samples/0000.png: expected a file"),
    (lambda folder: relinked(folder / "00001/samples/0000.png"), "00001/samples/0000.png"),
    (lambda folder: (folder / "00001/samples/0000.png").write_bytes(b""), "00001/samples/0000.png: expected a picture"),
    (
        lambda folder: shutil.copy(folder / "00001/samples/0000.png", folder / "00001/samples/0.png"),
        "00001/samples/0000.png: expected every number once, found 0.png",
    ),
    (
        lambda folder: (folder / "00003/metadata.jsonl").write_text(PROMPTS[3].to_json().replace("colors", "color")),
        "found single_object, two_object, counting, color, position, color_attr;",
    ),
    (
        lambda folder: (folder / "00003/metadata.jsonl").write_text(PROMPTS[3].to_json().replace("class", "klass")),
        "00003/metadata.jsonl: ",
    ),
    (
        lambda folder: (folder / "00000/metadata.jsonl").write_text(
            '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}'
        ),
        "'a dog': class: expected one of circle, square, triangle, cross, diamond, which the world has, got 'dog'",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[message[-50:] for _, message in FAULTS])
def test_what_is_not_as_asked_is_named_and_nothing_is_written(folder, run, fault, message):
    fault(folder)
    code, printed = run(folder)
    assert (code, message in printed) == (2, True), printed
    assert str(folder) in printed
    assert not (folder / "results.jsonl").exists()


def test_other_names_are_passed_over(folder, run):
    for name in (".ipynb_checkpoints", "00000 (copy)", "00000.bak", "_00000", ".00000", "00000~", "\u0660", "²"):
        shutil.copytree(folder / "00000", folder / name)
    samples = folder / "00001/samples"
    for name in ("._0000.png", "grid.png", "0000.png~", "0000.png.bak", "0000 (1).png", "a0.png", "\u0660.png"):
        (samples / name).write_bytes(b"no picture")
    for place in (folder, samples):
        for name in ("Thumbs.db", ".DS_Store", "0000.txt"):
            (place / name).write_bytes(b"\0")
    code, printed = run(folder)
    assert code == 0
    assert "pictures             12   right 100.00%" in printed
    assert len(read_results(folder / "results.jsonl")) == 12


def test_the_table_says_how_many_pictures_a_task_has(folder, run):
    _, printed = run(folder)
    assert [f"{tag:16s}      2   right 100.00%" in printed for tag in TASKS] == [True] * 6
    assert "overall score    1.00000   mean of 6 tasks" in printed


def test_what_is_absent_may_count_as_wrong(folder, run, tmp_path):
    renamed(folder / "00004", ".jpg")
    (folder / "00003/samples/0000.png").unlink()
    code, printed = run(folder, "--missing", "wrong")
    assert code == 0
    assert "pictures             12   right  75.00%" in printed
    assert "overall score    0.75000" in printed
    assert "3 absent pictures count as wrong" in printed
    wrong = [row for row in read_results(folder / "results.jsonl") if not row.correct]
    assert [(Path(row.filename).relative_to(folder).as_posix(), row.reason) for row in wrong] == [
        ("00003/samples/0000.png", "no picture"),
        ("00004/samples/0000.png", "no picture"),
        ("00004/samples/0001.png", "no picture"),
    ]
    shutil.rmtree(folder / "00005")
    assert run(folder, "--missing", "wrong")[0] == 2  # nobody knows which prompt that was
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    code, printed = run(folder, "--missing", "wrong", "--prompts", tmp_path / "prompts.jsonl")
    assert code == 0
    assert "color_attr            2   right   0.00%" in printed
    assert "overall score    0.58333   mean of 6 tasks" in printed


def test_a_file_of_prompts_says_what_was_asked(folder, run, tmp_path):
    asked = tmp_path / "prompts.jsonl"
    write_prompts(asked, PROMPTS[:2])
    code, printed = run(folder, "--prompts", asked)
    assert (code, "00005: expected folders of 2 prompts" in printed) == (2, True)
    for number in range(2, 6):
        shutil.rmtree(folder / f"{number:05d}")
    code, printed = run(folder, "--prompts", asked)
    assert (code, "mean of 2 tasks" in printed) == (0, True)
    write_prompts(asked, PROMPTS[:3])
    code, printed = run(folder, "--prompts", asked)
    assert (code, "2 are absent: 00002/samples/0000.png" in printed) == (2, True)
    write_prompts(asked, [PROMPTS[1], PROMPTS[0]])
    code, printed = run(folder, "--prompts", asked)
    assert (code, "00000: expected the prompt that was asked" in printed) == (2, True)


def test_prompts_may_all_come_several_times(right, folder):
    """A public test file has each prompt four times, with a picture each."""
    for number in range(6):
        shutil.copytree(right / f"{number:05d}", folder / f"{number + 6:05d}")
    assert len(list(read_pictures(folder, 32))) == 24


def test_metadata_are_read_as_the_official_evaluation_reads_them(folder):
    for path in folder.glob("*/metadata.jsonl"):
        fields = json.loads(path.read_text()) | {"more": "fields", "prompt": "a\u2028cross" + path.parent.name}
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\r\n\r\n")
    read = list(read_pictures(folder, 32))
    assert [prompt.prompt for _, prompt, _ in read[::2]] == [f"a\u2028cross0000{number}" for number in range(6)]


def test_a_path_may_begin_at_home(folder, run, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    write_prompts(folder.parent / "prompts.jsonl", PROMPTS)
    code, printed = run("~/pictures", "--prompts", "~/prompts.jsonl", "--output", "~/results.jsonl")
    assert (code, (folder.parent / "results.jsonl").is_file()) == (0, True), printed
    code, printed = run("~nobody-of-that-name/pictures")
    assert code == 2
    assert "~nobody-of-that-name" in printed
