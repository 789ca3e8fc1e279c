"""Matrices in a pipeline's transformer and in what thinks before it: the reference, and what peft loads of them."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from peft import PeftModel

from tests.models.adapters.test_layers import shake
from tests.models.pipelines import tiny
from tests.models.pipelines.test_own_thinking import context_of, noise_of, thinking
from tests.models.pipelines.test_policy import joined
from unigrpo.flow.guidance import Cfg
from unigrpo.flow.schedule import time_points
from unigrpo.models import LoadedModel
from unigrpo.models.adapters import Lora, files

pytestmark = pytest.mark.no_cover
T = torch.tensor(0.6)


@pytest.fixture(scope="module", params=["apart", "own"])
def found(request, tmp_path_factory):
    """A pipeline with a language model beside it, and one whose own text encoder thinks."""
    if request.param == "own":
        return thinking("Flux2KleinPipeline")
    return joined(tiny.language_model(tmp_path_factory.mktemp("thinker")))


@torch.no_grad()
def velocity(policy, loaded):
    """At the same noise behind the same texts, which the policy itself has read."""
    mine = LoadedModel(policy, loaded.processor)
    return policy.velocity(context_of(mine), noise_of(mine), T)


def test_the_reference_is_the_pipeline_and_peft_loads_each_of_its_parts(found, tmp_path):
    plain, base = (LoadedModel(copy.deepcopy(found.policy), found.processor) for _ in range(2))
    before = velocity(base.policy, base)
    loaded = Lora(rank=2, alpha=4).attach(base, (0,))
    assert torch.equal(velocity(loaded.policy, loaded), before)
    shake(loaded.policy, scale=0.1)
    moved = velocity(loaded.policy, loaded)
    assert not torch.equal(moved, before)
    assert torch.equal(velocity(loaded.reference(), loaded), before)
    files.write(tmp_path, loaded.policy, 2, 4)
    parts = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("adapter_config.json"))
    assert parts == ["language.model", "transformer"]
    for part in parts:
        PeftModel.from_pretrained(plain.policy.get_submodule(part), tmp_path / part)
    torch.testing.assert_close(velocity(plain.policy, plain), moved)


def test_schedule_and_guidance_stay_the_pipelines_own():
    whole = tiny.model("QwenImagePipeline")
    own = dataclasses.replace(whole, policy=copy.deepcopy(whole.policy))
    loaded = Lora(rank=2, alpha=4).attach(own, (0,))
    assert torch.equal(loaded.time_points(4, 1.0, tiny.SIDE, tiny.SIDE), own.time_points(4, 1.0, tiny.SIDE, tiny.SIDE))
    assert not torch.equal(loaded.time_points(4, 1.0, tiny.SIDE, tiny.SIDE), time_points(4))
    assert loaded.guidance(Cfg(3.0)) == own.guidance(Cfg(3.0)) != Cfg(3.0)
