"""Features of a vision encoder: the text expert reads them behind the picture, through a connector that it trains."""

from __future__ import annotations

import pytest
import torch

from tests.models import tiny
from tests.models.composed import Composed
from unigrpo.errors import ConfigError
from unigrpo.models import LoadedModel
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.models.processor import StandardProcessor


def seeing_policy():
    return tiny.policy(seed=3, vision_channels=12)


def seen(policy, latents, features, alive):
    context = policy.extend_image(policy.start(len(latents)), latents, alive)
    return policy.extend_features(context, features, alive)


def logits_after(policy, latents, features, alive):
    words = torch.tensor([[1, 5, 6]]).expand(len(latents), -1)
    return policy.extend_text(seen(policy, latents, features, alive), words, torch.ones_like(words, dtype=torch.bool))


def test_features_come_after_the_picture_at_a_position_of_their_own():
    latents, alive, policy = tiny.randn(2, 3, 2, 2), torch.tensor([True, True]), seeing_policy()
    blind = policy.extend_image(policy.start(2), latents, alive)
    seeing = policy.extend_features(blind, tiny.randn(2, 3, 12), alive)
    assert seeing.valid.shape[1] == blind.valid.shape[1] + 2 + 3
    assert seeing.position.tolist() == [2, 2]
    for one, other in zip(seeing.keys, blind.keys, strict=True):
        assert torch.equal(one[:, :, : other.shape[2]], other)


def test_they_are_read_where_the_picture_was_made_and_nowhere_else():
    policy, latents, features = seeing_policy(), tiny.randn(2, 3, 2, 2), tiny.randn(2, 3, 12)
    with torch.no_grad():
        plain, context = logits_after(policy, latents, features, torch.tensor([True, False]))
        changed, _ = logits_after(policy, latents, features + 1, torch.tensor([True, False]))
    assert (plain[0] - changed[0]).abs().max() > 1e-3
    assert torch.equal(plain[1], changed[1])
    assert context.position.tolist() == [5, 3]


def test_the_connector_belongs_to_the_text_expert():
    policy = seeing_policy()
    logits, _ = logits_after(policy, tiny.randn(1, 3, 2, 2), tiny.randn(1, 3, 12), torch.tensor([True]))
    logits.sum().backward()
    assert policy.connector.fc1.weight.grad.abs().sum() > 0
    text = {id(parameter) for parameter in policy.parameters_of("text")}
    assert {id(parameter) for parameter in policy.connector.parameters()} <= text


def test_other_dtypes_read_features_in_theirs():
    policy = seeing_policy().to(torch.bfloat16)
    context = seen(policy, tiny.randn(1, 3, 2, 2), tiny.randn(1, 3, 12), torch.tensor([True]))
    assert context.keys[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        low = seen(seeing_policy(), tiny.randn(1, 3, 2, 2), tiny.randn(1, 3, 12), torch.tensor([True]))
    assert low.keys[0].dtype == torch.float32


def test_a_policy_that_reads_no_features_is_refused_where_the_model_is_made():
    model = Composed().load(torch.device("cpu"))
    processor = model.processor
    sees = StandardProcessor(processor.tokenizer, processor.autoencoder, processor.grid, vision=tiny.Quarters())
    fault = r"ComposedPolicy: expected extend_features\(context, features, alive\), .* leave vision= out"
    with pytest.raises(ConfigError, match=fault):
        LoadedModel(model.policy, sees)


@pytest.mark.parametrize(("channels", "vision"), [(0, tiny.Quarters()), (3, None)])
def test_a_connector_and_a_vision_encoder_come_together(channels, vision):
    model = tiny.model()
    with pytest.raises(ConfigError, match=f"vision_channels={channels}: the policy has .* vision encoder"):
        MoTModel.of(tiny.policy(vision_channels=channels), model.autoencoder, model.tokenizer, vision)
