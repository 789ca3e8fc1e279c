"""The place of an understanding encoder: its features of clean pictures are read by the text expert."""

from __future__ import annotations

import torch
from torch import nn

from tests.models import tiny


class Features(nn.Module):
    """Three tokens of a picture."""

    def __init__(self):
        super().__init__()
        self.connector = nn.Linear(12, 3 * 32)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.connector(latents.flatten(1)).unflatten(1, (3, 32))


def seeing_policy():
    policy = tiny.policy()
    torch.manual_seed(3)
    policy.understanding = Features()
    return policy


def logits_after(policy, latents, alive):
    context = policy.extend_image(policy.start(len(latents)), latents, alive)
    words = torch.tensor([[1, 5, 6]]).expand(len(latents), -1)
    logits, context = policy.extend_text(context, words, torch.ones_like(words, dtype=torch.bool))
    return logits, context


def test_features_come_after_the_picture_at_a_position_of_their_own():
    latents, alive = tiny.randn(2, 3, 2, 2), torch.tensor([True, True])
    blind = tiny.policy().extend_image(tiny.policy().start(2), latents, alive)
    seeing = seeing_policy().extend_image(seeing_policy().start(2), latents, alive)
    assert seeing.valid.shape[1] == blind.valid.shape[1] + 3
    assert seeing.position.tolist() == [2, 2]
    for one, other in zip(seeing.keys, blind.keys, strict=True):
        assert torch.equal(one[:, :, : other.shape[2]], other)


def test_they_are_read_where_the_picture_was_made_and_nowhere_else():
    policy, latents = seeing_policy(), tiny.randn(2, 3, 2, 2)
    with torch.no_grad():
        plain, context = logits_after(policy, latents, torch.tensor([True, False]))
        policy.understanding.connector.bias += 1.0
        changed, _ = logits_after(policy, latents, torch.tensor([True, False]))
    assert (plain[0] - changed[0]).abs().max() > 1e-3
    assert torch.equal(plain[1], changed[1])
    assert context.position.tolist() == [5, 3]


def test_they_belong_to_the_text_expert():
    policy = seeing_policy()
    logits, _ = logits_after(policy, tiny.randn(1, 3, 2, 2), torch.tensor([True]))
    logits.sum().backward()
    assert policy.understanding.connector.weight.grad.abs().sum() > 0
    text = {id(parameter) for parameter in policy.parameters_of("text")}
    assert {id(parameter) for parameter in policy.understanding.parameters()} <= text
