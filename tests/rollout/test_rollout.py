"""The one rollout: replay is sampling, draws are keyed, windows and guidance do what they say, work is counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import tiny
from tests.rollouts import EOS, PAD, Constant, Dice, Protocol, prompts_of, roll, scores_of, spec
from unigrpo.checks import ShapeError
from unigrpo.flow.dynamics import Cps, DanceSde, FlowSde, Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.noise import EpisodeDraws
from unigrpo.objective.image_ratio import Guard, RatioNorm, Raw
from unigrpo.objective.text_ratio import Sequence, Token
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, TextSegment, Trajectory

POLICY = tiny.policy()
SILENT = SingleRound(thinking=False)
DYNAMICS = st.sampled_from([FlowSde(a=0.7), DanceSde(a=0.4, reduction="sum"), Cps(eta=0.6)])
GUIDANCE = st.sampled_from([CfgFree(), Cfg(scale=2.5), Cfg(scale=3.0, low=0.3, high=0.8, renorm=True), Cfg(scale=1.0)])
WINDOWS = st.sampled_from([(0,), (1,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])


def image_score(walked: Trajectory | Rollout) -> ImageScore:
    score = walked.scores[-1]
    assert isinstance(score, ImageScore)
    return score


@given(DYNAMICS, GUIDANCE, WINDOWS, st.booleans(), st.booleans(), st.sampled_from([1.0, 0.7]), st.integers(0, 999))
def test_p33_replay_by_the_same_weights_is_bit_identical(dynamics, guidance, window, thinking, shared, heat, seed):
    """Text and image log-ratios are exactly 0 (MATH 9.1): not small, 0."""
    walked = spec(dynamics=dynamics, guidance=guidance, stochastic=window, temperature=heat)
    trajectory = roll(POLICY, walked, seed=seed, shared=shared, episode=SingleRound(thinking, max_thinking=5))
    again = replay(POLICY, walked, trajectory)
    for old, new in zip(scores_of(trajectory), scores_of(again), strict=True):
        assert old.shape == new.shape
        assert torch.equal(old, new)
    for ratio in (Raw(), RatioNorm(), Guard()):
        for was, now in zip(image_score(trajectory).steps, image_score(again).steps, strict=True):
            log_ratio = ratio(now.log_prob, was.log_prob, now.mean, was.mean, now.std, dynamics.reduction)
            assert not log_ratio.any()
    if thinking:
        segment, old, new = trajectory.segments[1], trajectory.scores[1], again.scores[1]
        assert all(not ratio(new.log_prob, old.log_prob, segment.mask).any() for ratio in (Token(), Sequence()))
        assert new.log_prob.requires_grad
    assert image_score(again).steps[0].log_prob.requires_grad


def test_thinking_texts_are_ragged_and_replay_holds_for_them():
    trajectory = roll(POLICY, spec(), keys="abcdef", group=4, episode=SingleRound(max_thinking=8))
    lengths = trajectory.thinking.mask.sum(1)
    assert len(set(lengths.tolist())) > 3
    assert all(map(torch.equal, scores_of(trajectory), scores_of(replay(POLICY, spec(), trajectory))))


def test_replay_under_other_weights_differs():
    trajectory = roll(POLICY, spec())
    other = replay(tiny.policy(seed=1), spec(), trajectory)
    assert not torch.equal(other.scores[1].log_prob, trajectory.scores[1].log_prob)
    for was, now in zip(image_score(trajectory).steps, image_score(other).steps, strict=True):
        assert (was.log_prob != now.log_prob).all()
        assert torch.equal(was.std, now.std)


def test_recorded_steps_join_up_with_the_noise_of_their_keys():
    walked = spec(stochastic=(1, 2))
    trajectory = roll(POLICY, walked, shared=False)
    draws = EpisodeDraws((0, "rollout", 0), ("a", "b"), 3, False)
    picture, score = trajectory.image, image_score(trajectory)
    assert [step.index for step in picture.steps] == [1, 2]
    for step, scored in zip(picture.steps, score.steps, strict=True):
        noise = draws.normal((2, "step", step.index), POLICY.latent_shape)
        torch.testing.assert_close(step.x_next, scored.mean + scored.std * noise, atol=1e-6, rtol=0)
        dt = float(walked.points[step.index] - walked.points[step.index + 1])
        assert scored.dt == dt
    assert torch.equal(picture.steps[0].x_next, picture.steps[1].x)


def test_deterministic_steps_are_euler_steps():
    trajectory = roll(POLICY, spec(dynamics=Ode(), stochastic=()), episode=SILENT)
    given_text = prompts_of("ab")
    start = torch.cat((torch.full((2, 1), 1), given_text.tokens), 1)
    with torch.no_grad():
        whole = torch.cat((torch.ones(2, 1, dtype=torch.bool), given_text.mask), 1)
        _, context = POLICY.extend_text(POLICY.start(2), start, whole)
        context = context.repeat(3)
        draws = EpisodeDraws((0, "rollout", 0), ("a", "b"), 3, True)
        x = draws.normal((1, "initial"), POLICY.latent_shape, shareable=True)
        for t in (1.0, 0.75, 0.5, 0.25):
            x = x - 0.25 * POLICY.velocity(context, x, torch.tensor(t))
    torch.testing.assert_close(trajectory.image.latents, x, atol=1e-6, rtol=0)


@settings(max_examples=8)
@given(st.integers(0, 999), st.booleans())
def test_p38_draws_do_not_depend_on_the_batch_split(seed, shared):
    """Each prompt covered alone says the same words and paints the same picture."""
    whole = roll(POLICY, spec(), keys="abc", seed=seed, shared=shared)
    for place, key in enumerate("abc"):
        alone = roll(POLICY, spec(), keys=[key], seed=seed, shared=shared)
        rows = slice(3 * place, 3 * place + 3)
        said, mask = whole.thinking.tokens[rows], whole.thinking.mask[rows]
        length = alone.thinking.tokens.shape[1]
        assert torch.equal(said[:, :length], alone.thinking.tokens)
        assert torch.equal(mask[:, :length], alone.thinking.mask)
        assert not mask[:, length:].any()
        torch.testing.assert_close(whole.image.latents[rows], alone.image.latents, atol=1e-4, rtol=0)


def test_members_share_their_first_noise_only_if_asked():
    first = {}
    for shared in (True, False):
        step = roll(POLICY, spec(), shared=shared).image.steps[0]
        first[shared] = step.x.unflatten(0, (2, 3))
    assert torch.equal(first[True][:, 0], first[True][:, 2])
    assert not torch.equal(first[True][0, 0], first[True][1, 0])
    assert not torch.equal(first[False][:, 0], first[False][:, 2])


def shift_step_noise(what, drawn):
    return drawn + 1 if what[1] == "step" else drawn


@pytest.mark.parametrize("window", [(0, 1), (1, 2), (2,), (3,)])
def test_math_9_10_before_its_window_a_path_depends_on_the_initial_noise_only(window):
    walked = spec(stochastic=window)
    calm, shaken = roll(POLICY, walked), roll(POLICY, walked, alter=shift_step_noise)
    assert torch.equal(calm.image.steps[0].x, shaken.image.steps[0].x)
    assert not torch.equal(calm.image.steps[0].x_next, shaken.image.steps[0].x_next)
    still = roll(POLICY, spec(stochastic=()))
    assert torch.equal(still.image.latents, roll(POLICY, spec(stochastic=()), alter=shift_step_noise).image.latents)


@given(WINDOWS)
def test_math_9_10_replay_looks_at_the_trained_steps_only(window):
    """Outside the window there is no velocity to have a gradient through."""
    walked, spy = spec(stochastic=window), Protocol(POLICY)
    trajectory = roll(POLICY, walked)
    replay(spy, walked, trajectory)
    assert spy.times == [float(walked.points[k]) for k in window]


def test_guidance_at_scale_1_is_no_guidance_bit_for_bit():
    """MATH 8: same bits, same cost."""
    free, one = (roll(POLICY, spec(guidance=guidance)) for guidance in (CfgFree(), Cfg(scale=1.0)))
    assert torch.equal(free.image.latents, one.image.latents)
    assert all(map(torch.equal, scores_of(free), scores_of(one)))
    assert free.cost == one.cost


def test_p45_guidance_is_affine_in_its_scale():
    """Of the velocity at the first step: conditional at 1, unconditional at 0, and on the line through both."""
    v = {
        scale: image_score(roll(POLICY, spec(guidance=Cfg(scale=scale)), episode=SILENT)).steps[0].velocity
        for scale in (0.0, 1.0, 2.5)
    }
    torch.testing.assert_close(v[2.5], v[0.0] + 2.5 * (v[1.0] - v[0.0]), atol=1e-5, rtol=0)
    start = roll(POLICY, spec(), episode=SILENT).image.steps[0].x
    with torch.no_grad():
        bare = POLICY.velocity(POLICY.start(6), start, torch.tensor(1.0))
    torch.testing.assert_close(v[0.0], bare, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("guidance", "evaluations"),
    [(CfgFree(), 4), (Cfg(scale=2.0), 8), (Cfg(scale=2.0, low=0.3, high=0.8), 6), (Cfg(scale=2.0, low=0.5), 6)],
)
def test_p45_velocity_evaluations_are_counted(guidance, evaluations):
    """Of six rows and four steps at t = 1, .75, .5, .25; CFG-free takes half of CFG."""
    spy = Protocol(POLICY)
    trajectory = roll(spy, spec(guidance=guidance))
    assert trajectory.cost.nfe == 6 * evaluations
    assert len(spy.times) == evaluations


def test_a_guidance_of_the_users_own_guides_where_it_says():
    class Early:
        branches = ("text-free",)

        def guides(self, t):
            return t > 0.6

        def combine(self, v_cond, v_uncond):
            return v_cond - v_uncond

    guided = roll(POLICY, spec(guidance=Early(), stochastic=(1, 2)))
    assert guided.cost.nfe == 6 * (4 + 2)
    assert all(map(torch.equal, scores_of(guided), scores_of(replay(POLICY, spec(guidance=Early()), guided))))


def test_a_prompt_is_walked_once_for_its_group():
    spy = Protocol(POLICY)
    trajectory = roll(spy, spec(), episode=SILENT)
    assert spy.texts == [(2, prompts_of("ab").tokens.shape[1] + 1)]
    assert trajectory.cost.tokens == int(prompts_of("ab").mask.sum()) + 2
    again = Protocol(POLICY)
    replay(again, spec(), trajectory)
    assert again.texts == spy.texts


def test_a_given_text_begins_as_prompts_do_and_builds_no_logits():
    """A chat template begins a request otherwise than a reply; nobody reads what could follow a request."""
    asked = []

    class Spy(Protocol):
        def extend_text(self, context, tokens, mask, *, logits=True):
            found, context = super().extend_text(context, tokens, mask, logits=logits)
            asked.append((tokens[0, 0].item(), found.shape[1]))
            return found, context

    trajectory = roll(POLICY, spec(prompt=9), episode=SingleRound(max_thinking=1))
    replay(Spy(POLICY), spec(prompt=9), trajectory)
    assert asked == [(9, 0), (1, trajectory.thinking.tokens.shape[1] + 1)]


def test_nothing_is_said_after_the_end():
    trajectory = roll(POLICY, spec(), keys="abcdef", group=4, episode=SingleRound(max_thinking=8))
    said, log_prob = trajectory.thinking, trajectory.scores[1].log_prob
    ended = 0
    for tokens, mask, score in zip(said.tokens.tolist(), said.mask.tolist(), log_prob.tolist(), strict=True):
        length = sum(mask)
        assert mask == [True] * length + [False] * (len(mask) - length)
        assert EOS not in tokens[: length - 1]
        assert tokens[length:] == [PAD] * (len(tokens) - length)
        assert score[length:] == [0.0] * (len(tokens) - length)
        assert all(value < 0 for value in score[:length])
        if length < 8:
            ended += 1
            assert tokens[length - 1] == EOS
    assert 0 < ended < len(said.tokens)


def test_a_text_is_no_longer_than_its_limit_and_no_longer_than_it_must_be():
    assert roll(POLICY, spec(), episode=SingleRound(max_thinking=1)).thinking.tokens.shape == (6, 1)
    lengths = set()
    for seed in range(6):
        said = roll(POLICY, spec(), keys="a", group=1, seed=seed, episode=SingleRound(max_thinking=9)).thinking
        lengths.add(said.tokens.shape[1])
        assert said.mask.all()
    assert len(lengths) > 1
    assert max(lengths) <= 9


def test_p46_masked_places_carry_no_gradient_and_no_nan():
    trajectory = roll(POLICY, spec(), keys="abcdef", group=4, episode=SingleRound(max_thinking=8))
    mask = trajectory.thinking.mask
    assert not mask.all()
    policy = tiny.policy()
    score = replay(policy, spec(), trajectory, images=False).scores[1]
    score.log_prob.sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters_of("text") if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)

    other = tiny.policy()
    log_prob = replay(other, spec(), trajectory, images=False).scores[1].log_prob
    log_prob[mask].sum().backward()
    for mine, theirs in zip(
        gradients, (p.grad for p in other.parameters_of("text") if p.grad is not None), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_log_probabilities_are_those_of_the_tempered_distribution():
    heat = spec(temperature=0.5)
    trajectory = roll(POLICY, heat, keys="a", group=1, episode=SingleRound(max_thinking=4))
    said, score = trajectory.thinking, trajectory.scores[1].log_prob
    given_text = prompts_of("a")
    ones = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        first, second = torch.cat((ones, given_text.tokens), 1), torch.cat((ones, said.tokens), 1)
        _, context = POLICY.extend_text(POLICY.start(1), first, torch.ones_like(first, dtype=torch.bool))
        logits, _ = POLICY.extend_text(context, second, torch.ones_like(second, dtype=torch.bool))
    expected = torch.distributions.Categorical(logits=logits[:, :-1] / 0.5).log_prob(said.tokens)
    torch.testing.assert_close(score, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("draw", "word"), [(0.0, 1), (0.0999, 1), (0.1001, 3), (0.5999, 3), (0.6001, 4), (1 - 2**-24, 4)]
)
def test_a_uniform_draw_picks_a_word_by_its_share(draw, word):
    """Shares 0, .1, 0, .5, .4: a word without a share is never said, whatever the draw."""
    rollout = Rollout(Dice(0.0, 0.1, 0.0, 0.5, 0.4), spec(), 1)
    said = rollout.generate_text(1, Constant(1, draw))
    assert said.tokens.tolist() == [[word]]


def test_a_cold_policy_says_its_likeliest_words():
    cold = spec(temperature=1e-4)
    texts = [roll(POLICY, cold, seed=seed).thinking.tokens for seed in (1, 2)]
    assert torch.equal(*texts)
    assert not torch.equal(*(roll(POLICY, spec(), seed=seed).thinking.tokens for seed in (1, 2)))


def test_replay_without_images_leaves_their_scores_out():
    trajectory, spy = roll(POLICY, spec()), Protocol(POLICY)
    rollout = replay(spy, spec(), trajectory, images=False)
    assert rollout.scores[-1] is None
    assert torch.equal(rollout.scores[1].log_prob, trajectory.scores[1].log_prob)
    assert rollout.cost.nfe == 0
    assert spy.times == []


def test_replay_without_text_training_keeps_the_values_and_drops_the_graph():
    trajectory = roll(POLICY, spec())
    rollout = replay(POLICY, spec(), trajectory, train_text=False)
    assert torch.equal(rollout.scores[1].log_prob, trajectory.scores[1].log_prob)
    assert not rollout.scores[1].log_prob.requires_grad
    assert image_score(rollout).steps[0].log_prob.requires_grad


@pytest.mark.parametrize("context_grad", [True, False])
def test_the_image_loss_reaches_the_words_only_through_a_context_with_gradients(context_grad):
    policy, walked = tiny.policy(), spec(context_grad=context_grad)
    rollout = replay(policy, walked, roll(policy, walked))
    sum(step.mean.square().sum() for step in image_score(rollout).steps).backward()
    gradient = policy.language_model.model.embed_tokens.weight.grad
    words = set(gradient.abs().sum(1).nonzero().flatten().tolist())
    assert (words > {3, 4}) if context_grad else (words == {3, 4})


def test_a_walk_needs_the_protocol_alone():
    """No attribute beyond it is touched: an adapter of another model implements no more."""
    walked = spec(guidance=Cfg(scale=2.0))
    mine, theirs = roll(POLICY, walked), roll(Protocol(POLICY), walked)
    assert torch.equal(mine.image.latents, theirs.image.latents)
    assert isinstance(mine.segments[-1], ImageSegment)


class TwoPictures:
    """Paint, say, paint again: what follows a picture sees it."""

    def __call__(self, rollout, given, group_size, draw):
        rollout.condition_on(given[0])
        rollout.repeat(group_size)
        rollout.generate_image(draw)
        rollout.generate_text(4, draw)
        rollout.generate_image(draw)


@given(GUIDANCE, st.integers(0, 99))
def test_a_picture_enters_the_context_of_what_follows_it(guidance, seed):
    walked = spec(guidance=guidance)
    trajectory = roll(POLICY, walked, seed=seed, episode=TwoPictures())
    again = replay(POLICY, walked, trajectory)
    for old, new in zip(scores_of(trajectory), scores_of(again), strict=True):
        assert torch.equal(old, new)
    prompts, first, said, _ = trajectory.segments
    context = POLICY.start(len(prompts.tokens))
    _, context = POLICY.extend_text(context, *framed(prompts))
    context = POLICY.extend_image(context.repeat(trajectory.group_size), first.latents, first.alive)
    logits, context = POLICY.extend_text(context, *framed(said))
    log_prob = logits[:, :-1].log_softmax(-1).gather(-1, said.tokens[..., None])[..., 0]
    torch.testing.assert_close(trajectory.scores[2].log_prob, log_prob.where(said.mask, 0.0))
    assert torch.equal(again.contexts[0].position, context.position)
    assert torch.equal(again.contexts[0].valid, context.valid)


def framed(segment: TextSegment) -> tuple[torch.Tensor, torch.Tensor]:
    first = torch.ones_like(segment.tokens[:, :1])
    return torch.cat((first, segment.tokens), 1), torch.cat((first.bool(), segment.mask), 1)


def test_a_given_segment_has_a_row_per_prompt_or_per_episode():
    """Two rows for four prompts would be repeated, and go to the wrong ones."""
    rollout = Rollout(POLICY, spec(), 4)
    with pytest.raises(ShapeError, match="for each of 4 prompts or 4 episodes, got 2"):
        rollout.condition_on(prompts_of("ab"))
    rollout.condition_on(prompts_of("abcd"))
    rollout.repeat(3)
    for keys in ("abcdef", "ab", "a"):
        with pytest.raises(ShapeError, match=f"for each of 4 prompts or 12 episodes, got {len(keys)}"):
            rollout.condition_on(prompts_of(keys))
    rollout.condition_on(prompts_of("abcd"))
    rollout.condition_on(prompts_of("abcdefghijkl"))
    assert [segment.rows for segment in rollout.segments] == [4, 12, 12]


def test_finished_rows_are_left_out_and_the_others_go_on_as_they_would():
    """The policy is asked for fewer rows, and each writes what it writes alone."""
    watched = Protocol(POLICY)
    episode = SingleRound(max_thinking=40)
    trajectory = roll(watched, spec(), keys="abcdef", group=4, episode=episode)
    rows = [rows for rows, length in watched.texts if length == 1]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 2
    lengths = trajectory.thinking.mask.sum(1)
    assert all(count >= int((lengths > k).sum()) for k, count in enumerate(rows))
    alone = roll(POLICY, spec(), keys="c", group=4, episode=episode).thinking
    among = trajectory.thinking.tokens[8:12, : alone.tokens.shape[1]]
    assert torch.equal(among, alone.tokens)
