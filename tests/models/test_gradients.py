"""Whose parameters are whose, and which loss reaches which expert."""

from __future__ import annotations

import pytest
import torch

from tests.models import tiny
from unigrpo.models.mot.policy import MoTPolicy

#: What takes part in a picture's forward pass on the side of the text expert: its two markers.
MARKERS = (3, 4)


@pytest.mark.parametrize("time_conditioning", ["input", "adaln"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_two_experts_share_out_all_trainable_parameters(time_conditioning, qk_norm):
    policy = MoTPolicy(tiny.config(time_conditioning=time_conditioning, qk_norm=qk_norm))
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    text = [names[id(parameter)] for parameter in policy.parameters_of("text")]
    image = [names[id(parameter)] for parameter in policy.parameters_of("image")]
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert sorted(text + image) == sorted(trainable)
    assert trainable == set(names.values()) - {"latent_pos_embed.pos_embed"}
    own = ("_moe_gen", "time_embedder", "vae2llm", "llm2vae", "modulation")
    assert all(any(part in name for part in own) for name in image)
    assert not any(any(part in name for part in own) for name in text)


def image_loss(policy: MoTPolicy, detached: bool) -> torch.Tensor:
    segment = tiny.text([4, 2])
    _, context = policy.extend_text(policy.start(2), segment.tokens, segment.mask)
    velocity = policy.velocity(context.detach() if detached else context, tiny.randn(2, 3, 2, 2), torch.tensor(0.5))
    return velocity.square().mean()


def touched(policy: MoTPolicy) -> set[int]:
    """Words whose embedding has a gradient."""
    gradient = policy.language_model.model.embed_tokens.weight.grad
    return set() if gradient is None else set(gradient.abs().sum(1).nonzero().flatten().tolist())


def test_through_a_detached_context_the_image_loss_reaches_no_word():
    policy = tiny.policy()
    image_loss(policy, detached=True).backward()
    assert touched(policy) == set(MARKERS)
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters_of("image"))


def test_through_a_context_with_gradients_the_image_loss_reaches_the_words():
    policy = tiny.policy()
    image_loss(policy, detached=False).backward()
    segment = tiny.text([4, 2])
    assert touched(policy) == set(segment.tokens[segment.mask].tolist()) | set(MARKERS)


def test_detaching_changes_no_value():
    policy = tiny.policy()
    assert torch.equal(image_loss(policy, detached=True), image_loss(policy, detached=False))


def test_the_text_loss_reaches_no_image_parameter():
    policy = tiny.policy()
    segment = tiny.text([4, 2])
    logits, _ = policy.extend_text(policy.start(2), segment.tokens, segment.mask)
    logits[segment.mask].square().mean().backward()
    assert all(parameter.grad is None for parameter in policy.parameters_of("image"))
    assert touched(policy) == set(segment.tokens[segment.mask].tolist())
