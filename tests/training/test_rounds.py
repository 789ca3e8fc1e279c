"""Whole runs of many rounds: ratios start at 1, resumption is exact, and the folder holds what reports read."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

from tests.training import runs
from tests.training.runs import config_of, moved, product, rows, weights_of
from unigrpo.errors import Stopped
from unigrpo.training import runner
from unigrpo.training.runner import run
from unigrpo.training.trainer import Trainer

UPDATES = 2
KINDS = pytest.mark.parametrize("kind", runs.ROUNDS)
WHOLE: dict[str, tuple] = {}


def whole(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """An uninterrupted run: its folder and its result."""
    if kind not in WHOLE:
        folder = tmp_path_factory.mktemp(kind)
        WHOLE[kind] = folder, run(config_of(**runs.ROUNDS[kind], optim={"updates": UPDATES}), folder)
    return WHOLE[kind]


@KINDS
def test_p13_the_first_log_ratios_of_all_segments_are_exactly_0(kind):
    config = config_of(**runs.ROUNDS[kind], rollout={"group_size": 4})
    trainer = Trainer(config)
    before = weights_of(trainer.policy)
    found = trainer.update(0)
    assert found["guard/text"] == found["guard/image"] == 0.0
    assert found["ratio/text_mean"] == 1.0
    assert {value for name, value in found.items() if name.startswith("ratio/image_mean")} <= {1.0}
    assert all(math.isfinite(value) for value in found.values())
    assert moved(before, weights_of(trainer.policy))


@KINDS
def test_a_stopped_run_of_many_rounds_goes_on_to_the_same_bytes(kind, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 1)
    folder, result = whole(kind, tmp_path_factory)
    config = config_of(**runs.ROUNDS[kind], optim={"updates": UPDATES})
    with pytest.raises(Stopped):
        run(config, tmp_path, stop=lambda: True)
    torch.manual_seed(5)
    assert run(config, tmp_path) == result
    assert product(tmp_path) == product(folder)


EXPECTED = {
    "interleaved": {
        "metrics": {
            "interleaved/mean", "interleaved/structure", "interleaved/helpfulness", "interleaved/step/1/asked",
            "interleaved/step/3/coherence", "retention/geneval/strict", "retention/geneval/official",
        },
        "logged": {"train/mean", "train/structure", "train/text_quality", "train/reward/words"},
        "row": {"mean", "structure", "step/2/asked", "pictures", "tag", "image"},
        "means": {"interleaved/step/1/asked", "interleaved/step/3/coherence", "guided/interleaved/mean"},
    },
    "editing": {
        "metrics": {
            "editing/O", "editing/SC", "editing/PQ", "editing/turn/1/O", "editing/turn/3/PQ",
            "retention/geneval/strict", "retention/geneval/official",
        },
        "logged": {"train/O", "train/SC", "train/PQ", "train/turn/2/reward"},
        "row": {"O", "SC", "PQ", "turn", "success", "preserved"},
        "means": {"editing/turn/3/O", "editing/turn/1/SC", "editing/O/add", "guided/editing/O"},
    },
    "reflect": {
        "metrics": {"reflect/first_strict", "reflect/verdict", "reflect/rounds", "geneval/strict"},
        "logged": {"train/strict", "train/official", "train/turn/1/reward"},
        "row": {"first", "stopped", "rounds", "strict", "thinking"},
        "means": {"reflect/first_strict", "guided/geneval/official"},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_rows_hold_what_reports_read(kind, tmp_path_factory):
    folder, result = whole(kind, tmp_path_factory)
    expected = EXPECTED[kind]
    assert result["metrics"].keys() >= expected["metrics"]
    assert all(math.isfinite(value) for value in result["metrics"].values())
    assert {f"guided/{name}" for name in expected["metrics"] if not name.startswith("retention")} <= result[
        "metrics"
    ].keys()
    assert ("retention/geneval/strict" in result["metrics"]) == (kind != "reflect")
    for row in rows(folder / "metrics.jsonl"):
        assert row.keys() >= expected["logged"]
    assert all(row.keys() >= expected["row"] for row in rows(folder / "per_prompt.jsonl"))
    assert runs.means_of_rows(folder, result) >= expected["means"]


@pytest.mark.parametrize("kind", sorted(runs.ROUNDS.keys() - {"codes"}))
def test_every_painted_picture_is_counted_once(kind):
    """Given ones are not, and one that a group shares is: as their velocities are."""
    trainer = Trainer(config_of(**runs.ROUNDS[kind], guidance="cfg_free"))
    trajectories = trainer.rollout(0, trainer.rollout_spec(0))
    trainer.compute_advantages(trajectories)
    evaluations = sum(trajectory.cost.nfe for trajectory in trajectories)
    assert trainer.cost["images"] * trainer.config.sampler.steps == evaluations > 0


@pytest.mark.parametrize("kind", EXPECTED)
def test_samples_read_like_a_strip(kind, tmp_path_factory):
    folder, _ = whole(kind, tmp_path_factory)
    samples = json.loads((folder / "samples" / "index.json").read_text())
    shown = {piece["picture"] for sample in samples for piece in sample["strip"] if "picture" in piece}
    assert shown == {path.name for path in (folder / "samples").glob("*.png")}
    assert len({sample["tag"] for sample in samples}) == {"interleaved": 2}.get(kind, 6)
    for name in shown:
        with Image.open(folder / "samples" / name) as picture:
            assert picture.size == (32, 32)
    for sample in samples:
        strip = sample["strip"]
        assert sample.keys() == {"prompt", "tag", "scores", "reason", "strip"}
        assert sample["scores"].keys() >= EXPECTED[kind]["row"] - {"steps", "tag", "image", "thinking", "turn"}
        assert [piece["turn"] for piece in strip] == sorted(piece["turn"] for piece in strip)
        pieces = [("picture" if "picture" in piece else "text", piece["given"]) for piece in strip]
        prompt = next(piece["text"] for piece in strip if "text" in piece)
        assert prompt == sample["prompt"]
        if kind == "editing":
            assert pieces == [("picture", True), *[("text", True), ("text", False), ("picture", False)] * 3]
        else:
            alive = [name for name, given in pieces[1:] if not given]
            assert alive == [("text", "picture")[k % 2] for k in range(len(alive))], "texts and pictures take turns"
            assert pieces[0] == ("text", True)


def test_only_a_run_that_names_what_it_may_forget_has_retention():
    changes = dict(runs.ROUNDS["interleaved"])
    changes["evaluation"] = {"prompts_per_tag": 1, "retention": None}
    assert Trainer(config_of(**changes)).evaluator.retention() is None
    kept = Trainer(config_of(**runs.ROUNDS["interleaved"])).evaluator.retention()
    assert kept.episode.name == "single_round"
    assert {prompt.tag for prompt in kept.prompts} >= {"counting", "colors"}
