from __future__ import annotations

import dataclasses
import json
import random
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
from unigrpo.worlds.shapes.prompts import OFFICIAL_COUNTS, TASKS, by_task, select
from unigrpo.worlds.shapes.render import render


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
    prompts = select("train", tuple(OFFICIAL_COUNTS.values()))
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 553


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(by_task("test")["colors"][0].to_json() + "\n\n{}\n")
    with pytest.raises(ValueError, match=r"prompts.jsonl:3: tag: expected str, found no field"):
        read_prompts(path)
    path.write_text('{"filename": "x"}\n')
    with pytest.raises(ValueError, match=r"prompts.jsonl:1: tag: expected str, found only filename"):
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
    with pytest.raises(ValueError, match=r"00000/metadata.jsonl: not JSON"):
        list(read_pictures(tmp_path, 32))


def test_a_picture_of_another_size_is_named(folder, monkeypatch, capsys):
    write_pictures(folder, by_task("test")["single_object"][:1], [np.zeros((2, 3, 64, 48), dtype=np.float32)])
    monkeypatch.setattr(sys, "argv", ["score", str(folder)])
    with pytest.raises(SystemExit) as stop:
        score.main()
    assert stop.value.code == 2
    assert "00000/samples/0000.png: expected a picture of 32 x 32 pixels, got 48 x 64" in capsys.readouterr().err


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


def test_a_curve_of_nothing_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["noise_curve", "--count", "0"])
    with pytest.raises(SystemExit) as stop:
        noise_curve.main()
    assert (stop.value.code, "--count 0: expected a picture" in capsys.readouterr().err) == (2, True)
