"""Pipelines that edit: what a run of edits asks of them, and what they are refused for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.models.pipelines import tiny
from tests.models.pipelines.test_policy import TEXTS, blocks_of, joined
from tests.training.runs import ROUNDS, config_of, product
from unigrpo.compose import compose
from unigrpo.errors import ConfigError
from unigrpo.models.conformance import assert_model_conforms
from unigrpo.models.pipelines import Diffusers
from unigrpo.models.pipelines.family import Family
from unigrpo.models.pipelines.loading import PipelineModel
from unigrpo.models.pipelines.pictures import Pixels, pictures_in
from unigrpo.models.pipelines.rows import FAMILIES
from unigrpo.training import runner
from unigrpo.training.runner import Stopped, run

pytestmark = pytest.mark.no_cover
KONTEXT, QWEN = "FluxKontextPipeline", "QwenImageEditPipeline"


def test_a_run_of_edits_ends_and_a_resumed_one_ends_in_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHECKPOINT_EVERY", 1)
    folder = tiny.saved(KONTEXT, tmp_path / "kontext")
    edits = ROUNDS["editing"] | {"episode": {"name": "editing", "turns": 2, "test_turns": 2, "thinking": False}}
    edits |= {"evaluation": {"retention": None}, "modalities": "image_only", "optim": {"updates": 2}}
    size, model = {"steps": 2, "height": 32, "width": 32}, {"name": "diffusers", "path": str(folder)}
    config = config_of(**edits, model=model, sampler=size, text_kl="none", guidance={"name": "cfg"}).check()
    found = run(config, tmp_path / "whole")
    assert {"editing/turn/1/O", "editing/turn/2/O"} <= found["metrics"].keys()
    with pytest.raises(Stopped):
        run(config, tmp_path / "stopped", stop=lambda: True)
    run(config, tmp_path / "stopped")
    assert product(tmp_path / "whole") == product(tmp_path / "stopped")


def test_an_edit_is_made_of_the_latest_image_by_the_latest_request(tmp_path):
    loaded = joined(tiny.language_model(tmp_path), KONTEXT)
    first = blocks_of(loaded, TEXTS, ["one ruby cube", "two"])
    latents = torch.randn(2, *loaded.processor.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    policy, one = loaded.policy, torch.tensor([False, True])
    shown = policy.extend_image(first, latents, torch.tensor([True, True]))
    assert policy.reading(shown.blocks, 2) == ["", ""], "what made an image does not edit it"
    assert torch.equal(shown.source.latents, latents)
    again = policy.extend_image(first, latents, one)
    assert policy.reading(again.blocks, 2) == ["one ruby cube", ""]
    assert again.source.there.tolist() == [False, True]
    later = policy.extend_image(shown, -latents, one)
    assert torch.equal(later.source.latents, torch.stack((latents[0], -latents[1])))
    assert later.rows(torch.tensor([1, 1])).source.latents.shape[0] == 2
    assert again.rows(torch.tensor([0])).source is None


def test_features_are_the_pixels_and_back():
    levels = torch.randint(0, 256, (2, 3, 5, 7), generator=torch.Generator().manual_seed(0))
    features = Pixels()(levels / 127.5 - 1)
    assert features.shape == (2, 5, 21)
    for picture, wanted in zip(pictures_in(features), levels, strict=True):
        assert picture.size == (7, 5)
        assert list(picture.tobytes()) == wanted.permute(1, 2, 0).flatten().tolist()


def test_what_an_editor_cannot_do_is_said_while_planning(tmp_path):
    def faults(pipeline: str, *more: str) -> str:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        told = ["model=diffusers", f"model.path={tmp_path}", "modalities=image_only", *more]
        return "; ".join(compose(told).conflicts())

    edits = ["recipe=editing_unigrpo", "episode.thinking=false", "evaluation.retention=null"]
    for pipeline in (KONTEXT, QWEN, "Flux2KleinPipeline"):
        assert not faults(pipeline, *edits, "guidance=cfg")
        said = faults(pipeline, "recipe=reflect_unigrpo")
        assert "episode=reflect: texts follow an image, which those of this model cannot read; use single_round" in said
    assert "something follows an image, which this model cannot read" in faults("FluxPipeline", *edits)
    alone = ["recipe=unigrpo", "episode.thinking=false"]
    assert not faults(KONTEXT, *alone)
    said = faults(QWEN, *alone, "evaluation.retention=shapes")
    assert "episode=single_round: the model edits images, and no prompt of this has one; use editing" in said
    assert "evaluation.retention: the model edits images" in said
    both = ["guidance=text_image_cfg", "guidance.image_scale=2"]
    assert "guidance=text_image_cfg: asks for an image without the one that is edited (requests)" in faults(
        QWEN, *edits, *both
    )
    assert not faults(QWEN, *edits, "guidance=text_image_cfg")
    assert "without thinking there is no text to train" in faults(KONTEXT, *edits, "modalities=joint")


def test_an_editor_without_a_picture_says_what_is_lacking():
    policy = tiny.model(QWEN).policy
    with pytest.raises(ConfigError, match="edits a picture, and there is none; use episode=editing"):
        policy.velocity(policy.start(1), torch.zeros(1, 4, 8, 8), torch.tensor(0.5))


class There(Diffusers):
    """A tiny pipeline that is there already; its path is the name of its class."""

    def row(self) -> Family:
        return FAMILIES[self.path]

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> PipelineModel:
        if not self.language_model:
            return tiny.model(self.path)
        return joined(Path(self.language_model), self.path)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_pipeline_conforms(name):
    assert_model_conforms(There(name), ("a red circle", "a kite"), size=(16, 16))


def test_an_editor_with_a_language_model_conforms(tmp_path):
    thinker = tiny.language_model(tmp_path)
    assert_model_conforms(There(QWEN, language_model=str(thinker)), ("a red circle", "a kite"), size=(16, 16))
