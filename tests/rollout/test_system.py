"""A system prompt: a text block of its own that every context begins with, those of guidance too."""

from __future__ import annotations

import pytest
import torch

from tests.models import tiny
from tests.models.reference import Block, Reference
from tests.rollouts import prompts_of, roll, scores_of, spec
from unigrpo.flow.guidance import Cfg
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import Cost

SYSTEM = (7, 6, 2)


def test_it_is_a_text_block_before_the_others_in_every_context():
    policy = tiny.policy(seed=1).double()
    rollout = Rollout(policy, spec(guidance=Cfg(2.0), system=SYSTEM), 1)
    x, t = tiny.randn(1, 3, 2, 2, dtype=torch.float64), torch.tensor(0.3)
    request = tiny.text([4])
    with torch.no_grad():
        rollout.condition_on(request)
        found = [policy.velocity(context, x, t)[0] for context in rollout.contexts]
    for mine, words in zip(found, ([1, *request.tokens[0].tolist()], None), strict=True):
        blocks = [Block([1, *SYSTEM]), *([Block(words)] if words else []), Block(latents=x[0], t=0.3, noised=True)]
        _, (velocity,) = Reference(policy.config, policy.state_dict())(blocks)
        torch.testing.assert_close(mine, velocity, atol=1e-6, rtol=0)


def test_it_begins_as_a_given_text_does():
    plain, framed = (Rollout(tiny.policy(), spec(system=SYSTEM, prompt=p), 1) for p in (None, 9))
    assert plain.spec.begin == 1
    assert framed.spec.begin == 9
    assert not torch.equal(plain.contexts[0].keys[0], framed.contexts[0].keys[0])


def test_a_replay_repeats_every_bit():
    policy, said = tiny.policy(), spec(guidance=Cfg(2.0), system=SYSTEM)
    trajectory = roll(policy, said, keys="ab", seed=1, episode=SingleRound(max_thinking=4))
    again = replay(policy, said, trajectory)
    assert all(a is None or torch.equal(a, b) for a, b in zip(scores_of(trajectory), scores_of(again), strict=True))
    other = replay(policy, spec(guidance=Cfg(2.0)), trajectory)
    assert not torch.equal(scores_of(other)[0], scores_of(trajectory)[0])


@pytest.mark.parametrize("train_text", [True, False])
def test_its_gradients_are_those_of_a_text_and_its_tokens_count(train_text):
    rollout = Rollout(tiny.policy(), spec(system=SYSTEM), 2, train_text=train_text)
    assert rollout.contexts[0].keys[0].requires_grad == train_text
    assert rollout.cost == Cost(tokens=8)
    rollout.condition_on(prompts_of("ab"))
    assert rollout.contexts[0].position.tolist() == [4 + 1 + n for n in prompts_of("ab").mask.sum(1).tolist()]
