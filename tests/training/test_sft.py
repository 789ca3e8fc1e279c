"""Supervised fine-tuning: its losses by hand, and that a short one learns, the same way every time."""

from __future__ import annotations

import dataclasses
import json
import random
from itertools import zip_longest

import numpy as np
import pytest
import torch
from rich.progress import Progress

from tests.models import tiny
from tests.training import runs
from tests.training.runs import digest_of
from unigrpo.algorithms.sft import Sft
from unigrpo.checkpoints import digest
from unigrpo.config import EvaluationConfig
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import Cfg
from unigrpo.flow.schedule import time_points
from unigrpo.models.mot import checkpoint
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.rollout.decoded import TextPart
from unigrpo.rollout.heads import Flow
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.rollout.trajectory import ImageSegment, TextSegment, Trajectory
from unigrpo.sft import Schedule, columns_of, rows_of, train
from unigrpo.worlds.shapes import sft_data, train_checkpoint
from unigrpo.worlds.shapes.examples import faulty_examples
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.sft_data import KINDS, Faults, drawn_examples
from unigrpo.worlds.shapes.train_autoencoder import train_autoencoder
from unigrpo.worlds.shapes.train_checkpoint import CheckpointRecipe, make

RULES = RolloutSpec(
    time_points(1),
    Ode(),
    (),
    Cfg(),
    1.0,
    bos=1,
    eos=2,
    pad=0,
    image=3,
    head=Flow(),
    latent_shape=(3, 2, 2),
    context_grad=True,
)
SHORT = CheckpointRecipe(
    examples=600,
    autoencoder_steps=120,
    autoencoder_width=16,
    autoencoder_batch=24,
    autoencoder_lr=1e-2,
    latent_channels=4,
    hidden_size=32,
    layers=2,
    heads=2,
    steps=80,
    batch=24,
    noises=1,
    lr=1e-2,
)


def losses(policy, spec, batch, generator, noises, dropout):
    return Sft(noises, dropout)(Rollout(policy, spec, batch[0].rows), batch, generator)


def drawn(kind, count, seed, faults, model):
    """The training set of one kind."""
    return columns_of(drawn_examples({kind: 1.0}, count, seed, faults)[kind], model)


def schedule_of(recipe):
    return Schedule(recipe.seed, recipe.steps, recipe.batch, recipe.lr)


def said(lengths: list[int], seed: int, **of) -> TextSegment:
    """Words of three episodes; of length 0 where they are over."""
    return dataclasses.replace(tiny.text(lengths, seed), **{"given": False} | of)


def pictured(alive: list[bool], seed: int, **of) -> ImageSegment:
    return ImageSegment((), tiny.randn(3, 3, 2, 2, seed=seed), torch.tensor(alive), **of)


#: Stories of different length, and edits: source, instruction, thinking, picture.
BATCHES = {
    "stories": (
        said([4, 2, 3], 0, given=True),
        said([5, 1, 3], 1),
        pictured([True, True, True], 2),
        said([2, 4, 1], 3),
        pictured([True, False, True], 4),
        said([1, 0, 3], 5),
    ),
    "edits": (
        pictured([True, True, True], 6, given=True),
        said([3, 2, 3], 7, given=True),
        said([1, 2, 4], 8),
        pictured([True, True, True], 9),
        said([2, 3, 0], 10, given=True),
        said([2, 1, 0], 11),
        pictured([True, True, False], 12),
    ),
}


def extended(policy, context, segment, row):
    """One row's context with one more segment."""
    if isinstance(segment, ImageSegment):
        return policy.extend_image(context, segment.latents[row : row + 1], torch.tensor([True]))
    words = torch.tensor([[1, *segment.tokens[row, segment.mask[row]].tolist()]])
    return policy.extend_text(context, words, torch.ones_like(words, dtype=torch.bool))[1]


def context_of(policy, segments, row, *, texts: bool = True):
    context = policy.start(1)
    for segment in segments:
        if segment.alive[row] and (texts or isinstance(segment, ImageSegment)):
            context = extended(policy, context, segment, row)
    return context


@pytest.mark.parametrize("name", BATCHES)
def test_cross_entropy_is_the_mean_over_the_tokens_that_the_policy_says(name):
    policy, batch = tiny.policy(), BATCHES[name]
    found, _ = losses(policy, RULES, batch, torch.Generator(), 1, 0.0)
    total, count = 0.0, 0
    for k, segment in enumerate(batch):
        for row in range(3):
            if segment.given or isinstance(segment, ImageSegment) or not segment.alive[row]:
                continue
            words = segment.tokens[row, segment.mask[row]].tolist()
            tokens = torch.tensor([[1, *words]])
            logits, _ = policy.extend_text(context_of(policy, batch[:k], row), tokens, torch.ones_like(tokens).bool())
            log_prob = logits[0].log_softmax(-1)
            total -= sum(log_prob[place, word] for place, word in enumerate(words))
            count += len(words)
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(("noises", "dropout"), [(1, 0.0), (2, 0.5), (1, 1.0)])
def test_flow_matching_by_hand_with_several_noise_levels_and_dropped_texts(name, noises, dropout):
    """Every painted picture in the context before it; those without texts still see the pictures."""
    policy, batch = tiny.policy(), BATCHES[name]
    _, found = losses(policy, RULES, batch, torch.Generator().manual_seed(0), noises, dropout)
    drawn, errors = torch.Generator().manual_seed(0), []
    for k, segment in enumerate(batch):
        if segment.given or isinstance(segment, TextSegment):
            continue
        rows = [row for row in range(3) if segment.alive[row] for _ in range(noises)]
        noise = torch.randn(len(rows), 3, 2, 2, generator=drawn)
        levels = torch.randn(len(rows), generator=drawn).sigmoid()
        bare = torch.rand(len(rows), generator=drawn) < dropout
        for row, one, level, alone in zip(rows, noise, levels, bare, strict=True):
            clean = segment.latents[row]
            context = context_of(policy, batch[:k], row, texts=not alone)
            velocity = policy.velocity(context, ((1 - level) * clean + level * one)[None], level)
            errors.append((velocity[0] - (one - clean)).square().mean())
    torch.testing.assert_close(found, torch.stack(errors).mean(), atol=1e-5, rtol=0)


def test_both_losses_train_the_text_expert():
    """The flow-matching loss too, through the context: the text learns to be of use to the picture."""
    for which in (0, 1):
        policy, batch = tiny.policy(), BATCHES["stories"][:3]
        losses(policy, RULES, batch, torch.Generator().manual_seed(0), 1, 0.0)[which].backward()
        words = policy.language_model.model.embed_tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        assert set(batch[0].tokens[batch[0].mask].tolist()) <= set(words)


def test_what_stands_in_ended_rows_does_not_matter():
    found = []
    for rubbish in (0.0, float("nan")):
        policy, batch = tiny.policy(), list(BATCHES["stories"])
        picture = batch[4]
        batch[4] = dataclasses.replace(
            picture, latents=picture.latents.where(picture.alive[:, None, None, None], rubbish)
        )
        sum(losses(policy, RULES, tuple(batch), torch.Generator().manual_seed(0), 1, 0.3)).backward()
        found.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def test_batches_are_cut_to_their_longest_text_and_their_last_segment():
    cut = rows_of(BATCHES["stories"], torch.tensor([1, 1]))
    assert len(cut) == 4, "the second story ends after its second text"
    assert [segment.tokens.shape for segment in cut if isinstance(segment, TextSegment)] == [(2, 2), (2, 1), (2, 4)]
    assert torch.equal(cut[2].latents, BATCHES["stories"][2].latents[[1, 1]])
    assert [segment.given for segment in cut] == [True, False, False, False]
    whole = rows_of(BATCHES["stories"], torch.tensor([0, 2]))
    assert len(whole) == 6
    assert whole[1].tokens.shape == (2, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_set_says_what_its_episodes_say(kind):
    """Word for word, ends included, by the codec that reads rollouts."""
    model = tiny.model()
    data = drawn(kind, 12, 4, Faults(), model)
    examples = sft_data.episodes(kind, random.Random(f"4 {kind}"), 12, Faults())
    read = model.processor.decode(Trajectory(tuple(range(12)), 1, data, (None,) * len(data)))
    assert len(read.parts) == max(map(len, examples))
    for row, episode in enumerate(examples):
        for segment, part, event in zip_longest(data, read.parts, episode):
            if event is None:
                assert not part.alive[row]
                continue
            assert part.alive[row]
            assert (part.given, part.turn) == (event.given, event.turn)
            if isinstance(part, TextPart):
                assert (part.texts[row], part.ends[row]) == (event.text, event.end)
            else:
                rendered = torch.from_numpy(render([event.image.scene]))
                torch.testing.assert_close(segment.latents[row], model.autoencoder.encode(rendered)[0])


@pytest.fixture(scope="module")
def material():
    """An autoencoder and a training set for the short recipe."""
    torch.manual_seed(0)
    with Progress(disable=True) as track:
        autoencoder = train_autoencoder(SHORT.autoencoder, track)
    model = MoTModel.of(fresh_policy(), autoencoder, tiny.words())
    return autoencoder, drawn("images", SHORT.examples, SHORT.seed, SHORT.faults, model)


def test_a_short_autoencoder_learns_and_normalises(material):
    autoencoder, data = material
    examples = faulty_examples(np.random.default_rng(5), 64)
    pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
    error = (autoencoder.decode(autoencoder.encode(pictures)) - pictures).square().mean()
    blank = (pictures - pictures.mean((0, 2, 3), keepdim=True)).square().mean()
    assert error < 0.75 * blank
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    latents = data[2].latents
    assert latents.shape == (SHORT.examples, 4, 4, 4)
    assert abs(latents.mean()) < 0.1
    assert abs(latents.std() - 1) < 0.1


def fresh_policy():
    tokenizer = tiny.words()
    torch.manual_seed(0)
    config = tiny.config(
        vocab_size=len(tokenizer), latent_channels=4, latent_size=(4, 4), time_conditioning="adaln",
        start_of_image_id=tokenizer.start_of_image, end_of_image_id=tokenizer.end_of_image,
    )  # fmt: skip
    return MoTPolicy(config)


def measured(policy, data) -> tuple[float, float]:
    with torch.no_grad():
        drawn = torch.Generator().manual_seed(9)
        text, image = losses(policy, RULES, rows_of(data, torch.arange(128)), drawn, 1, 0.0)
    return text.item(), image.item()


def test_a_short_one_learns_both_to_plan_and_to_paint(material):
    autoencoder, data = material
    policy = fresh_policy()
    before = measured(policy, data)
    with Progress(disable=True) as track:
        model = MoTModel.of(policy, autoencoder, tiny.words())
        train(model, {"images": data}, {"images": 1.0}, Sft(noises=1), schedule_of(SHORT), track)
    after = measured(policy, data)
    assert before[0] == pytest.approx(np.log(len(tiny.words())), abs=0.3), "at first every word is as likely"
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.92 * before[1]


def test_kinds_are_drawn_by_their_shares():
    """And batches of several images per example are smaller."""
    seen = []

    class Noted(Sft):
        def __call__(self, rollout, segments, generator):
            seen.append((len(segments), segments[0].rows))
            return rollout.policy.llm2vae.bias.sum(), rollout.policy.llm2vae.bias.sum()

    data = {"stories": BATCHES["stories"][:5], "images": BATCHES["stories"][:3]}
    model = MoTModel.of(tiny.policy(), None, tiny.words())
    with Progress(disable=True) as track:
        train(model, data, {"stories": 3.0, "images": 1.0}, Noted(), Schedule(steps=200, batch=24), track)
    stories = [rows for segments, rows in seen if segments > 3]
    assert len(stories) == pytest.approx(150, abs=20)
    assert set(stories) == {12}
    assert {rows for segments, rows in seen if segments == 3} == {24}


def test_the_same_recipe_makes_the_same_bytes():
    shares = {"images": 1.0, "stories": 1.0, "edits": 1.0}
    tiny_recipe = dataclasses.replace(SHORT, examples=40, autoencoder_steps=2, steps=4, batch=4, shares=shares)
    torch.manual_seed(1)
    one, _ = make(tiny_recipe)
    torch.manual_seed(2)
    two, _ = make(tiny_recipe)
    assert digest_of(one.policy) == digest_of(two.policy)
    assert digest_of(one.autoencoder) == digest_of(two.autoencoder)


def test_it_can_go_on_from_a_checkpoint():
    """With its autoencoder as it is, and its words where they were."""
    base = checkpoint.load(runs.CHECKPOINT)
    alive, _ = make(dataclasses.replace(SHORT, base=runs.CHECKPOINT, examples=8, steps=1, batch=4))
    assert digest_of(alive.autoencoder) == digest_of(base.autoencoder)
    assert alive.tokenizer.words().items() >= base.tokenizer.words().items()
    assert digest_of(alive.policy) != digest_of(base.policy)


def test_the_command_leaves_a_checkpoint_with_its_recipe_and_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        train_checkpoint, "EvaluationConfig", lambda: EvaluationConfig(prompts_per_tag=1, images_per_prompt=1, steps=1)
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
    given = [f"{key}={value}" for key, value in settings.items()]
    train_checkpoint.main([str(tmp_path / "made"), "like=tiny-shapes", *given, 'shares={"images": 1, "describe": 0.5}'])
    recipe = json.loads((tmp_path / "made" / "recipe.json").read_text())
    assert recipe["recipe"].items() >= settings.items()
    assert recipe["recipe"]["shares"] == {"images": 1.0, "describe": 0.5}
    assert recipe["recipe"]["faults"]["misdrawn"] == 0.25, "as in the recipe that it is like"
    assert recipe["sha256"] == digest(tmp_path / "made")
    assert recipe["scores"].keys() >= {"geneval/strict", "guided/geneval/strict"}
    assert checkpoint.load(str(tmp_path / "made")).policy.latent_shape == (8, 4, 4)
    assert "strict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["step=3"], "unknown key 'step'; did you mean 'steps'?"),
        (['faults={"misdrawm": 0.1}'], "unknown key 'faults.misdrawm'; did you mean 'misdrawn'?"),
        (["steps=abc"], "steps: expected int, got 'abc'"),
        (["steps"], "'steps': expected key=value"),
        (['shares={"images": 1, "images": 2}'], "the key 'images' comes twice"),
        (["like=tiny-shape"], "did you mean 'tiny-shapes'?"),
    ],
)
def test_the_command_refuses_what_is_no_setting(tmp_path, capsys, settings, said):
    assert train_checkpoint.main([str(tmp_path), *settings]) == 2
    assert said in capsys.readouterr().err
