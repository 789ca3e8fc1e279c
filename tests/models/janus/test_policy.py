"""Janus's texts and codes: those of transformers' own modules, and those of its own ``generate``."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.exactness.kernels import assert_same_kernels, variants
from tests.models.janus import tiny
from tests.rollouts import spec
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.models.janus import loading
from unigrpo.models.janus.loading import JanusModel, PaddedCfg
from unigrpo.noise import EpisodeDraws
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.heads import Tokens
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import ImageSegment, TextSegment, Trajectory

pytestmark = pytest.mark.no_cover

TEXTS = ["a red cube", "two blue balls"]
SCALE = 3.0


@cache
def loaded(answered: bool = True) -> JanusModel:
    return loading.assembled(tiny.model(), tiny.words(), tiny.CHAT, answered=answered)


def asked_of(model: JanusModel, *, guided: bool, **changes: Any):
    return spec(
        **{
            "guidance": model.guidance(Cfg(SCALE)) if guided else CfgFree(),
            "head": Tokens(),
            "dynamics": Ode(),
            "stochastic": (),
            "latent_shape": model.processor.latent_shape(),
            **dataclasses.asdict(model.processor.ids),
            **changes,
        }
    )


def sampled(policy: Any, model: JanusModel, asked: Any, *, thinking: bool = True, group: int = 2) -> Trajectory:
    prompts = [Prompt(f"p{k}", text) for k, text in enumerate(TEXTS)]
    rollout = Rollout(policy, asked, len(prompts))
    with torch.no_grad():
        draws = EpisodeDraws(("janus",), tuple(TEXTS), group, False)
        SingleRound(thinking, max_thinking=5)(rollout, model.processor.encode(prompts), group, draws)
    return Trajectory(prompts, group, tuple(rollout.segments), tuple(rollout.scores), rollout.cost)


def requests_of(words: Any) -> list[list[int]]:
    """What transformers makes of the prompts: template, then the token that begins a text, then the request's own."""
    turns = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in TEXTS]
    rendered = [
        words.apply_chat_template(turn, chat_template=tiny.CHAT, add_generation_prompt=True, tokenize=False)
        for turn in turns
    ]
    return words(rendered)["input_ids"]


def said(trajectory: Trajectory, row: int) -> list[int]:
    texts = [s for s in trajectory.segments if isinstance(s, TextSegment) and not s.given]
    return [token for text in texts for token in text.tokens[row][text.mask[row]].tolist()]


@pytest.mark.parametrize("tied", [False, True])
def test_log_probs_are_those_of_transformers_own_modules(tied):
    """The library's forward over the whole of each sequence, nothing cached or padded."""
    model = loading.assembled(tiny.model(tied=tied), tiny.words(), tiny.CHAT)
    whole = sampled(model.policy, model, asked_of(model, guided=False))
    # With another end of texts the same draws leave one reply shorter, and its row padded.
    trajectory = sampled(model.policy, model, asked_of(model, guided=False, eos=said(whole, 0)[1]))
    text, image = trajectory.scores[1:]
    codes = trajectory.segments[-1].tokens
    assert [len(said(trajectory, row)) for row in range(2)] == [2, 5]
    own, begin = tiny.model(tied=tied), torch.tensor([tiny.SPECIAL.index(tiny.BOI)])
    for row in range(4):
        request, reply = requests_of(tiny.words())[row // 2], torch.tensor(said(trajectory, row))
        ids = torch.cat((torch.tensor(request), reply))
        with torch.no_grad():
            logits = own(input_ids=ids[None]).logits[0, len(request) - 1 : -1].log_softmax(-1)
            words = own.get_input_embeddings()(torch.cat((ids, begin)))
            painted = own.prepare_embeddings_for_image_generation(codes[row, :-1])
            states = own.model.language_model(inputs_embeds=torch.cat((words, painted))[None]).last_hidden_state[0]
            scores = own.model.generation_head(states[len(ids) :]).log_softmax(-1)
        wanted = logits.gather(1, reply[:, None])[:, 0]
        torch.testing.assert_close(text.log_prob[row, : len(reply)], wanted, atol=1e-5, rtol=0)
        wanted = scores.gather(1, codes[row, :, None])[:, 0]
        torch.testing.assert_close(image.log_prob[row], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("thinking", [True, False])
def test_guided_codes_are_those_of_transformers_own_generate(thinking):
    """Every code by greedy choice, behind requests of unequal length that a reply follows, or none."""
    model = loaded(thinking)
    trajectory = sampled(
        model.policy, model, asked_of(model, guided=True, temperature=1e-6), thinking=thinking, group=1
    )
    begin = tiny.SPECIAL.index(tiny.BOI)
    rows = [[*request, *said(trajectory, row), begin] for row, request in enumerate(requests_of(tiny.words()))]
    length = max(map(len, rows))
    assert length > min(map(len, rows))
    own = tiny.model()
    codes = own.generate(
        input_ids=torch.tensor([[tiny.SPECIAL.index(tiny.PAD)] * (length - len(row)) + row for row in rows]),
        attention_mask=torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
        generation_mode="image",
        guidance_scale=SCALE,
        do_sample=False,
    )
    image = trajectory.segments[-1]
    assert len(codes.unique()) > 3
    assert torch.equal(image.tokens, codes)
    with torch.no_grad():
        pixels = own.decode_image_tokens(codes).clamp(-1, 1)
    assert pixels.std() > 0.1
    shown = model.processor.decode(trajectory).parts[-1].pixels
    torch.testing.assert_close(shown, pixels.permute(0, 3, 1, 2), atol=1e-5, rtol=0)
    assert shown.shape == (2, 3, tiny.SIDE, tiny.SIDE)


def test_a_branch_without_words_would_choose_other_codes():
    model = loaded(False)
    asked = asked_of(model, guided=True, temperature=1e-6)
    padded, free = (
        sampled(model.policy, model, dataclasses.replace(asked, guidance=guidance), thinking=False).segments[-1].tokens
        for guidance in (PaddedCfg(SCALE), Cfg(SCALE))
    )
    assert not torch.equal(padded, free)
    assert model.guidance(Cfg(2.0, low=0.1, renorm=True)) == PaddedCfg(2.0, low=0.1, renorm=True)
    assert model.guidance(CfgFree()) == CfgFree()


@pytest.mark.parametrize("guided", [True, False])
def test_replay_takes_the_kernels_and_has_the_bits_of_sampling(guided):
    model = loaded()
    asked = asked_of(model, guided=guided)
    assert_same_kernels(model.policy, asked, lambda policy: sampled(policy, model, asked))
    trajectory = sampled(model.policy, model, asked)
    for name, candidate, grad in variants(model.policy):
        with torch.set_grad_enabled(grad):
            again = replay(candidate, asked, trajectory)
        for old, new in zip(trajectory.scores[1:], again.scores[1:], strict=True):
            assert torch.equal(old.log_prob, new.log_prob), name


def test_the_cost_counts_what_each_branch_reads():
    model = loaded(False)
    free, guided = (
        sampled(model.policy, model, asked_of(model, guided=guided), thinking=False).cost.tokens
        for guided in (False, True)
    )
    assert guided == 2 * free


def behind(model: JanusModel, codes: torch.Tensor, alive: torch.Tensor, cuts: tuple[int, ...] = ()):
    """Logits of an image behind a text, given in pieces, and the context behind it."""
    policy = model.policy
    words = torch.tensor([[1, 70, 80, 90], [1, 75, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    context = before = policy.extend_text(policy.start(2), words, mask)[1]
    tokens = torch.cat((torch.full((2, 1), tiny.CODES), codes), 1)
    found = []
    for start, end in pairwise((0, *cuts, tokens.shape[1])):
        logits, context = policy.extend_codes(context, tokens[:, start:end], alive, start)
        found.append(logits)
    assert before.valid.shape == (2, 4), "a context is not changed by what is read behind it"
    return torch.cat(found, 1), context


ALL = torch.ones(2, dtype=torch.bool)


@torch.no_grad()
def test_code_by_code_is_the_block():
    codes = torch.randint(tiny.CODES, (2, tiny.COUNT), generator=torch.Generator().manual_seed(1))
    whole, context = behind(loaded(), codes, ALL)
    pieces, other = behind(loaded(), codes, ALL, (1, 2, 9))
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    assert context.position.tolist() == other.position.tolist() == [4 + 17, 2 + 17]


@torch.no_grad()
def test_a_row_without_the_image_is_as_it_was():
    codes = torch.zeros(2, tiny.COUNT, dtype=torch.int64)
    (_, one), (_, two) = (behind(loaded(), codes + k, torch.tensor([True, False])) for k in (0, 1))
    assert one.position.tolist() == [4 + 17, 2]
    words = torch.tensor([[1, 66], [1, 66]])
    first, second = (loaded().policy.extend_text(context, words, words > 0)[0] for context in (one, two))
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])


def test_codes_are_their_latents():
    policy = loaded().policy
    codes = torch.arange(2 * tiny.COUNT).view(2, -1)
    latents = policy.latents_of(codes)
    assert latents.shape == (2, *loaded().processor.latent_shape()) == (2, 1, 4, 4)
    assert latents[0, 0, 1].tolist() == [4, 5, 6, 7]
    assert torch.equal(policy.codes_of(latents), codes)
    assert policy.num_image_codes == tiny.CODES


@pytest.mark.parametrize(("backbone", "tied"), [("text", False), ("text", True), ("image", False), ("image", True)])
def test_the_backbone_is_trained_with_one_modality_and_frozen_parts_with_none(backbone, tied):
    model = tiny.model(tied=tied)
    policy = loading.assembled(model, tiny.words(), tiny.CHAT, backbone=backbone).policy
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {modality: {names[id(p)] for p in policy.parameters_of(modality)} for modality in ("text", "image")}
    frozen = ("model.vision_model", "model.aligner", "model.vqmodel")
    trained = {name for name in names.values() if not name.startswith(frozen)}
    shared = {name for name in trained if "language_model" in name}
    painting = {name for name in trained if "generation_" in name}
    assert found["text"] | found["image"] == trained
    assert not found["text"] & found["image"]
    assert found["image"] == painting | (shared if backbone == "image" else set())
    assert (found["text"] == (set() if tied else {"lm_head.weight"})) == (backbone == "image")


def test_both_losses_reach_the_backbone_and_their_own_heads():
    model = loading.assembled(tiny.model(), tiny.words(), tiny.CHAT)
    asked = asked_of(model, guided=True)
    trajectory = sampled(model.policy, model, asked)
    reached = {}
    for k, modality in ((1, "text"), (2, "image")):
        model.policy.zero_grad()
        replay(model.policy, asked, trajectory).scores[k].log_prob.sum().backward()
        grads = {name for name, p in model.policy.janus.named_parameters() if p.grad is not None and p.grad.any()}
        reached[modality] = {name.removeprefix("model.").partition(".")[0] for name in grads}
    painting = {"generation_embeddings", "generation_aligner", "generation_head"}
    assert reached == {"text": {"language_model", "lm_head"}, "image": {"language_model", *painting}}


def test_a_reference_has_weights_of_its_own_and_shares_what_is_never_trained():
    model = loading.assembled(tiny.model(), tiny.words(), tiny.CHAT)
    reference = model.reference()
    codes = torch.zeros(2, tiny.COUNT, dtype=torch.int64)
    with torch.no_grad():
        before, _ = behind(dataclasses.replace(model, policy=reference), codes, ALL)
        assert torch.equal(behind(model, codes, ALL)[0], before)
        for weight in model.policy.parameters_of("image"):
            weight.add_(0.1)
        assert not torch.equal(behind(model, codes, ALL)[0], before)
        assert torch.equal(behind(dataclasses.replace(model, policy=reference), codes, ALL)[0], before)
    mine, theirs = model.policy.janus.model, reference.janus.model
    for part in ("vqmodel", "vision_model", "aligner"):
        assert getattr(mine, part) is getattr(theirs, part)
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert all(parameter.requires_grad for parameter in model.policy.parameters_of("text"))


def test_what_it_cannot_do_is_said():
    policy, nothing = loaded().policy, torch.zeros(1, 1, 4, 4)
    context, alive = policy.start(1), torch.ones(1, dtype=torch.bool)
    with pytest.raises(ConfigError, match="reads no images; use image_head=tokens and episode=single_round"):
        policy.extend_image(context, nothing, alive)
    with pytest.raises(ConfigError, match="has no velocity; use image_head=tokens"):
        policy.velocity(context, nothing, torch.tensor(0.5))
    with pytest.raises(ConfigError, match="reads no images; use prompts of texts alone"):
        loaded().processor.autoencoder.encode(nothing)


def test_under_autocast_codes_enter_as_words_do():
    model = loaded()
    codes = torch.zeros(2, tiny.COUNT, dtype=torch.int64)
    seen = []
    hook = model.policy.janus.get_decoder().register_forward_pre_hook(
        lambda _, args, told: seen.append(told["inputs_embeds"].dtype), with_kwargs=True
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        behind(model, codes, ALL, (1,))
    hook.remove()
    assert set(seen) == {torch.float32}


def test_the_image_of_an_episode_has_one_code_a_place():
    model = loaded()
    image = sampled(model.policy, model, asked_of(model, guided=False)).segments[-1]
    assert isinstance(image, ImageSegment)
    assert image.tokens.shape == (4, tiny.COUNT)
    assert image.tokens.max() < tiny.CODES
