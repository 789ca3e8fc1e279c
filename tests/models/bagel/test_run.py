"""Runs of a published folder: the first ratios are 1, and the model that a run leaves is a folder to start from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.bagel import published
from tests.training.runs import ROUNDS, config_of, moved, weights_of
from unigrpo.flow.guidance import TextImageCfg
from unigrpo.models.bagel import Bagel
from unigrpo.rollout.trajectory import ImageSegment
from unigrpo.training.trainer import Trainer

KINDS = {
    "text to image": ({}, TextImageCfg(4.0, 1.5, renorm="image"), False),
    "edits": (ROUNDS["editing"], TextImageCfg(4.0, 2.0, low=0.0, renorm="text_channel"), True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("bagel"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratios_are_1_and_both_experts_learn(folder, tmp_path, kind):
    changes, guidance, vision = KINDS[kind]
    (tmp_path / "think.txt").write_text("think \nred")
    model = Bagel(str(folder), vision=vision, system_prompt=str(tmp_path / "think.txt"))
    config = replace(config_of(**changes, rollout={"group_size": 4}), model=model, guidance=guidance)
    trainer = Trainer(config.check())
    before = weights_of(trainer.policy)
    found = trainer.update(0)
    assert found["guard/text"] == found["guard/image"] == 0.0
    assert found["loss/regularizer"] == found["loss/text_kl"] == 0.0
    changed = moved(before, weights_of(trainer.policy))
    assert {"llm2vae.weight", "language_model.lm_head.weight"} <= set(changed)
    assert bool([name for name in changed if name.startswith("connector.fc")]) == vision
    assert not [name for name in changed if name.endswith("pos_embed")]
    out = tmp_path / "model"
    out.mkdir()
    model.save(out, trainer.model)
    again = Bagel(str(out)).load(torch.device("cpu")).policy.state_dict()
    mine = trainer.policy.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in mine.items())


def test_an_edit_is_two_blocks_and_then_the_request(folder):
    """The image by its latents, then by what is seen in it, at positions 0 and 1; the request from 2 on."""
    config = replace(config_of(**ROUNDS["editing"]), model=Bagel(str(folder)))
    trainer = Trainer(config.check())
    evaluator = trainer.evaluator
    image, request, *_ = evaluator.encode(evaluator.prompts[:1])
    assert isinstance(image, ImageSegment)
    policy, there = trainer.policy, torch.tensor([True])
    with torch.no_grad():
        context = policy.extend_image(policy.start(1), image.latents, there)
        assert context.valid.shape[1] == 4 + 2
        context = policy.extend_features(context, image.features, there)
    assert context.valid.shape[1] == 6 + 16 + 2
    assert context.position.tolist() == [2]
    assert request.tokens[0, -1] == trainer.model.processor.ids.eos
