"""The supervised stage: its losses by hand, and that a short warm-up learns, the same way every time."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from rich.progress import Progress

from tests.models import tiny
from tests.training.runs import digest_of
from unigrpo.checkpoints import digest
from unigrpo.config import EvaluationConfig
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.models import checkpoint
from unigrpo.models.mot import MoTPolicy
from unigrpo.registry import ConfigError
from unigrpo.training import warmup
from unigrpo.training.warmup import Triples, WarmupConfig, losses, make, train_autoencoder, train_policy, triples
from unigrpo.walk import Rules
from unigrpo.worlds import Shapes

RULES = Rules(time_points(1), Ode(), (), CfgFree(), 1.0, bos=1, eos=2, pad=0, context_grad=True)
SHORT = WarmupConfig(
    examples=600,
    autoencoder_steps=120,
    autoencoder_width=16,
    latent_channels=4,
    hidden_size=32,
    layers=2,
    heads=2,
    steps=80,
    batch=24,
    noises=1,
    lr=1e-2,
)


@pytest.fixture
def batch():
    return Triples(tiny.randn(3, 3, 2, 2), tiny.text([4, 2, 3]), tiny.text([5, 1, 3], seed=1, given=False))


def test_cross_entropy_is_the_mean_over_thinking_tokens(batch):
    policy = tiny.policy()
    noise, t = tiny.randn(3, 3, 2, 2, seed=1), torch.tensor([0.2, 0.5, 0.9])
    found, _ = losses(policy, RULES, batch, noise, t, torch.zeros(3, dtype=torch.bool))
    total = 0.0
    for row in range(3):
        words = [segment.tokens[row, segment.mask[row]].tolist() for segment in (batch.prompts, batch.thinking)]
        tokens = torch.tensor([[1, *words[0], 1, *words[1]]])
        logits, _ = policy.extend_text(policy.start(1), tokens, torch.ones_like(tokens, dtype=torch.bool))
        first = len(words[0]) + 1
        log_prob = logits[0].log_softmax(-1)
        total -= sum(log_prob[first + k, word] for k, word in enumerate(words[1]))
    torch.testing.assert_close(found, total / 9, atol=1e-5, rtol=0)


def test_flow_matching_by_hand_with_several_noise_levels_and_a_dropped_text(batch):
    policy = tiny.policy()
    noise = tiny.randn(6, 3, 2, 2, seed=1)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    _, found = losses(policy, RULES, batch, noise, t, torch.tensor([False, True, False]))
    total = 0.0
    for row in range(6):
        triple, context = row // 2, policy.start(1)
        if triple != 1:
            for segment in (batch.prompts, batch.thinking):
                words = torch.tensor([[1, *segment.tokens[triple, segment.mask[triple]].tolist()]])
                _, context = policy.extend_text(context, words, torch.ones_like(words, dtype=torch.bool))
        clean, level = batch.latents[triple : triple + 1], t[row]
        x = (1 - level) * clean + level * noise[row : row + 1]
        velocity = policy.velocity(context, x, level)
        total += (velocity - (noise[row : row + 1] - clean)).square().mean() / 6
    torch.testing.assert_close(found, total, atol=1e-5, rtol=0)


def test_both_losses_train_the_text_expert(batch):
    """The flow-matching loss too, through the context: the text learns to be of use to the picture."""
    for which in (0, 1):
        policy = tiny.policy()
        drawn = tiny.randn(3, 3, 2, 2, seed=1), torch.tensor([0.2, 0.5, 0.9]), torch.zeros(3, dtype=torch.bool)
        losses(policy, RULES, batch, *drawn)[which].backward()
        words = policy.language_model.model.embed_tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        assert set(batch.prompts.tokens[batch.prompts.mask].tolist()) <= set(words)


def test_batches_are_cut_to_their_longest_text(batch):
    cut = batch.batch(torch.tensor([1, 2]))
    assert cut.prompts.tokens.shape == (2, 3)
    assert cut.thinking.tokens.shape == (2, 3)
    assert torch.equal(cut.latents, batch.latents[1:])
    assert cut.prompts.given
    assert not cut.thinking.given


@pytest.fixture(scope="module")
def material():
    """An autoencoder and a training set for the short recipe."""
    torch.manual_seed(0)
    with Progress(disable=True) as track:
        autoencoder = train_autoencoder(SHORT, Shapes(), track)
    return autoencoder, triples(SHORT, Shapes(), autoencoder, tiny.words())


def test_a_short_autoencoder_learns_and_normalises(material):
    autoencoder, data = material
    examples = Shapes().warmup_examples(np.random.default_rng(5), 64)
    pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
    error = (autoencoder.decode(autoencoder.encode(pictures)) - pictures).square().mean()
    blank = (pictures - pictures.mean((0, 2, 3), keepdim=True)).square().mean()
    assert error < 0.75 * blank
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    assert data.latents.shape == (SHORT.examples, 4, 4, 4)
    assert abs(data.latents.mean()) < 0.1
    assert abs(data.latents.std() - 1) < 0.1


def fresh_policy():
    tokenizer = tiny.words()
    torch.manual_seed(0)
    config = tiny.config(
        vocab_size=len(tokenizer), latent_channels=4, latent_size=(4, 4), time_conditioning="adaln",
        start_of_image_id=tokenizer.start_of_image, end_of_image_id=tokenizer.end_of_image,
    )  # fmt: skip
    return MoTPolicy(config)


def measured(policy, data) -> tuple[float, float]:
    rows = torch.arange(128)
    noise = tiny.randn(128, 4, 4, 4, seed=9)
    t = torch.linspace(0.05, 0.95, 128)
    with torch.no_grad():
        text, image = losses(policy, RULES, data.batch(rows), noise, t, torch.zeros(128, dtype=torch.bool))
    return text.item(), image.item()


def test_a_short_warmup_learns_both_to_plan_and_to_paint(material):
    _, data = material
    policy = fresh_policy()
    before = measured(policy, data)
    with Progress(disable=True) as track:
        train_policy(SHORT, policy, data, RULES, track)
    after = measured(policy, data)
    assert before[0] == pytest.approx(np.log(len(tiny.words())), abs=0.3), "at first every word is as likely"
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.92 * before[1]


def test_the_same_recipe_makes_the_same_bytes():
    tiny_recipe = dataclasses.replace(SHORT, examples=40, autoencoder_steps=2, steps=3, batch=4)
    torch.manual_seed(1)
    one, _ = make(tiny_recipe)
    torch.manual_seed(2)
    two, _ = make(tiny_recipe)
    assert digest_of(one.policy) == digest_of(two.policy)
    assert digest_of(one.autoencoder) == digest_of(two.autoencoder)


def test_the_command_leaves_a_checkpoint_with_its_recipe_and_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        warmup, "EvaluationConfig", lambda: EvaluationConfig(prompts_per_task=(1,) * 6, images_per_prompt=1, steps=1)
    )
    settings = {
        "examples": 40,
        "autoencoder_steps": 2,
        "steps": 2,
        "batch": 4,
        "hidden_size": 32,
        "layers": 1,
        "heads": 2,
    }
    warmup.main([str(tmp_path / "made"), *(f"{key}={value}" for key, value in settings.items())])
    recipe = json.loads((tmp_path / "made" / "recipe.json").read_text())
    assert recipe["recipe"].items() >= settings.items()
    assert recipe["recipe"]["plan_corruption"] == WarmupConfig().plan_corruption
    assert recipe["sha256"] == digest(tmp_path / "made")
    assert recipe["scores"].keys() >= {"geneval/strict", "cfg/geneval/strict"}
    assert checkpoint.load(str(tmp_path / "made")).policy.latent_shape == (8, 4, 4)
    assert "strict" in capsys.readouterr().out


def test_the_command_refuses_what_is_no_setting(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'step'; did you mean 'steps'"):
        warmup.main([str(tmp_path), "step=3"])
