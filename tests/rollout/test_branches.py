"""What the contexts of BAGEL's guidance cover, segment by segment, as its inferencer builds them."""

from __future__ import annotations

import pytest
import torch

from tests.models import tiny
from tests.rollouts import pictures_of, roll, scores_of, spec
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import TextImageCfg
from unigrpo.rollout.episodes import Editing, Reflect
from unigrpo.rollout.heads import Flow, Tokens
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import Cost, ImageSegment

GUIDANCE = TextImageCfg(4.0, 2.0, low=0.0)
SYSTEM = (7, 6, 2)
FLOW, CODES = tiny.policy(vision_channels=3), tiny.policy(vision_channels=3, code_levels=(3, 2, 2))


def covered(policy, *segments, system=SYSTEM):
    """The context of some segments alone."""
    head = Tokens() if policy is CODES else Flow()
    rollout = Rollout(policy, spec(system=system, head=head), 2)
    for segment in segments:
        rollout.condition_on(segment)
    rollout.repeat(1)  # lets a pending image enter
    return rollout.contexts[0]


def given_image(seed):
    image = pictures_of("ab", FLOW.latent_shape)
    latents = tiny.randn(*image.latents.shape, seed=seed).clamp(-1, 1).round()
    features = latents.flatten(2).transpose(1, 2)
    return ImageSegment((), latents, image.alive, given=True, features=features)


def same(mine, theirs):
    return mine.valid.shape == theirs.valid.shape and all(map(torch.equal, mine.keys, theirs.keys))


@pytest.mark.parametrize("policy", [FLOW, CODES], ids=["flow", "tokens"])
@torch.no_grad()
def test_an_edit_with_thinking(policy):
    """Image, request, thought, image, request: the second request's contexts know what came before it."""
    head = Tokens() if policy is CODES else Flow()
    rollout = Rollout(policy, spec(guidance=GUIDANCE, system=SYSTEM, head=head), 2)
    source, result = given_image(1), given_image(2)
    request, thought, other = tiny.text([3, 2]), tiny.text([2, 4], seed=1, given=False), tiny.text([1, 3], seed=2)
    every, none = [covered(policy)], covered(policy)
    seen = []
    for segment in (source, request, thought, result, other):
        if segment is thought:
            rollout.replay(segment)
        else:
            rollout.condition_on(segment)
        rollout.repeat(1)
        seen.append(rollout.contexts)
    after = [covered(policy, *(source, request, thought, result, other)[: k + 1]) for k in (0, 1)]
    # Nothing but images and the system prompt before the first request, and what comes of it changes that no more.
    for contexts in seen[:3]:
        assert same(contexts[1], after[0])
    assert same(seen[3][1], seen[3][0]), "a later image renews it"
    assert same(seen[4][1], seen[3][0])
    assert not same(seen[4][0], seen[4][1])
    assert same(seen[1][0], after[1])
    for contexts, texts in zip(seen, ((), (request,), (request,), (request,), (request, other)), strict=True):
        assert same(contexts[2], covered(policy, *texts))
    assert same(none, every[0])


@torch.no_grad()
def test_for_text_to_image_without_thinking_image_guidance_sees_the_conditional_context():
    rollout = Rollout(FLOW, spec(guidance=GUIDANCE), 2)
    rollout.condition_on(tiny.text([3, 2]))
    assert same(rollout.contexts[0], rollout.contexts[2])
    assert rollout.contexts[1].valid.shape == (2, 0)


@torch.no_grad()
def test_only_what_is_read_is_counted():
    """A request is read in two of three contexts, a thought in one."""
    rollout = Rollout(FLOW, spec(guidance=GUIDANCE), 2)
    rollout.condition_on(tiny.text([3, 2]))
    assert rollout.cost == Cost(tokens=2 * (5 + 2))
    rollout.replay(tiny.text([2, 4], given=False))
    assert rollout.cost == Cost(tokens=2 * (5 + 2) + 6 + 2)


EPISODES = {
    "editing": Editing(turns=2, max_thinking=3),
    "tree": Reflect(rounds=2, max_thinking=3, max_reflection=4, start="shared"),
}


@pytest.mark.parametrize("policy", [FLOW, CODES], ids=["flow", "tokens"])
@pytest.mark.parametrize("kind", EPISODES)
@pytest.mark.parametrize("context_grad", [False, True])
def test_a_replay_repeats_every_bit(kind, policy, context_grad):
    head = {"head": Tokens(), "dynamics": Ode(), "stochastic": ()} if policy is CODES else {}
    chosen = spec(guidance=GUIDANCE, system=SYSTEM, context_grad=context_grad, **head)
    trajectory = roll(policy, chosen, keys="ab", seed=2, shared=False, episode=EPISODES[kind])
    again = replay(policy, chosen, trajectory)
    found, others = (scores_of(t) + [s.log_prob for s in t.scores if s is not None] for t in (trajectory, again))
    assert all(a is None or torch.equal(a, b) for a, b in zip(found, others, strict=True))
    assert again.scores[-1] is not None
