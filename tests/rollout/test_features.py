"""Features of images on the way through an episode: made once, recorded, read by every policy that scores it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import tiny
from tests.rollouts import Constant, pictures_of, prompts_of, roll, scores_of, spec
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import Cfg
from unigrpo.rollout.episodes import Editing, Interleaved, Reflect
from unigrpo.rollout.heads import Tokens
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import ImageSegment, TextScore

POLICY = tiny.policy(vision_channels=3)
CODES = tiny.policy(vision_channels=3, code_levels=(3, 2, 2))
EPISODES = {
    "interleaved": Interleaved(max_pictures=2, max_text=6),
    "editing": Editing(turns=3, max_thinking=4),
    "tree": Reflect(rounds=2, max_thinking=4, max_reflection=6, start="shared"),
}


def colours(image: ImageSegment) -> torch.Tensor:
    """Features [B, 4, 3] of latents [B, 3, 2, 2]."""
    return image.latents.flatten(2).transpose(1, 2) + 1


def unseen(image: ImageSegment) -> torch.Tensor:
    raise AssertionError("a replay must not look")


def images_of(walked) -> list[ImageSegment]:
    return [segment for segment in walked.segments if isinstance(segment, ImageSegment)]


def walk(kind, policy=POLICY, **changes):
    head = {"head": Tokens(), "dynamics": Ode(), "stochastic": ()} if policy is CODES else {}
    walked = spec(guidance=Cfg(2.0), see=colours, **head, **changes)
    return walked, roll(policy, walked, keys="abcd", seed=2, shared=False, episode=EPISODES[kind])


@pytest.mark.parametrize("policy", [POLICY, CODES], ids=["flow", "tokens"])
@pytest.mark.parametrize("kind", EPISODES)
def test_a_replay_reads_what_was_recorded_and_repeats_every_bit(kind, policy):
    walked, trajectory = walk(kind, policy)
    again = replay(policy, replace(walked, see=unseen), trajectory)
    found = scores_of(trajectory) + [s.log_prob for s in trajectory.scores if hasattr(s, "log_prob")]
    others = scores_of(again) + [s.log_prob for s in again.scores if hasattr(s, "log_prob")]
    assert all(a is None or torch.equal(a, b) for a, b in zip(found, others, strict=True))
    last = trajectory.segments[-1]
    for image in images_of(trajectory):
        assert (image.features is None) == (image is last)
    without = replace(trajectory, segments=tuple(
        replace(s, features=None) if isinstance(s, ImageSegment) else s for s in trajectory.segments
    ))  # fmt: skip
    blind = replay(policy, walked, without)
    texts = [k for k, score in enumerate(trajectory.scores) if isinstance(score, TextScore)]
    behind = [k for k in texts if any(isinstance(s, ImageSegment) for s in trajectory.segments[:k])]
    assert behind
    for k in behind:
        assert not torch.equal(blind.scores[k].log_prob, again.scores[k].log_prob), "features have an effect"


def test_features_are_of_the_image_as_it_was_generated():
    _, trajectory = walk("editing")
    source, *_ = images_of(trajectory)
    for image in images_of(trajectory)[:-1]:
        assert torch.equal(image.features, colours(image))
    assert source.given
    assert source.rows == 4, "read once per prompt, before its group parts"


def test_an_image_that_nothing_follows_is_not_looked_at():
    rollout = Rollout(POLICY, spec(see=unseen, latent_shape=POLICY.latent_shape), 2)
    with torch.no_grad():
        rollout.condition_on(prompts_of("ab"))
        rollout.generate_image(Constant(2, 0.5))
    with pytest.raises(AssertionError, match="must not look"):
        rollout.condition_on(prompts_of("ab"))


def test_given_features_are_repeated_with_their_image():
    """A row for each prompt that is given once its group has parted."""
    source = pictures_of("ab", POLICY.latent_shape)
    source = replace(source, features=colours(source))
    rollout = Rollout(POLICY, spec(), 2)
    with torch.no_grad():
        rollout.repeat(3)
        rollout.condition_on(source)
        rollout.condition_on(prompts_of("ab"))
    (image,) = images_of(rollout)
    assert torch.equal(image.features, colours(image))
    assert image.features.shape == (6, 4, 3)
    shared = Rollout(POLICY, spec(), 2)
    with torch.no_grad():
        shared.condition_on(source)
        shared.repeat(3)
        shared.condition_on(prompts_of("ab"))
    for mine, theirs in zip(rollout.contexts[0].keys, shared.contexts[0].keys, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_a_row_that_is_over_reads_no_features_and_what_they_hold_does_not_matter():
    walked, trajectory = walk("interleaved")
    ragged = [image for image in images_of(trajectory) if image.features is not None and not image.alive.all()]
    assert ragged
    rubbish = replace(trajectory, segments=tuple(
        replace(s, features=s.features.where(s.alive[:, None, None], torch.nan))
        if isinstance(s, ImageSegment) and s.features is not None
        else s
        for s in trajectory.segments
    ))  # fmt: skip
    policy = tiny.policy(vision_channels=3)
    again = replay(policy, walked, rubbish)
    assert all(map(torch.equal, scores_of(trajectory), scores_of(again)))
    sum(score.log_prob.sum() for score in again.scores if isinstance(score, TextScore)).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())
    positions = {True: set(), False: set()}
    last = ragged[-1]
    rollout = Rollout(policy, walked, last.rows)
    with torch.no_grad():
        rollout.replay(replace(last, given=True))
        rollout.repeat(1)
    for alive, position in zip(last.alive.tolist(), rollout.contexts[0].position.tolist(), strict=True):
        positions[alive].add(position)
    assert positions == {True: {2}, False: {0}}


@pytest.mark.parametrize("context_grad", [False, True])
def test_the_connector_learns_from_texts_and_from_images_only_through_contexts_with_gradients(context_grad):
    walked, trajectory = walk("editing", context_grad=context_grad)

    def reached(which: type) -> bool:
        policy = tiny.policy(vision_channels=3)
        again = replay(policy, walked, trajectory)
        if which is TextScore:
            sum(score.log_prob.sum() for score in again.scores if isinstance(score, TextScore)).backward()
        else:
            image = again.scores[-1]
            sum(step.mean.square().sum() for step in image.steps).backward()
        return all(p.grad is not None and bool(p.grad.any()) for p in policy.connector.parameters())

    assert reached(TextScore), "as a given text trains what reads it"
    assert reached(ImageSegment) == context_grad


def test_without_training_texts_no_graph_is_kept_of_features():
    walked, trajectory = walk("editing")
    policy = tiny.policy(vision_channels=3)
    rollout = replay(policy, walked, trajectory, train_text=False)
    assert not any(key.requires_grad for key in rollout.contexts[0].keys)


def test_features_are_counted_as_tokens():
    """Four for each image, in each context that covers images."""
    walked, trajectory = walk("editing")
    rows = sum(int(image.alive.sum()) for image in images_of(trajectory) if image.features is not None)
    blind = roll(POLICY, replace(walked, see=None), keys="abcd", seed=2, episode=EPISODES["editing"])
    assert trajectory.cost.tokens - _tokens(trajectory) == 2 * 4 * rows
    assert blind.cost.tokens == _tokens(blind)


def _tokens(trajectory) -> int:
    """Of texts: those of the policy twice, as they are generated and then read; with what begins each."""
    texts = [s for s in trajectory.segments if not isinstance(s, ImageSegment)]
    return sum(int(s.mask.sum()) * (1 if s.given else 2) + int(s.alive.sum()) for s in texts)
