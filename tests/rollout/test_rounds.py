"""The rollout over many rounds: replay, episodes that end at different times, pictures looked at, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import tiny
from tests.rollouts import (
    BOS,
    EOS,
    IMAGE,
    Altered,
    Constant,
    Dice,
    Protocol,
    pictures_of,
    prompts_of,
    roll,
    scores_of,
    spec,
)
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.models.policy import Context
from unigrpo.noise import EpisodeDraws
from unigrpo.rollout.episodes import Editing, Interleaved, Reflect
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import (
    DenoisingStep,
    ImageScore,
    ImageSegment,
    Segment,
    TextScore,
    TextSegment,
    Trajectory,
)

POLICY = tiny.policy()
EPISODES: dict[str, Any] = {
    "interleaved": Interleaved(max_pictures=2, max_text=6),
    "editing": Editing(turns=3, max_thinking=4),
    "reflect": Reflect(rounds=3, max_thinking=4, max_reflection=6),
    "tree": Reflect(rounds=2, max_thinking=4, max_reflection=6, start="shared"),
}
GUIDANCE = st.sampled_from([CfgFree(), Cfg(scale=2.5), Cfg(scale=3.0, low=0.3, high=0.8, renorm=True)])
KINDS = pytest.mark.parametrize("kind", EPISODES)


def ragged(kind: str, **changes: Any) -> Trajectory:
    """Episodes that end at different times, where the kind lets them."""
    trajectory = roll(POLICY, spec(**changes), keys="abcd", episode=EPISODES[kind], shared=False)
    alive = torch.stack([s.alive for s in trajectory.segments if not s.given and s.rows == 12])
    assert kind == "editing" or len(alive.sum(0).unique()) > 1
    return trajectory


@settings(max_examples=25)
@given(st.sampled_from(sorted(EPISODES)), GUIDANCE, st.sampled_from([(0,), (1, 2), (0, 1, 2)]), st.integers(0, 999))
def test_p33_replay_of_many_rounds_is_bit_identical(kind, guidance, window, seed):
    """Over what the model painted and looked at, over source pictures, over ragged ends: log-ratios are exactly 0."""
    walked = spec(guidance=guidance, stochastic=window)
    trajectory = roll(POLICY, walked, seed=seed, episode=EPISODES[kind])
    again = replay(POLICY, walked, trajectory)
    found = scores_of(trajectory)
    assert len(found) == len(scores_of(again)) > 0
    assert all(map(torch.equal, found, scores_of(again)))
    for segment, score in zip(trajectory.segments, again.scores, strict=True):
        assert (score is None) == segment.given
        if isinstance(segment, ImageSegment) and not segment.given:
            assert [step.index for step in score.steps] == list(window)
            assert segment.steps[-1].x_next.isfinite().all()


@KINDS
def test_replay_without_pictures_scores_the_same_words(kind):
    trajectory = ragged(kind)
    rollout = replay(POLICY, spec(), trajectory, images=False)
    for old, new in zip(trajectory.scores, rollout.scores, strict=True):
        if isinstance(old, TextScore):
            assert torch.equal(old.log_prob, new.log_prob), "pictures are looked at all the same"
        else:
            assert new is None
    assert rollout.cost.nfe == 0


@KINDS
def test_p38_many_rounds_do_not_depend_on_the_batch_split(kind):
    whole = ragged(kind)
    for place, key in enumerate("abcd"):
        alone = roll(POLICY, spec(), keys=[key], episode=EPISODES[kind], shared=False)
        for index, mine in enumerate(whole.segments):
            per_prompt = mine.rows // 4
            rows = slice(place * per_prompt, (place + 1) * per_prompt)
            if index >= len(alone.segments):
                assert not mine.alive[rows].any(), "alone the episodes end when the last of them does"
                continue
            theirs = alone.segments[index]
            assert torch.equal(mine.alive[rows], theirs.alive)
            if isinstance(mine, ImageSegment):
                pair = (mine.latents[rows][theirs.alive], theirs.latents[theirs.alive])
                torch.testing.assert_close(*pair, atol=1e-4, rtol=0)
            else:
                length = theirs.tokens.shape[1]
                assert torch.equal(mine.mask[rows, :length], theirs.mask)
                assert torch.equal(mine.tokens[rows, :length][theirs.mask], theirs.tokens[theirs.mask])


def scrambled(segment: Segment, rubbish: float) -> Segment:
    """The segment with other contents wherever they mean nothing."""
    if isinstance(segment, TextSegment):
        return replace(segment, tokens=segment.tokens.where(segment.mask, 7))

    def other(x: torch.Tensor) -> torch.Tensor:
        return x.where(segment.alive[:, None, None, None], rubbish)

    steps = tuple(DenoisingStep(step.index, other(step.x), other(step.x_next)) for step in segment.steps)
    return replace(segment, latents=other(segment.latents), steps=steps)


def loss_of(rollout: Rollout) -> torch.Tensor:
    """A number that depends on everything that was made, and on nothing else."""
    terms = []
    for segment, score in zip(rollout.segments, rollout.scores, strict=True):
        if isinstance(score, TextScore):
            terms.append(score.log_prob[segment.mask].sum())
        if isinstance(score, ImageScore):
            for step in score.steps:
                terms += [step.log_prob[segment.alive].sum(), step.mean[segment.alive].square().sum()]
    return torch.stack(terms).sum()


@pytest.mark.parametrize("rubbish", [5.0, float("nan")])
@pytest.mark.parametrize("context_grad", [True, False])
@pytest.mark.parametrize("kind", ["interleaved", "reflect", "tree"])
def test_what_stands_in_the_rows_of_ended_episodes_does_not_matter(kind, context_grad, rubbish):
    """Neither to a score nor to a gradient, not even NaN."""
    trajectory = ragged(kind)
    other = replace(trajectory, segments=tuple(scrambled(segment, rubbish) for segment in trajectory.segments))
    found = []
    for walked in (trajectory, other):
        policy = tiny.policy()
        rollout = replay(policy, spec(context_grad=context_grad), walked)
        loss_of(rollout).backward()
        found.append((loss_of(rollout), {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}))
    (loss, gradients), (other_loss, other_gradients) = found
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, other_gradients[name]), name


class Watched(Protocol):
    """Notes whether the keys of looked-at pictures carry gradients."""

    def __init__(self, inner: MoTPolicy):
        super().__init__(inner)
        self.carried: list[bool] = []

    def extend_image(self, context: Context, latents: torch.Tensor, alive: torch.Tensor) -> Context:
        longer = super().extend_image(context, latents, alive)
        own = longer.keys[0][:, :, context.valid.shape[1] :]
        self.carried.append(own.requires_grad)
        return longer


@pytest.mark.parametrize("context_grad", [True, False])
@KINDS
def test_a_looked_at_picture_passes_gradients_only_where_the_rules_say_so(kind, context_grad):
    policy = tiny.policy()
    spy = Watched(policy)
    rollout = replay(spy, spec(context_grad=context_grad), ragged(kind))
    assert spy.carried
    assert set(spy.carried) == {context_grad}
    last = next(
        score.log_prob[segment.mask].sum()
        for segment, score in reversed(list(zip(rollout.segments, rollout.scores, strict=True)))
        if isinstance(score, TextScore)
    )
    last.backward()
    reached = any(p.grad is not None and p.grad.any() for p in policy.parameters_of("image"))
    assert reached == context_grad, "the loss of a text that follows a picture"


@pytest.mark.parametrize("context_grad", [True, False])
def test_texts_train_the_texts_before_them_and_pictures_only_where_the_rules_say_so(context_grad):
    """Of the second turn's thinking and picture: into the words of its own turn, and into those of the first."""
    trajectory = roll(POLICY, spec(), keys="a", group=1, episode=Editing(turns=2, max_thinking=4))
    texts = [segment for segment in trajectory.segments if isinstance(segment, TextSegment)]
    first, thinking, second, (*other, _) = (text.tokens[text.mask].tolist() for text in texts)

    def touched(pick: type) -> set[int]:
        policy = tiny.policy()
        rollout = replay(policy, spec(context_grad=context_grad), trajectory)
        score = next(score for score in reversed(rollout.scores) if isinstance(score, pick))
        loss = score.log_prob.sum() if isinstance(score, TextScore) else score.steps[0].mean.square().sum()
        loss.backward()
        gradient = policy.language_model.model.embed_tokens.weight.grad
        return set(gradient.abs().sum(1).nonzero().flatten().tolist())

    own = {BOS, *second, *other}
    early = {*first, *thinking} - own - {EOS}
    assert early, "words by which the first turn can be told from the second"
    assert touched(TextScore) >= own | early, "within a modality gradients pass, across a picture too"
    assert (touched(ImageScore) >= early | own) == context_grad
    assert context_grad or touched(ImageScore) == {IMAGE, IMAGE + 1}, "the markers of its own block"


def test_guidance_drops_the_words_and_keeps_the_pictures():
    """At scale 0 the second picture is painted from the source and the first picture alone."""
    trajectory = roll(POLICY, spec(guidance=Cfg(scale=0.0)), episode=Editing(turns=2, max_thinking=4))
    first, second = (s for s in trajectory.segments if isinstance(s, ImageSegment) and not s.given)
    with torch.no_grad():
        context = POLICY.start(6)
        for latents in (pictures_of("ab", POLICY.latent_shape).latents.repeat_interleave(3, 0), first.latents):
            context = POLICY.extend_image(context, latents, torch.ones(6, dtype=torch.bool))
        velocity = POLICY.velocity(context, second.steps[0].x, torch.tensor(1.0))
    torch.testing.assert_close(trajectory.scores[-1].steps[0].velocity, velocity, atol=1e-5, rtol=0)


class Both:
    """A guidance of two branches, which keeps what it is given."""

    branches = ("image-free", "text-free")

    def __init__(self):
        self.given: list[tuple[torch.Tensor, ...]] = []

    def guides(self, t):
        return t > 0.6

    def combine(self, v_cond, *v_branches):
        self.given.append((v_cond, *v_branches))
        return v_cond + 2 * v_branches[0] - v_branches[1]


def test_a_guidance_gets_the_velocities_of_the_branches_that_it_declares():
    """Of the second picture: all, the texts alone, the pictures alone; and replay repeats it bit for bit."""
    both = Both()
    walked = spec(guidance=both)
    trajectory = roll(POLICY, walked, ["a"], 2, episode=Editing(turns=2, max_thinking=4))
    texts = [s for s in trajectory.segments if isinstance(s, TextSegment)]
    source, first, second = (s for s in trajectory.segments if isinstance(s, ImageSegment))
    whole, words, pictures = (POLICY.start(2) for _ in range(3))
    every = torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        for segment in (source, *texts[:2], first, *texts[2:]):
            if isinstance(segment, ImageSegment):
                latents = segment.latents.repeat(2 // segment.rows, 1, 1, 1)
                whole, pictures = (POLICY.extend_image(context, latents, every) for context in (whole, pictures))
            else:
                tokens, mask = (part.repeat(2 // segment.rows, 1) for part in (segment.tokens, segment.mask))
                tokens = torch.cat((torch.ones_like(tokens[:, :1]), tokens), 1)
                mask = torch.cat((every[:, None], mask), 1)
                whole, words = (POLICY.extend_text(context, tokens, mask)[1] for context in (whole, words))
        x = second.steps[0].x
        expected = [POLICY.velocity(context, x, torch.tensor(1.0)) for context in (whole, words, pictures)]
    assert len(both.given) == 4, "of four steps each of both pictures is guided in two"
    for mine, theirs in zip(both.given[2], expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert trajectory.cost.nfe == 2 * 2 * (2 * 3 + 2)
    assert all(map(torch.equal, scores_of(trajectory), scores_of(replay(POLICY, walked, trajectory))))


class Padded(Both):
    branches = ("text-padded",)

    def combine(self, v_cond, *v_branches):
        self.given.append((v_cond, *v_branches))
        return v_cond


def test_a_branch_of_padding_reads_the_pictures_and_of_the_texts_their_number_of_tokens():
    """Wherever it is not the token that begins given texts, there is padding in the place of a word."""
    padded, opening, pad = Padded(), 4, 0
    walked = spec(guidance=padded, prompt=opening)
    trajectory = roll(POLICY, walked, group=1, episode=Editing(turns=1, max_thinking=4))
    context, every = POLICY.start(2), torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        for segment in trajectory.segments[:-1]:
            if isinstance(segment, ImageSegment):
                context = POLICY.extend_image(context, segment.latents, every)
                continue
            tokens = torch.full((2, segment.tokens.shape[1] + 1), pad)
            tokens[:, 0] = opening if segment.given else pad
            tokens[:, 1:][segment.tokens == opening] = opening
            context = POLICY.extend_text(context, tokens, torch.cat((every[:, None], segment.mask), 1))[1]
        expected = POLICY.velocity(context, trajectory.segments[-1].steps[0].x, torch.tensor(1.0))
    torch.testing.assert_close(padded.given[0][1], expected, atol=1e-5, rtol=0)
    assert not torch.allclose(padded.given[0][0], expected, atol=1e-3)
    assert all(map(torch.equal, scores_of(trajectory), scores_of(replay(POLICY, walked, trajectory))))


def test_only_pictures_that_something_follows_are_looked_at():
    """Each costs a forward pass: the source once per prompt, the edited ones but for the last, once."""
    spy = Protocol(POLICY)
    trajectory = roll(spy, spec(), episode=EPISODES["editing"])
    assert spy.looks == [2, 6, 6]
    again = Protocol(POLICY)
    replay(again, spec(), trajectory)
    assert again.looks == spy.looks


def test_work_is_counted_in_the_rows_that_go_on():
    trajectory = ragged("interleaved")
    painted = sum(int(s.alive.sum()) for s in trajectory.segments if isinstance(s, ImageSegment))
    rollout = replay(POLICY, spec(), trajectory)
    assert trajectory.cost.nfe == 4 * painted
    assert rollout.cost.nfe == 2 * painted, "replay looks at the two trained steps"
    said = [s for s in trajectory.segments if isinstance(s, TextSegment)]
    words = sum(int(s.mask.sum() + s.alive.sum()) for s in said)
    assert rollout.cost.tokens == words
    assert trajectory.cost.tokens == words + sum(int(s.mask.sum()) for s in said if not s.given)


class TestTree:
    """A group that shares its first picture."""

    def test_it_is_made_once_with_the_noise_of_the_first_member(self):
        alone = replace(EPISODES["tree"], start="own")
        tree, wood = ragged("tree"), roll(POLICY, spec(), keys="abcd", episode=alone, shared=False)
        assert [segment.rows for segment in tree.segments[:4]] == [4, 4, 4, 12]
        first, others = tree.segments[2], wood.segments[2].latents[::3]
        torch.testing.assert_close(first.latents, others, atol=1e-4, rtol=0)
        said = tree.segments[1].mask.sum(1).tolist()
        assert said == wood.segments[1].mask.sum(1)[::3].tolist()

    def test_its_members_part_at_the_reflection(self):
        reflection = ragged("tree").segments[3]
        texts = [row[mask].tolist() for row, mask in zip(reflection.tokens, reflection.mask, strict=True)]
        assert any(texts[3 * k] != texts[3 * k + 1] for k in range(4))

    def test_draws_before_that_are_those_of_the_first_member(self):
        rollout = Rollout(POLICY, spec(), 2)
        draws = EpisodeDraws((0, "rollout", 0), ("a", "b"), 3, False)
        whole = draws.normal((0, "initial"), (2,))
        assert torch.equal(rollout.noise(draws).normal(("initial",), (2,)), whole[::3])
        rollout.repeat(3)
        assert torch.equal(rollout.noise(draws).normal(("initial",), (2,)), whole)


WORDS = 6
TOKENS = st.sampled_from([EOS, IMAGE, 0, 1, 4, 5])
STREAMS = st.lists(st.lists(st.lists(TOKENS, min_size=4, max_size=4), min_size=4, max_size=4), min_size=1, max_size=4)


def told(stream: list[list[int]], max_text: int, max_pictures: int) -> list[list[int]]:
    """The texts of one episode, by the rules of the form."""
    texts: list[list[int]] = []
    for tokens in stream:
        ends = [place for place, token in enumerate(tokens[:max_text]) if token in (EOS, IMAGE)]
        texts.append(tokens[: ends[0] + 1 if ends else max_text])
        if texts[-1][-1] != IMAGE or len(texts) > max_pictures:
            break
    return texts


@given(STREAMS, st.integers(1, 4), st.integers(1, 3))
def test_the_form_of_a_story_under_any_stream_of_tokens(streams, max_text, max_pictures):
    """``<image>`` asks for a picture, ``<eos>`` ends, a text cut at its limit ends, one picture too many ends."""

    def scripted(what, drawn):
        if what[1] != "text":
            return drawn
        # the prompt is segment 0, then texts and pictures take turns
        said = [stream[what[0] // 2][: drawn.shape[1]] for stream in streams]
        return (torch.tensor(said) + 0.5) / WORDS

    rollout = Rollout(Dice(*[1 / WORDS] * WORDS), spec(stochastic=(), latent_shape=(1, 1, 1)), len(streams))
    episode = Interleaved(max_pictures=max_pictures, max_text=max_text)
    episode(rollout, (prompts_of("abcd"[: len(streams)]),), 1, Altered(Constant(len(streams), 0.0), scripted))
    expected = [told(stream, max_text, max_pictures) for stream in streams]
    texts = [s for s in rollout.segments[1:] if isinstance(s, TextSegment)]
    pictures = [s for s in rollout.segments[1:] if isinstance(s, ImageSegment)]
    assert len(texts) == max(map(len, expected)), "it goes on as long as any episode does"
    for row, said in enumerate(expected):
        assert [s.tokens[row, s.mask[row]].tolist() for s in texts] == said + [[]] * (len(texts) - len(said))
        painted = min(sum(text[-1] == IMAGE for text in said), max_pictures)
        assert [bool(s.alive[row]) for s in pictures] == [k < painted for k in range(len(pictures))]
    assert [s.turn for s in texts] == list(range(len(texts)))
    assert [s.turn for s in pictures] == list(range(len(pictures)))
    assert all(s.alive.any() for s in rollout.segments[1:])
