"""Supervised fine-tuning of a policy that paints token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.progress import Progress

from tests.models import tiny
from tests.training import runs
from tests.training.test_sft import BATCHES, RULES, SHORT, drawn, losses
from unigrpo.checkpoints import settings_of
from unigrpo.flow.guidance import CfgFree
from unigrpo.models.mot import checkpoint
from unigrpo.models.quantised import QuantisedAutoencoder
from unigrpo.rollout.heads import Tokens
from unigrpo.rollout.rollout import Rollout
from unigrpo.rollout.trajectory import ImageSegment, TextSegment
from unigrpo.sft import Columns
from unigrpo.worlds.shapes.examples import faulty_examples
from unigrpo.worlds.shapes.train_autoencoder import train_autoencoder
from unigrpo.worlds.shapes.train_checkpoint import make

LEVELS, CODES = (3, 2, 2), 12
BY_TOKENS = replace(RULES, head=Tokens())


def coded(batch: Columns) -> Columns:
    """The batch with pictures that are made of codes."""
    scalars = tiny.policy(code_levels=LEVELS).scalars
    return tuple(replace(s, latents=scalars.quantise(s.latents)) if isinstance(s, ImageSegment) else s for s in batch)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_cross_entropy_of_codes_by_hand(name, dropout):
    """Mean over the codes of the pictures made; those without texts still see the pictures."""
    policy, batch = tiny.policy(code_levels=LEVELS), coded(BATCHES[name])
    _, found = losses(policy, BY_TOKENS, batch, torch.Generator().manual_seed(0), 2, dropout)
    noise, errors = torch.Generator().manual_seed(0), []
    for k, segment in enumerate(batch):
        if segment.given or isinstance(segment, TextSegment):
            continue
        rows = segment.alive.nonzero()[:, 0].tolist()
        for row, bare in zip(rows, torch.rand(len(rows), generator=noise) < dropout, strict=True):
            before = [s for s in batch[:k] if s.alive[row] and not (bare and isinstance(s, TextSegment))]
            rollout = Rollout(policy, replace(BY_TOKENS, guidance=CfgFree()), 1)
            for one in before:
                name_of = "tokens" if isinstance(one, TextSegment) else "latents"
                kept = {name_of: getattr(one, name_of)[row : row + 1]}
                kept |= (
                    {"mask": one.mask[row : row + 1]} if name_of == "tokens" else {"alive": one.alive[row : row + 1]}
                )
                rollout.replay(replace(one, given=True, **kept))
            codes = policy.codes_of(segment.latents[row : row + 1])
            rollout.replay(ImageSegment((), segment.latents[row : row + 1], torch.ones(1).bool(), tokens=codes))
            errors.append(-rollout.scores[-1].log_prob)
    torch.testing.assert_close(found, torch.cat(errors).mean(), atol=1e-5, rtol=0)


def test_both_losses_train_the_text_expert_and_that_of_codes_the_generation_expert():
    for which in (0, 1):
        policy, batch = tiny.policy(code_levels=LEVELS), coded(BATCHES["stories"][:3])
        losses(policy, BY_TOKENS, batch, torch.Generator().manual_seed(0), 1, 0.0)[which].backward()
        words = policy.language_model.model.embed_tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        assert set(batch[0].tokens[batch[0].mask].tolist()) <= set(words)
        assert all(p.grad is not None and p.grad.any() for p in policy.parameters_of("image")) == (which == 1)


def test_what_stands_in_ended_rows_does_not_matter():
    found = []
    for rubbish in (0.0, float("nan")):
        policy, batch = tiny.policy(code_levels=LEVELS), list(coded(BATCHES["stories"]))
        alive = batch[4].alive[:, None, None, None]
        batch[4] = replace(batch[4], latents=batch[4].latents.where(alive, rubbish))
        sum(losses(policy, BY_TOKENS, tuple(batch), torch.Generator().manual_seed(0), 1, 0.3)).backward()
        found.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def test_a_short_quantised_autoencoder_learns():
    with Progress(disable=True) as track:
        autoencoder = train_autoencoder(replace(SHORT, code_levels=(8, 5, 5)).autoencoder, track)
    examples = faulty_examples(np.random.default_rng(5), 64)
    pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
    latents = autoencoder.encode(pictures)
    assert len(QuantisedAutoencoder((8, 5, 5)).scalars.codes(latents).unique()) > 20
    error = (autoencoder.decode(latents) - pictures).square().mean()
    assert error < 0.8 * (pictures - pictures.mean((0, 2, 3), keepdim=True)).square().mean()
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_a_short_one_learns_to_say_and_to_paint_and_can_be_used(tmp_path):
    """From nothing to a folder that a run can start from."""
    recipe = replace(SHORT, code_levels=LEVELS, autoencoder_steps=20, steps=40, examples=200)
    model, _ = make(recipe)
    checkpoint.save(tmp_path, model)
    loaded = checkpoint.load(str(tmp_path))
    assert settings_of(str(tmp_path))["code_levels"] == list(LEVELS)
    data = drawn("images", recipe.examples, 7, recipe.faults, loaded)
    fresh, _ = make(replace(recipe, steps=0))
    found = []
    for policy in (fresh.policy, loaded.policy):
        with torch.no_grad():
            text, image = losses(policy, BY_TOKENS, data, torch.Generator().manual_seed(0), 1, 0.0)
        found.append((text.item(), image.item()))
    assert found[0][1] == pytest.approx(np.log(CODES), abs=0.5), "at first every code is as likely"
    assert found[1][0] < 0.8 * found[0][0]
    assert found[1][1] < 0.9 * found[0][1]


def test_the_same_recipe_makes_the_same_bytes():
    recipe = replace(SHORT, base=runs.CHECKPOINT, code_levels=LEVELS, autoencoder_steps=1, steps=1, examples=8, batch=4)
    alive = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        alive.append(make(recipe)[0])
    assert runs.digest_of(alive[0].policy) == runs.digest_of(alive[1].policy)
    assert runs.digest_of(alive[0].autoencoder) == runs.digest_of(alive[1].autoencoder)


def test_a_policy_that_denoises_can_be_the_base():
    """It keeps what does not deal with latents, and gets an autoencoder of codes."""
    base = checkpoint.load(runs.CHECKPOINT)
    recipe = replace(SHORT, base=runs.CHECKPOINT, code_levels=LEVELS, autoencoder_steps=1, steps=0, examples=8)
    alive, _ = make(recipe)
    assert isinstance(alive.autoencoder, QuantisedAutoencoder)
    assert alive.policy.config.code_levels == LEVELS
    mine, theirs = alive.policy.state_dict(), base.policy.state_dict()
    new = {name for name in mine if name not in theirs}
    assert new == {"code2llm.weight", "llm2code.weight", "llm2code.bias"}
    words = len(base.tokenizer)
    for name in mine.keys() - new:
        assert torch.equal(
            mine[name][:words] if "embed_tokens" in name or "lm_head" in name else mine[name], theirs[name]
        )
