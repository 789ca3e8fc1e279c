"""The model against independent implementations: Qwen2 of transformers, and a dense one written from the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.models import tiny
from tests.models.reference import Block, Reference
from unigrpo.checks import ShapeError
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.rollout.heads import Flow
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.rollout.trajectory import TextScore

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM


def qwen2(policy: MoTPolicy) -> Qwen2ForCausalLM:
    """transformers' Qwen2 with the weights of the policy's text expert, by name."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = policy.config
    alive = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
        )
    ).eval()
    weights = policy.language_model.state_dict()
    alive.load_state_dict({name: weights[name] for name in alive.state_dict()})
    return alive


@pytest.fixture(scope="module")
def plain():
    return tiny.policy(qk_norm=False)


def test_text_expert_is_qwen2(plain):
    segment = tiny.text([9, 9, 9])
    with torch.no_grad():
        logits, _ = plain.extend_text(plain.start(3), segment.tokens, segment.mask)
        expected = qwen2(plain)(segment.tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_text_expert_in_pieces_is_qwen2(plain):
    """With the cache: three pieces give what one gives."""
    segment = tiny.text([9, 9])
    context, found = plain.start(2), []
    with torch.no_grad():
        for piece in segment.tokens.split((4, 1, 4), 1):
            logits, context = plain.extend_text(context, piece, torch.ones_like(piece, dtype=torch.bool))
            found.append(logits)
        expected = qwen2(plain)(segment.tokens).logits
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=0)


def test_padded_text_is_qwen2_with_an_attention_mask(plain):
    segment = tiny.text([9, 3, 6])
    with torch.no_grad():
        logits, _ = plain.extend_text(plain.start(3), segment.tokens, segment.mask)
        expected = qwen2(plain)(segment.tokens, attention_mask=segment.mask.long()).logits
    torch.testing.assert_close(logits[segment.mask], expected[segment.mask], atol=1e-5, rtol=0)


def test_scores_of_a_text_are_the_loss_of_transformers(plain):
    """Cross-entropy of Qwen2 on ``bos + tokens`` is minus the mean of the rollout's log-probabilities."""
    segment = tiny.text([8, 5, 2], given=False)
    spec = RolloutSpec(time_points(1), Ode(), (), CfgFree(), 1.0, 1, 2, 0, 3, Flow(), plain.latent_shape)
    rollout = Rollout(plain, spec, 3)
    tokens = torch.cat((torch.full((3, 1), spec.bos), segment.tokens), 1)
    mask = torch.cat((torch.ones(3, 1, dtype=torch.bool), segment.mask), 1)
    with torch.no_grad():
        rollout.replay(segment)
        labels = tokens.where(mask, -100)
        expected = qwen2(plain)(tokens, attention_mask=mask.long(), labels=labels).loss
    score = rollout.scores[0]
    assert isinstance(score, TextScore)
    torch.testing.assert_close(-score.log_prob.sum() / segment.mask.sum(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("time_conditioning", ["input", "adaln"])
@pytest.mark.parametrize(("patch", "size"), [(1, (2, 3)), (2, (4, 6))])
def test_cached_contexts_are_the_dense_forward(qk_norm, time_conditioning, patch, size):
    """Text, a clean picture, text, and a picture being painted: one mask over all tokens says the same."""
    policy = tiny.policy(
        qk_norm=qk_norm, time_conditioning=time_conditioning, latent_patch_size=patch, latent_size=size
    ).double()
    words = [[1, 7, 5, 2], [1, 6, 2]]
    clean, noisy = (tiny.randn(3, *size, seed=seed, dtype=torch.float64) for seed in (1, 2))
    blocks = [Block(words[0]), Block(latents=clean), Block(words[1]), Block(latents=noisy, t=0.7, noised=True)]
    texts, pictures = Reference(policy.config, policy.state_dict())(blocks)

    context, found = policy.start(1), []
    with torch.no_grad():
        for index, block in enumerate(words):
            tokens = torch.tensor([block])
            logits, context = policy.extend_text(context, tokens, torch.ones_like(tokens, dtype=torch.bool))
            found.append(logits[0])
            if index == 0:
                context = policy.extend_image(context, clean[None], torch.tensor([True]))
        velocity = policy.velocity(context, noisy[None], torch.tensor(0.7))
    for mine, theirs in zip(found, texts, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert pictures[-1].std() > 0.1
    torch.testing.assert_close(velocity[0], pictures[-1], atol=1e-5, rtol=0)


def test_after_a_picture_the_position_goes_on_by_one():
    """A noised picture and the clean one that takes its place share a position; text goes on at the next one."""
    policy = tiny.policy().double()
    picture = tiny.randn(3, 2, 2, dtype=torch.float64)
    blocks = [Block([1, 5]), Block(latents=picture, t=0.4, noised=True), Block(latents=picture), Block([1, 8])]
    texts, pictures = Reference(policy.config, policy.state_dict())(blocks)
    first, second = torch.tensor([[1, 5]]), torch.tensor([[1, 8]])
    whole = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        _, context = policy.extend_text(policy.start(1), first, whole)
        velocity = policy.velocity(context, picture[None], torch.tensor(0.4))
        after = policy.extend_image(context, picture[None], torch.tensor([True]))
        logits, last = policy.extend_text(after, second, whole)
    torch.testing.assert_close(velocity[0], pictures[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[0], texts[1], atol=1e-5, rtol=0)
    assert last.position.tolist() == [5]


def test_what_is_seen_in_a_picture_is_a_block_between_two_markers():
    """An edit: the picture by its latents, then by its features, the request, and the picture being painted."""
    policy = tiny.policy(seed=2, latent_patch_size=2, vision_channels=6, vision_positions=4).double()
    clean, noisy = (tiny.randn(3, 4, 2, seed=seed, dtype=torch.float64) for seed in (1, 2))
    features, places = tiny.randn(3, 6, dtype=torch.float64), [(0, 0), (0, 1), (2, 3)]
    blocks = [Block(latents=clean), Block(features=features, places=places), Block([1, 7, 2])]
    blocks.append(Block(latents=noisy, t=0.7, noised=True))
    texts, pictures = Reference(policy.config, policy.state_dict())(blocks)
    numbers = torch.tensor([[row * 4 + column] for row, column in places])
    words, there = torch.tensor([[1, 7, 2]]), torch.tensor([True])
    with torch.no_grad():
        context = policy.extend_image(policy.start(1), clean[None], there)
        context = policy.extend_features(context, torch.cat((features, numbers), 1)[None], there)
        logits, context = policy.extend_text(context, words, torch.ones_like(words, dtype=torch.bool))
        velocity = policy.velocity(context, noisy[None], torch.tensor(0.7))
    torch.testing.assert_close(logits[0], texts[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(velocity[0], pictures[-1], atol=1e-6, rtol=0)


def test_an_image_larger_than_the_table_of_positions_is_refused():
    policy = tiny.policy(max_latent_size=3)
    with pytest.raises(ShapeError, match="an image of 4 x 2 tokens: expected at most 3 a side"):
        policy.velocity(policy.start(1), tiny.randn(1, 3, 4, 2), torch.tensor(0.5))


def test_qk_norm_text_expert_in_float64():
    policy = tiny.policy(seed=3).double()
    words = [1, 9, 4, 11, 6, 2]
    (expected,), _ = Reference(policy.config, policy.state_dict())([Block(words)])
    with torch.no_grad():
        tokens = torch.tensor([words])
        logits, _ = policy.extend_text(policy.start(1), tokens, torch.ones_like(tokens, dtype=torch.bool))
    torch.testing.assert_close(logits[0], expected, atol=1e-6, rtol=0)
