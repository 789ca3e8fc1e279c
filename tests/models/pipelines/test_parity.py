"""Every row of the table: our Euler steps end where the pipeline's own call ends."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests.models.pipelines import tiny
from unigrpo.errors import ConfigError
from unigrpo.models.pipelines import Diffusers
from unigrpo.models.pipelines.certify import PROMPTS, Drawn, certify, contexts
from unigrpo.models.pipelines.loading import assembled
from unigrpo.models.pipelines.rows import FAMILIES

pytestmark = pytest.mark.no_cover
SIZE = {"height": tiny.SIDE, "width": tiny.SIDE}
#: Pipelines that edit, and whether they can do without a picture.
EDITORS = {"FluxKontextPipeline": True, "Flux2KleinPipeline": True, "QwenImageEditPipeline": False}
#: A side of their pictures; FLUX.2 takes none below 64 pixels, and Qwen's encoder sees squares of 28.
SIDES = {"Flux2KleinPipeline": 64, "QwenImageEditPipeline": 56}


@pytest.fixture(autouse=True)
def megapixel(monkeypatch):
    """Qwen-Image-Edit's own call scales what it edits to about a megapixel; here to a tiny picture."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    side = SIDES["QwenImageEditPipeline"]
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (side, side, None))


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_end_where_the_pipeline_ends(name):
    side = SIDES.get(name, tiny.SIDE)
    found = certify(tiny.model(name), steps=3, height=side, width=side)
    for one in found:
        assert one.spread > 0.1
        assert one.largest <= 1e-5, one
    edited = [False] * EDITORS.get(name, True) + [True] * (name in EDITORS)
    wanted = [(prompts, edits, scale) for edits in edited for scale in (1.0, 3.0) for prompts in (2, 1)]
    assert [(one.prompts, one.edited, one.guidance_scale) for one in found] == wanted


@pytest.mark.parametrize("name", EDITORS)
def test_what_is_edited_matters_and_each_row_edits_its_own(name):
    loaded, side = tiny.model(name), SIDES.get(name, tiny.SIDE)
    x = torch.randn(2, *loaded.processor.latent_shape(side, side), generator=torch.Generator().manual_seed(0))
    (context, nothing), t = contexts(loaded, PROMPTS, Drawn((side, side))), torch.tensor(0.6)
    other = loaded.processor.autoencoder.decode(x)
    there = torch.tensor([True, False])
    with torch.no_grad():
        for before in (context, nothing):
            after = replace(loaded.policy.extend_image(before, x, there), blocks=before.blocks)
            old, new = (loaded.policy.velocity(one, x, t) for one in (before, after))
            assert (old[0] - new[0]).abs().max() > 1e-2 * old.std()
            assert torch.equal(old[1], new[1])
            features = loaded.processor.vision(other) if loaded.processor.vision else None
            if features is not None:
                seeing = loaded.policy.extend_features(before, features, there)
                new = loaded.policy.velocity(seeing, x, t)
                assert (old[0] - new[0]).abs().max() > 1e-3 * old.std()
                torch.testing.assert_close(old[1], new[1], atol=1e-5, rtol=1e-5)


def test_a_picture_of_a_size_that_the_pipelines_own_call_changes_is_not_certified():
    with pytest.raises(
        ConfigError, match=r"sampler\.height=32.* own call of QwenImageEditPipeline scales .* to 56 x 56"
    ):
        certify(tiny.model("QwenImageEditPipeline"), **SIZE)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_matters(name):
    loaded = tiny.model(name)
    x = torch.randn(2, *loaded.processor.latent_shape(tiny.SIDE, tiny.SIDE), generator=torch.Generator().manual_seed(0))
    edited = None if EDITORS.get(name, True) else Drawn((tiny.SIDE, tiny.SIDE))
    context, nothing = contexts(loaded, PROMPTS, edited)
    with torch.no_grad():
        found = [
            loaded.policy.velocity(one, x, torch.tensor(0.6))
            for one in (context, nothing, context.rows(torch.tensor([1, 0])))
        ]
    scale = found[0].std()
    assert (found[0] - found[1]).abs().max() > 1e-3 * scale, "or parity under guidance would say nothing"
    assert (found[0] - found[2]).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "QwenImagePipeline", "ZImagePipeline", "SanaPipeline"])
def test_a_negative_prompt_is_told_to_the_pipelines_own_call(name):
    told = Diffusers(negative_prompt="a blurred photo", **tiny.TOLD.get(name, {}))
    loaded = assembled(told, tiny.pipeline(name), FAMILIES[name])
    for one in certify(loaded, steps=2, scales=(3.0,), **SIZE):
        assert one.largest <= 1e-5, one
    other, usual = (certify(found, steps=2, scales=(3.0,), **SIZE)[0].spread for found in (loaded, tiny.model(name)))
    assert other != usual


def test_a_wrong_row_is_not_certified():
    right = tiny.model("QwenImagePipeline")
    policy = copy.deepcopy(right.policy)
    policy.family = replace(policy.family, guided=None)
    plain_pair, plain, guided_pair, guided = certify(replace(right, policy=policy), steps=3, **SIZE)
    assert plain_pair.holds
    assert plain.holds
    assert not guided_pair.holds
    assert not guided.holds


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_go_to_maps_and_back_as_the_autoencoder_has_them(name):
    loaded = tiny.model(name)
    pictures = torch.rand(2, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = loaded.processor.autoencoder.encode(pictures)
        again = loaded.processor.autoencoder.decode(latents)
    assert latents.shape == (2, *loaded.processor.latent_shape(tiny.SIDE, tiny.SIDE))
    assert again.shape == pictures.shape
    assert again.abs().max() <= 1
