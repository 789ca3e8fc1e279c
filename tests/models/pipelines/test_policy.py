"""A pipeline with a language model: one policy, whose texts condition its images."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.exactness.kernels import assert_same_kernels
from tests.models.pipelines import tiny
from tests.rollouts import spec
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.pipelines import Diffusers
from unigrpo.models.pipelines.certify import Drawn
from unigrpo.models.pipelines.loading import OwnGuidance, assembled
from unigrpo.models.pipelines.rows import FAMILIES
from unigrpo.noise import EpisodeDraws
from unigrpo.rollout.episodes import Editing, SingleRound
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import ImageScore, TextScore, TextSegment, Trajectory

pytestmark = pytest.mark.no_cover


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.language_model(tmp_path_factory.mktemp("thinker"))


def joined(thinker: Path, name: str = "StableDiffusion3Pipeline", **fields):
    """A pipeline and a language model, as ``model=diffusers`` has them."""
    model = Diffusers(path="given", language_model=str(thinker), **tiny.TOLD.get(name, {}), **fields)
    language = CausalLM(tiny.alive(tiny.qwen3(causal=True)), "the test's")
    return assembled(model, tiny.pipeline(name), FAMILIES[name], language)


def started(loaded, rows: int):
    """The context before a prompt: a picture's, where the pipeline edits one."""
    context, picture = loaded.policy.start(rows), torch.zeros(rows, 3, tiny.SIDE, tiny.SIDE)
    if not loaded.policy.family.sees:
        return context
    every = torch.ones(rows, dtype=torch.bool)
    context = loaded.policy.extend_image(context, loaded.processor.autoencoder.encode(picture), every)
    return loaded.policy.extend_features(context, loaded.processor.vision(picture), every)


def blocks_of(loaded, texts: list[str], replies: list[str] | None = None):
    """A context behind some prompts, and behind what was replied to them."""
    (text,) = loaded.processor.encode([Prompt(f"p{k}", words) for k, words in enumerate(texts)])
    assert isinstance(text, TextSegment)
    context = extended(loaded, started(loaded, len(texts)), text.tokens, text.mask, loaded.processor.ids.prompt)
    if replies is None:
        return context
    tokens, mask = loaded.processor.tokenizer.encode(replies)
    return extended(loaded, context, tokens, mask, loaded.processor.ids.bos)


def extended(loaded, context, tokens, mask, begin):
    first = torch.full_like(tokens[:, :1], loaded.processor.ids.bos if begin is None else begin)
    mask = torch.cat((torch.ones_like(first, dtype=torch.bool), mask), 1)
    return loaded.policy.extend_text(context, torch.cat((first, tokens), 1), mask, logits=False)[1]


TEXTS = ["a red cube", "two blue balls, and a green cone"]
REPLIES = ["Let me think. Prompt: one ruby cube", ""]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"conditioning": "prompt"}, TEXTS),
        ({}, ["Let me think. Prompt: one ruby cube", TEXTS[1]]),
        ({"behind": "Prompt:"}, ["one ruby cube", TEXTS[1]]),
        ({"behind": "Not there:"}, ["Let me think. Prompt: one ruby cube", TEXTS[1]]),
        ({"conditioning": "both", "behind": "Prompt:"}, ["a red cube one ruby cube", TEXTS[1]]),
        ({"system_prompt": "Refine."}, ["Let me think. Prompt: one ruby cube", TEXTS[1]]),
    ],
)
def test_an_image_is_conditioned_on_the_text_that_is_named(thinker, fields, expected):
    loaded = joined(thinker, **fields)
    reading = loaded.policy.reading
    assert reading(blocks_of(loaded, TEXTS).blocks, 2) == TEXTS
    assert reading(blocks_of(loaded, TEXTS, REPLIES).blocks, 2) == expected
    assert reading((), 2) == ["", ""]


def test_without_a_language_model_any_text_reaches_the_encoders_as_it_is():
    loaded = tiny.model("StableDiffusion3Pipeline")
    texts = ["naïve 東京 🦊", "  two\nlines  ", "the sign <|end|> and <|image|> on it"]
    assert loaded.policy.reading(blocks_of(loaded, texts).blocks, 3) == [text.strip() for text in texts]


@pytest.mark.parametrize(
    "make", [lambda: tiny.qwen3(causal=True), *tiny.WRITERS.values()], ids=["Qwen3", *tiny.WRITERS]
)
def test_the_language_models_log_probs_are_those_of_transformers(make):
    model = tiny.alive(make())
    language = CausalLM(copy.deepcopy(model), "the test's")
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 300, (2, length), generator=generator) for length in (4, 5))
    short, shorter = (torch.arange(n) < torch.tensor([[n], [m]]) for n, m in ((4, 2), (5, 3)))
    with torch.no_grad():
        early, context = language.extend_text(language.start(2), first, short)
        late, longer = language.extend_text(context, second, shorter)
        for row in range(2):
            said = torch.cat((first[row][short[row]], second[row][shorter[row]]))
            wanted = model(said[None]).logits[0].log_softmax(-1)
            found = torch.cat((early[row][short[row]], late[row][shorter[row]])).log_softmax(-1)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert longer.position.tolist() == [9, 5]
    assert context.valid.shape == (2, 4), "a context is not changed by what is read behind it"


def test_a_model_whose_layers_do_not_see_everything_is_refused():
    model = tiny.qwen3(causal=True)
    model.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(
        ConfigError, match=r"model\.language_model: expected layers of full attention, or with a window"
    ):
        CausalLM(model, "model.language_model")
    with pytest.raises(ConfigError, match="Qwen3Model has no head that writes words"):
        CausalLM(tiny.qwen3(), "model.language_model")
    for other, reason in ((tiny.bloom, ""), (tiny.mpt, "it takes no positions")):
        with pytest.raises(ConfigError, match=f"cannot go on behind a context by masks, positions .*{reason}"):
            CausalLM(other(), "model.language_model")


@pytest.mark.parametrize(
    ("make", "reach"),
    [
        (lambda: tiny.mistral(sliding_window=8), 8),
        (tiny.WRITERS["Gemma2"], 32),
        (tiny.WRITERS["GPT2"], 64),
        (tiny.WRITERS["OPT"], 64),
        (tiny.WRITERS["Granite"], None),
    ],
)
def test_a_context_beyond_a_window_or_a_table_of_positions_is_refused_with_the_numbers(make, reach):
    language = CausalLM(make(), "model.language_model='here'")
    assert language.reach == reach
    tokens = torch.ones(2, 4, dtype=torch.int64)
    some = torch.tensor([[True] * 4, [True, False, False, False]])
    with torch.no_grad():
        _, context = language.extend_text(language.start(2), tokens, some)
        for _ in range((reach or 100) // 4 - 1):
            _, context = language.extend_text(context, tokens, some)
        # The other row has room, however many places it shares.
        _, context = language.extend_text(context, tokens, some & torch.tensor([[False], [True]]))
        if reach is None:
            return
        with pytest.raises(ConfigError, match=f"reads up to {reach} tokens, .* have {reach + 4}; make them shorter"):
            language.extend_text(context, tokens, some)


def test_a_reply_ends_with_any_of_the_stops_that_the_model_names(tmp_path):
    loaded = joined(tiny.language_model(tmp_path))
    assert loaded.processor.ids.stops == ()
    language = loaded.policy.language
    language.model.generation_config.eos_token_id = [7, loaded.processor.ids.eos, 100_000]
    assert language.stops == (7, loaded.processor.ids.eos)
    model = Diffusers(path="given", language_model=str(tmp_path))
    loaded = assembled(model, loaded.policy.pipe, loaded.policy.family, language)
    asked, sample = walked(loaded, guided=False)
    assert asked.stops == loaded.processor.ids.stops == language.stops
    language.model.get_output_embeddings().weight.data.zero_()  # every word is as likely
    trajectory = sample(loaded.policy)
    (reply,) = (segment for segment in trajectory.segments if isinstance(segment, TextSegment) and not segment.given)
    stopped = TextSegment(torch.tensor([[5, 7], [5, 6]]), torch.ones(2, 2, dtype=torch.bool))
    part = loaded.processor._words(stopped)
    assert (part.ends, part.lengths) == (["stop", "cut"], [2, 2])
    assert len(part.texts[0]) == 1
    assert not ((reply.tokens[:, :-1] == 7) & reply.mask[:, 1:]).any()


def walked(loaded, guided: bool):
    """How to sample two short episodes for each prompt, and what a replay is told."""
    guidance = loaded.guidance(Cfg(3.0)) if guided else CfgFree()
    shape = loaded.processor.latent_shape(tiny.SIDE, tiny.SIDE)
    ids, see = dataclasses.asdict(loaded.processor.ids), loaded.processor.see
    asked = spec(guidance=guidance, latent_shape=shape, see=see, **ids)
    edits = loaded.policy.family.refer is not None
    more = {"images": (Drawn((tiny.SIDE, tiny.SIDE)),), "turns": ("red", "and blue")} if edits else {}
    prompts = [Prompt(f"p{k}", text, **more) for k, text in enumerate(TEXTS)]
    given = loaded.processor.encode(prompts, tiny.SIDE, tiny.SIDE)
    episode = Editing(turns=2, max_thinking=3) if edits else SingleRound(max_thinking=3)

    def sample(policy) -> Trajectory:
        rollout, draws = Rollout(policy, asked, 2), EpisodeDraws((0,), ("a", "b"), 2)
        with torch.no_grad():
            episode(rollout, given, 2, draws)
        return Trajectory(("a", "b"), 2, tuple(rollout.segments), tuple(rollout.scores), rollout.cost)

    return asked, sample


# Qwen-Image keeps its rope tables at the first call of every copy: later ones do less.
@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "Flux2KleinPipeline", "ZImagePipeline"])
def test_replay_takes_the_kernels_of_sampling(name, thinker):
    asked, sample = walked(loaded := joined(thinker, name), guided=True)
    sample(loaded.policy)  # what is computed once for all
    assert_same_kernels(loaded.policy, asked, sample)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_that_was_sampled_has_the_bits_of_its_replay(name, thinker):
    asked, sample = walked(loaded := joined(thinker, name), guided="Qwen" in name)
    trajectory = sample(loaded.policy)
    again = replay(loaded.policy, asked, trajectory)
    for old, new in zip(trajectory.scores, again.scores, strict=True):
        if old is not None:
            for mine, theirs in zip(tensors(old), tensors(new), strict=True):
                assert torch.equal(mine, theirs)
    image = next(score for score in again.scores if isinstance(score, ImageScore))
    text = next(score for score in again.scores if isinstance(score, TextScore))
    (image.steps[0].log_prob.sum() + text.log_prob.sum()).backward()
    for modality in ("text", "image"):
        gradients = [weight.grad for weight in loaded.policy.parameters_of(modality)]
        assert any(gradient is not None and gradient.any() for gradient in gradients), modality
    loaded.policy.zero_grad()


def tensors(score):
    return [score.log_prob] if isinstance(score, TextScore) else [step.log_prob for step in score.steps]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_shares_what_is_not_trained(name, thinker):
    loaded = joined(thinker, name)
    reference = loaded.reference()
    assert reference.pipe is loaded.policy.pipe
    context, other = blocks_of(loaded, TEXTS), blocks_of(loaded, TEXTS)
    x = torch.randn(2, *loaded.processor.latent_shape(tiny.SIDE, tiny.SIDE))
    with torch.no_grad():
        before = reference.velocity(other, x, torch.tensor(0.5))
        assert torch.equal(loaded.policy.velocity(context, x, torch.tensor(0.5)), before)
        kept = {name: weight.clone() for name, weight in loaded.policy.state_dict().items()}
        for weight in loaded.policy.parameters_of("image"):
            weight.add_(0.1)
        assert not torch.equal(loaded.policy.velocity(context, x, torch.tensor(0.5)), before)
        assert torch.equal(reference.velocity(other, x, torch.tensor(0.5)), before)
        loaded.policy.load_state_dict(kept)
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert not any("encoder" in name for name in kept), "what is not trained is not saved"


def test_guidance_is_the_pipelines_own():
    qwen, sd3 = tiny.model("QwenImagePipeline"), tiny.model("StableDiffusion3Pipeline")
    own = qwen.guidance(Cfg(3.0, penalty="conditional"))
    assert isinstance(own, OwnGuidance)
    assert (own.branches, own.penalty, own.guides(1.0)) == (("text-free",), "conditional", True)
    generator = torch.Generator().manual_seed(0)
    c, u = (torch.randn(2, 4, 4, 4, generator=generator) for _ in range(2))
    found = own.combine(c, u)
    for row in range(2):
        for top in (0, 2):
            for left in (0, 2):
                square = (row, slice(None), slice(top, top + 2), slice(left, left + 2))
                plain = u[square] + 3 * (c[square] - u[square])
                assert math.isclose(found[square].norm(), c[square].norm(), rel_tol=1e-5)
                torch.testing.assert_close(found[square] / found[square].norm(), plain / plain.norm())
    assert qwen.guidance(CfgFree()) == CfgFree()
    assert sd3.guidance(Cfg(3.0)) == Cfg(3.0)


def test_what_a_pipeline_cannot_do_is_said():
    loaded = tiny.model("StableDiffusion3Pipeline")
    context = loaded.policy.start(1)
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"writes no texts; use model\.language_model=FOLDER"):
        loaded.policy.extend_text(context, tokens, tokens == 0)
    with pytest.raises(ConfigError, match="reads no images; use episode=single_round"):
        loaded.policy.extend_image(context, tokens, tokens == 0)
