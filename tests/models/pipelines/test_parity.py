"""Every row of the table: our Euler steps end where the pipeline's own call ends."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests.models.pipelines import tiny
from unigrpo.models.pipelines.certify import PROMPTS, certify, contexts
from unigrpo.models.pipelines.rows import FAMILIES

pytestmark = pytest.mark.no_cover
SIZE = {"height": tiny.SIDE, "width": tiny.SIDE}


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_end_where_the_pipeline_ends(name):
    plain_pair, plain, guided_pair, guided = certify(tiny.model(name), steps=3, **SIZE)
    for one in (plain_pair, plain, guided_pair, guided):
        assert one.spread > 0.1
        assert one.largest <= 1e-5, one
    assert (plain_pair.prompts, plain.prompts) == (2, 1)
    assert (plain.guidance_scale, guided.guidance_scale) == (1.0, 3.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_matters(name):
    loaded = tiny.model(name)
    x = torch.randn(2, *loaded.processor.latent_shape(tiny.SIDE, tiny.SIDE), generator=torch.Generator().manual_seed(0))
    context, nothing = contexts(loaded, PROMPTS)
    with torch.no_grad():
        found = [
            loaded.policy.velocity(one, x, torch.tensor(0.6))
            for one in (context, nothing, context.rows(torch.tensor([1, 0])))
        ]
    scale = found[0].std()
    assert (found[0] - found[1]).abs().max() > 1e-3 * scale, "or parity under guidance would say nothing"
    assert (found[0] - found[2]).abs().max() > 1e-3 * scale


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
