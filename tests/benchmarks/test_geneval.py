from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.geneval import noise_curve, score
from benchmarks.geneval.files import (
    Result,
    read_pictures,
    read_prompts,
    read_results,
    write_pictures,
    write_prompts,
    write_results,
)
from benchmarks.geneval.summary import summarise
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import random_item
from unigrpo.worlds.shapes.prompts import OFFICIAL_COUNTS, TASKS, Prompt, by_task, select
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.rules import Found, apply_rules


def result(tag: str, prompt: str, correct: bool) -> Result:
    return Result("file", tag, prompt, correct, "", json.dumps({"tag": tag, "prompt": prompt}), "{}")


@pytest.fixture
def folder(tmp_path):
    """Two pictures each of six prompts: the first right, the second with an object too many."""
    rng = random.Random(0)
    prompts = [tests[0] for tests in by_task("test").values()]
    pictures = []
    for prompt in prompts:
        scene = satisfying_scene(prompt, rng)
        crowded = scene.add(random_item(rng, scene.free_places[0], prompt.include[0]["class"]))
        pictures.append(render([scene, crowded]))
    write_pictures(tmp_path, prompts, pictures)
    return tmp_path


def test_prompt_files_round_trip(tmp_path):
    prompts = select("test", tuple(OFFICIAL_COUNTS.values()))
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 553


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(by_task("test")["colors"][0].to_json() + "\n\n{}\n")
    with pytest.raises(ValueError, match=r"prompts.jsonl:3: expected"):
        read_prompts(path)
    path.write_text('{"filename": "x"}\n')
    with pytest.raises(ValueError, match=r"prompts.jsonl:1: not a GenEval result"):
        read_results(path)


def test_the_folder_has_the_official_layout(folder):
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:05d}" for n in range(6)]
    assert sorted(str(path.relative_to(folder / "00003")) for path in (folder / "00003").rglob("*.*")) == [
        "metadata.jsonl",
        "samples/0000.png",
        "samples/0001.png",
    ]
    read = list(read_pictures(folder, 32))
    assert [prompt for _, prompt, _ in read[::2]] == [tests[0] for tests in by_task("test").values()]
    assert all(picture.shape == (3, 32, 32) and np.abs(picture).max() <= 1 for _, _, picture in read)


def test_scoring_a_folder(folder, monkeypatch, capsys):
    official, strict = (list(score.score(folder, strict=flag)) for flag in (False, True))
    # the official rule of colours looks at one object of the class, which may be the one too many
    assert [row.correct for row in official if row.tag != "colors"][:6] == [True, True, True, True, True, False]
    assert [row.correct for row in strict] == [True, False] * 6
    assert all((row.reason == "") == row.correct for row in [*official, *strict])
    assert json.loads(official[0].details).keys() == {json.loads(official[0].metadata)["include"][0]["class"]}
    monkeypatch.setattr(sys, "argv", ["score", str(folder), "--strict"])
    score.main()
    printed = capsys.readouterr().out
    assert "GenEval-mini (strict)" in printed
    assert "0.50000" in printed
    assert read_results(folder / "results.jsonl") == strict


def test_scoring_what_is_not_there_ends_with_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        score.main()
    assert stop.value.code == 2
    assert "expected NNNNN/metadata.jsonl" in capsys.readouterr().err
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000" / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="expected one line of metadata, found 0"):
        list(read_pictures(tmp_path, 32))


def test_a_picture_of_another_size_is_named(folder, monkeypatch, capsys):
    write_pictures(folder, by_task("test")["counting"][:1], [np.zeros((1, 3, 64, 48), dtype=np.float32)])
    monkeypatch.setattr(sys, "argv", ["score", str(folder)])
    with pytest.raises(SystemExit) as stop:
        score.main()
    assert stop.value.code == 2
    assert "00000/samples/0000.png: expected a picture of 32 x 32 pixels, got 48 x 64" in capsys.readouterr().err


def refused(folder, monkeypatch, capsys, *options) -> str:
    monkeypatch.setattr(sys, "argv", ["score", str(folder), *options])
    with pytest.raises(SystemExit) as stop:
        score.main()
    assert stop.value.code == 2
    assert not (folder / "results.jsonl").exists()
    return capsys.readouterr().err


def _empty(samples):
    for path in samples.iterdir():
        path.unlink()


def _as_jpg(samples):
    for path in list(samples.iterdir()):
        path.rename(path.with_suffix(".jpg"))


def _as_folder(samples):
    (samples / "0001.png").unlink()
    (samples / "0001.png").mkdir()


def _as_loop(samples):
    (samples / "0001.png").unlink()
    (samples / "0001.png").symlink_to("0001.png")


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (shutil.rmtree, 2),
        (_empty, 2),
        (_as_jpg, 2),
        (lambda samples: (samples / "0001.png").unlink(), 1),
        (_as_folder, 1),
        (_as_loop, 1),
    ],
)
def test_pictures_that_are_not_there_are_named_or_wrong(folder, monkeypatch, capsys, change, gone):
    tag = next(iter(read_prompts(folder / "00004" / "metadata.jsonl"))).tag
    change(folder / "00004" / "samples")
    said = refused(folder, monkeypatch, capsys)
    assert f"00004/samples: expected 2 pictures 0000.png, 0001.png, ..., found {2 - gone}" in said
    assert "missing=wrong" in said
    monkeypatch.setattr(sys, "argv", ["score", str(folder), "--missing", "wrong"])
    score.main()
    assert f"{tag:16s} {1 - gone / 2:7.2%}   n      2" in capsys.readouterr().out
    results = read_results(folder / "results.jsonl")
    assert [row.reason for row in results].count("no picture") == gone
    assert len(results) == 12


def test_tasks_and_folders_that_are_not_there_are_named(folder, monkeypatch, capsys):
    shutil.move(folder / "00005", folder.parent / "kept")
    assert f"got none of {TASKS[5]}" in refused(folder, monkeypatch, capsys)
    results = list(score.score(folder))
    assert summarise(results, "wrong").tasks[TASKS[5]] == 0
    assert summarise(results, "wrong").overall == pytest.approx(summarise(results).overall * 5 / 6)
    shutil.move(folder.parent / "kept", folder / "00005")
    shutil.rmtree(folder / "00002")
    assert "numbered without a gap, found none for 00002" in refused(folder, monkeypatch, capsys, "--missing", "wrong")


def test_only_official_names_are_read(folder):
    expected = [(path, prompt) for path, prompt, _ in read_pictures(folder, 32)]
    for name in (".ipynb_checkpoints", "00000 (copy)", "00000.bak", "._00000", "backup"):
        shutil.copytree(folder / "00000", folder / name)
    (folder / "00007").write_text("no folder")
    samples = folder / "00000" / "samples"
    for name in (
        "._0000.png",
        "grid.png",
        "Thumbs.db",
        ".DS_Store",
        "0000.png~",
        "0000 (1).png",
        "0000.png.bak",
        "x0.png",
    ):
        (samples / name).write_bytes(b"no picture")
    (samples / ".ipynb_checkpoints").mkdir()
    shutil.copy(samples / "0000.png", samples / "0000.jpg")
    assert [(path, prompt) for path, prompt, _ in read_pictures(folder, 32)] == expected


def test_a_prompt_or_picture_that_comes_twice_is_named(folder, monkeypatch, capsys):
    samples = folder / "00001" / "samples"
    shutil.copy(samples / "0000.png", samples / "0.png")
    assert "expected one picture per number, got 0.png, 0000.png" in refused(folder, monkeypatch, capsys)
    (samples / "0.png").unlink()
    shutil.copytree(folder / "00001", folder / "00006")
    assert "00006: expected each prompt once" in refused(folder, monkeypatch, capsys)


def test_metadata_may_be_spread_over_lines(folder):
    before = [prompt for _, prompt, _ in read_pictures(folder, 32)]
    for path in folder.glob("*/metadata.jsonl"):
        spread = json.dumps(json.loads(path.read_text()) | {"more": 1}, indent=2).replace("\n", "\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + spread.encode())
    assert [prompt for _, prompt, _ in read_pictures(folder, 32)] == before


def test_a_damaged_picture_is_named(folder, monkeypatch, capsys):
    path = folder / "00003" / "samples" / "0001.png"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    path.write_bytes(content)
    assert str(path) in refused(folder, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ([{"class": "circle", "count": 0}], r"'odd': include\[0\]: count: expected a whole number from 1, got 0"),
        ([{"class": "circle"}], r"'odd': include\[0\]: count: .* got None"),
        ([{"count": 1}], r"'odd': include\[0\]: class: expected a name, got None"),
        ([{"class": "circle", "count": 1, "position": ["above", 1]}], r"'odd': include\[0\]: position: expected"),
        ([{"class": "circle", "count": 1, "position": None}], r"'odd': include\[0\]: position: expected"),
    ],
)
def test_rules_that_cannot_be_applied_are_named(include, message):
    with pytest.raises(ValueError, match=message):
        apply_rules([Found("circle", "red", (0, 0, 1, 1))], Prompt("colors", tuple(include), (), "odd"))


def test_result_files_have_the_official_keys_and_round_trip(tmp_path):
    prompt = by_task("test")["counting"][0]
    row = Result.of("a.png", prompt, False, "expected", {"circle": [[0.0, 1.0, 2.0, 3.0, 0.5]]})
    write_results(tmp_path / "results.jsonl", [row, dataclasses.replace(row, filename="b.png", correct=True)])
    line = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert list(line) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert json.loads(line["metadata"])["exclude"] == [dict(prompt.exclude[0])]
    assert [read.correct for read in read_results(tmp_path / "results.jsonl")] == [False, True]


def test_overall_is_the_unweighted_mean_of_the_tags():
    rows = [result("colors", "a", True), result("colors", "a", False), result("colors", "b", False)]
    rows += [result("position", "c", True)]
    summary = summarise(rows)
    assert summary.tasks == {"colors": pytest.approx(1 / 3), "position": 1}
    assert summary.overall == pytest.approx(2 / 3)
    assert (summary.pictures, summary.picture_count) == (0.5, 4)
    assert (summary.prompts, summary.prompt_count) == (pytest.approx(2 / 3), 3)
    assert "0.66667" in str(summary)
    with pytest.raises(ValueError, match="at least one result"):
        summarise([])


@given(st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, 3), st.booleans()), min_size=1))
def test_overall_does_not_see_how_many_pictures_a_tag_has(rows):
    results = [result(tag, f"{tag} {number}", correct) for tag, number, correct in rows]
    doubled = results + [row for row in results if row.tag == results[0].tag]
    assert summarise(doubled).overall == pytest.approx(summarise(results).overall)
    assert 0 <= summarise(results).pictures <= summarise(results).prompts <= 1 or len({r.prompt for r in results}) > 1


def test_the_noise_curve_falls_from_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["noise_curve", "--count", "40"])
    monkeypatch.setattr(noise_curve, "NOISE", (0.0, 0.6))
    noise_curve.main()
    header, _, clean, noisy = capsys.readouterr().out.strip().splitlines()
    cells = [[float(cell) for cell in line.strip("| ").split("|")] for line in (clean, noisy)]
    assert len(cells[0]) == header.count("|") - 1
    assert cells[0][1:7] == [1.0] * 6
    assert max(cells[1][1:7]) < 0.5
    assert cells[1][7] > 0.4
