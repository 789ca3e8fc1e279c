"""How much of an arm's spread is evaluation: where it is told, and where nothing is known of it."""

import json
import shutil

import numpy as np
import pytest

from reports import noise
from reports.analysis import analyse
from reports.collect import read
from reports.records import Sweep
from reports.statistics import Spread, variance_split
from tests.reports.synthetic import ARMS, write_sweep


@pytest.fixture(scope="module")
def written_once(tmp_path_factory):
    """Two arms, three seeds, 36 prompts of 18 meanings, two images each."""
    arms = {name: ARMS[name] for name in ("none", "velocity_mse")}
    folder = write_sweep(tmp_path_factory.mktemp("noise"), arms=arms, seeds=range(3), updates=2)
    for path in folder.parents[1].glob("cells/*/per_prompt.jsonl"):
        change(path, lambda row: row | {"guidance": 1.0, "meaning": f"m{int(row['prompt'][-1]) // 2}"})
    return folder


@pytest.fixture
def sweep(written_once, tmp_path):
    shutil.copytree(written_once.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "sweeps" / written_once.name


def change(path, edited):
    rows = [edited(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row))


def rows_of(sweep, cell):
    return sweep.parents[1] / "cells" / cell / "per_prompt.jsonl"


def spreads(sweep):
    return noise.spreads(read(sweep))


def test_the_parts_are_those_of_the_rows(sweep):
    found = spreads(sweep)
    assert found.keys() == {"none", "velocity_mse"}
    tables = [
        [json.loads(line) for line in rows_of(sweep, f"none{seed}").read_text().splitlines()] for seed in range(3)
    ]
    images = np.reshape([[row["strict"] for row in rows] for rows in tables], (3, 36, 2))
    tags, meanings = ([row[name] for row in tables[0][::2]] for name in ("tag", "meaning"))
    assert found["none"].evaluation == pytest.approx(variance_split(images, tags, meanings).evaluation)
    assert found["none"].prompts == pytest.approx(variance_split(images, tags, meanings).prompts)


def test_prompts_are_counted_by_meaning(sweep):
    assert read(sweep).evaluated.meanings == 18
    pair = analyse(read(sweep)).family("baseline").pairs[0]
    assert pair.new_prompts.n == 18


def test_rows_at_another_guidance_are_another_measures(sweep):
    """Those of the primary are at guidance 1; guided/geneval/strict has its own, in a file of their own."""
    before = spreads(sweep)
    for path in sweep.parents[1].glob("cells/*/per_prompt.jsonl"):
        text = path.read_text()
        path.with_name("per_prompt_guided.jsonl").write_text(text.replace('"guidance": 1.0', '"guidance": 2.0'))
    assert spreads(sweep) == before
    for path in sweep.parents[1].glob("cells/*/result.json"):
        found = json.loads(path.read_text())
        found["metrics"]["guided/geneval/strict"] = found["metrics"]["geneval/strict"]
        path.write_text(json.dumps(found))
        (path.parent / "DONE").write_text("")
    plan = json.loads((sweep / "sweep.json").read_text())
    plan["primary"]["metric"] = "guided/geneval/strict"
    (sweep / "sweep.json").write_text(json.dumps(plan))
    assert spreads(sweep) == before
    assert analyse(read(sweep)).family("baseline").pairs[0].crossed is not None


def one_image(row):
    return row if row["image"] == 0 else None


def lower(row):
    return row | {"strict": 0}


def fewer(row):
    return None if row["prompt"].startswith("counting") else row


def unlike(row):
    return None if (row["prompt"], row["image"]) == ("counting-1", 1) else row


@pytest.mark.parametrize("edited", [one_image, lower, fewer, unlike])
def test_nothing_is_told_of_rows_that_do_not_make_the_score_image_by_image(sweep, edited):
    for seed in range(3) if edited is one_image else [1]:
        change(rows_of(sweep, f"none{seed}"), edited)
    assert spreads(sweep).keys() == {"velocity_mse"}


def test_one_seed_has_no_spread(tmp_path):
    assert spreads(write_sweep(tmp_path, seeds=[0], updates=1)) == {}


def test_much_noise_is_warned_of_with_the_key_to_raise(sweep):
    found = read(sweep)
    many = {"little": Spread(4.0, 3.0, 1.0, None), "much": Spread(4.0, 2.0, 2.0, None), "all": Spread(1, 0, 1, None)}
    (said,) = noise.warnings(found, many)
    assert (
        "of the variance of strict overall score over seeds, noise of the images makes 100 % (all), 50 % (much)."
        in said
    )
    assert said.endswith("More images per prompt before more seeds: evaluation.images_per_prompt, now 2.")
    assert not [*noise.warnings(found, {"little": many["little"]})]


def test_a_row_has_standard_deviations_and_the_share_of_variances():
    (row,) = noise.rows({"one": Spread(0.04, 0.03, 0.01, None)})
    assert (row.arm, row.seeds, row.training, row.evaluation) == ("one", "0.200", "0.173", "0.100")
    assert (row.share, row.prompts) == ("25 %", "–")


def test_too_few_meanings_for_an_interval_over_prompts(sweep):
    """Six tags of two meanings have six beyond the first of each."""
    for path in sweep.parents[1].glob("cells/*/per_prompt.jsonl"):
        change(path, lambda row: row | {"meaning": f"m{int(row['prompt'][-1]) // 3}"})
    found: Sweep = read(sweep)
    assert found.evaluated.meanings == 12
    assert analyse(found).family("baseline").pairs[0].new_prompts is None
