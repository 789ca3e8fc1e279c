"""What penalty and drift compare with the reference under guidance: the guided velocity, or the conditional one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import tiny
from tests.rollout.test_rollout import DYNAMICS, SILENT, WINDOWS, image_score
from tests.rollouts import Protocol, roll, scores_of, spec
from unigrpo.flow.dynamics import FlowSde
from unigrpo.flow.guidance import Cfg, CfgFree, Guidance
from unigrpo.objective.regularizer import LatentKl, VelocityMse, penalty_weight
from unigrpo.rollout.rollout import replay
from unigrpo.rollout.trajectory import StepScore, Trajectory

POLICY = tiny.policy()
OTHER = tiny.policy(seed=1)
SCALES = st.sampled_from([0.0, 0.5, 2.0, 3.5])
ROWS = 6


def held_conditional(scale: float, **fields: float) -> Cfg:
    return Cfg(scale=scale, penalty="conditional", **fields)


def steps_of(policy: Protocol, trajectory: Trajectory, guidance: Guidance, **changes: object) -> tuple[StepScore, ...]:
    return image_score(replay(policy, spec(guidance=guidance, **changes), trajectory)).steps


@settings(max_examples=15)
@given(DYNAMICS, SCALES, WINDOWS, st.booleans())
def test_the_conditional_step_is_held_and_the_guided_one_is_taken(dynamics, scale, window, renorm):
    """Held is what a replay without guidance finds, to the bit; rollout, ratios and their means are as they were."""
    chosen = {"dynamics": dynamics, "stochastic": window}
    plain, held = Cfg(scale=scale, renorm=renorm), replace(held_conditional(scale), renorm=renorm)
    guided, alike = (roll(POLICY, spec(guidance=one, **chosen), episode=SILENT) for one in (plain, held))
    assert torch.equal(guided.image.latents, alike.image.latents)
    assert all(map(torch.equal, scores_of(guided), scores_of(alike)))
    free = steps_of(POLICY, guided, CfgFree(), **chosen)
    for before, step, bare in zip(image_score(guided).steps, image_score(alike).steps, free, strict=True):
        assert torch.equal(before.velocity, step.velocity)
        assert torch.equal(before.mean, step.mean)
        assert before.held == (before.velocity, before.mean)
        assert all(map(torch.equal, step.held, (bare.velocity, bare.mean)))
        assert not torch.equal(step.held[0], step.velocity)


@settings(max_examples=15)
@given(DYNAMICS, SCALES, st.sampled_from(["mean", "sum"]))
def test_latent_kl_weighs_the_distance_of_conditional_velocities(dynamics, scale, reduction):
    """``latent_kl = w(t) ||v_c - v_ref,c||^2``, with the velocities of an own call each and w(t) in closed form."""
    walked = spec(guidance=held_conditional(scale), dynamics=dynamics)
    trajectory = roll(POLICY, walked, episode=SILENT)
    theirs = steps_of(OTHER, trajectory, CfgFree(), dynamics=dynamics)
    kl, mse = LatentKl(reduction=reduction), VelocityMse(reduction=reduction)
    bare = steps_of(POLICY, trajectory, CfgFree(), dynamics=dynamics)
    for step, plain, other in zip(image_score(trajectory).steps, bare, theirs, strict=True):
        (v, mean), (v_ref, mean_ref) = step.held, other.held
        t, t_next = walked.points[step.index], walked.points[step.index + 1]
        w = penalty_weight(dynamics, t, t_next, walked.points[1])
        torch.testing.assert_close(
            mse(v, v_ref, mean, mean_ref, step.std, step.dt), mse_by_hand(plain, other, reduction)
        )
        wanted = (w * mse_by_hand(plain, other, reduction).double()).float()
        # Means of nearly equal steps are subtracted in fp32.
        torch.testing.assert_close(kl(v, v_ref, mean, mean_ref, step.std, step.dt), wanted, rtol=1e-3, atol=1e-5)


def mse_by_hand(mine: StepScore, theirs: StepScore, reduction: str) -> torch.Tensor:
    squares = (mine.velocity - theirs.velocity).square().flatten(1)
    return squares.mean(1) if reduction == "mean" else squares.sum(1)


@pytest.mark.parametrize("guidance", [{"scale": 1.0}, {"scale": 3.0, "low": 0.0, "high": 0.2}])
def test_where_nothing_is_guided_both_hold_the_same_bits(guidance):
    """At scale 1 everywhere, and else outside the interval."""
    for penalty in ("guided", "conditional"):
        trajectory = roll(POLICY, spec(guidance=Cfg(**guidance, penalty=penalty)), episode=SILENT)
        assert [step.conditional for step in image_score(trajectory).steps] == [None, None]
        assert all(step.held == (step.velocity, step.mean) for step in image_score(trajectory).steps)


class Gained(Protocol):
    """A policy with a factor on its conditional velocities and one on its unconditional ones, which take turns."""

    def __init__(self, gains: torch.Tensor):
        super().__init__(POLICY)
        self.gains = gains

    def velocity(self, context, x, t):
        found = super().velocity(context, x, t)
        return found.detach() * self.gains[(len(self.times) - 1) % 2]


@pytest.mark.parametrize("penalty", [LatentKl(), VelocityMse()])
def test_the_unconditional_branch_has_no_part_in_a_penalty_of_the_conditional_velocity(penalty):
    """``d/dg w ||g v - v_ref||^2 = 2 w <g v - v_ref, v>`` for the conditional velocity's factor, 0 for the other's."""
    trajectory = roll(POLICY, spec(), episode=SILENT)
    found, bare = {}, steps_of(POLICY, trajectory, CfgFree())
    for name, guidance in (("guided", Cfg(scale=2.0)), ("conditional", held_conditional(2.0))):
        gains = torch.tensor([1.2, 0.9], requires_grad=True)
        others = steps_of(POLICY, trajectory, guidance)
        total = torch.zeros(())
        for mine, other in zip(steps_of(Gained(gains), trajectory, guidance), others, strict=True):
            (v, mean), (v_ref, mean_ref) = mine.held, other.held
            total = total + penalty(v, v_ref, mean, mean_ref, mine.std, mine.dt).sum()
        (found[name],) = torch.autograd.grad(total, gains)
    wanted = 0.0
    for step in bare:
        points = spec().points
        w = penalty_weight(FlowSde(), points[step.index], points[step.index + 1], points[1])
        inner = ((1.2 - 1.0) * step.velocity.detach().double() ** 2).flatten(1).mean(1).sum()
        wanted += float(2 * inner * (w if isinstance(penalty, LatentKl) else 1.0))
    assert found["conditional"][1] == 0
    assert found["conditional"][0].item() == pytest.approx(wanted, rel=1e-4)
    assert found["guided"][1] != 0


def test_a_guidance_that_says_nothing_holds_what_it_uses():
    class Early:
        branches = ("text-free",)

        def guides(self, t):
            return t > 0.6

        def combine(self, v_cond, v_uncond):
            return 2 * v_cond - v_uncond

    trajectory = roll(POLICY, spec(guidance=Early()), episode=SILENT)
    assert [step.conditional for step in image_score(trajectory).steps] == [None, None]
    assert trajectory.cost.nfe == ROWS * (4 + 2)
