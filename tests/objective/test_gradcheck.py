"""Analytic against numerical gradients in fp64, of every ratio, surrogate, aggregation and penalty."""

import pytest
import torch
from torch.autograd import gradcheck

from tests.strategies import DOUBLE
from unigrpo.flow.dynamics import Cps, DanceSde, FlowSde
from unigrpo.objective.aggregation import Constant, SequenceMean, TokenMean, TrajectoryMean
from unigrpo.objective.image_ratio import Guard, RatioNorm, Raw
from unigrpo.objective.loss import joint_loss, step_objective, step_penalty, token_objective, token_penalty
from unigrpo.objective.modalities import Joint
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.objective.text_kl import K1, K2, K3
from unigrpo.objective.text_ratio import Sequence, Token
from unigrpo.objective.trust_region import PpoClip, Unclipped

B, L, LATENT = 4, 3, (4, 2, 2)
MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False], [True, True, False]])
STEP = tuple(torch.tensor(t, dtype=DOUBLE) for t in (0.6, 0.5, 0.9))
REGIONS = [PpoClip(0.1, 0.2), Unclipped()]


def draws(shape, seed, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def leaf(shape, seed, scale=1.0):
    return draws(shape, seed, scale).requires_grad_()


def text_actions(log_prob, ratio, region):
    return token_objective(log_prob, draws((B, L), 2, 0.3), draws((B, L), 3), MASK, ratio=ratio, trust_region=region)


def image_actions(v, dynamics, ratio, region):
    x, z = draws(LATENT, 4), draws(LATENT, 5)
    old, new = dynamics.transition(x, draws(LATENT, 6), *STEP), dynamics.transition(x, v, *STEP)
    taken = old.sample(z)
    return step_objective(
        dynamics.log_prob(taken, new),
        dynamics.log_prob(taken, old),
        new.mean,
        old.mean,
        new.std,
        draws((B,), 7),
        MASK[:, 0],
        draws((B,), 8).exp(),
        reduction=dynamics.reduction,
        ratio=ratio,
        trust_region=region,
    )


def total(actions, aggregation=None):
    return (aggregation or SequenceMean())(actions.values, actions.mask)


@pytest.mark.parametrize("aggregation", [SequenceMean(), TokenMean(), Constant(length=5.0)], ids=repr)
@pytest.mark.parametrize("region", REGIONS, ids=repr)
@pytest.mark.parametrize("ratio", [Token(), Sequence()], ids=repr)
def test_token_objective(ratio, region, aggregation):
    assert gradcheck(lambda log_prob: total(text_actions(log_prob, ratio, region), aggregation), leaf((B, L), 1, 0.3))


@pytest.mark.parametrize("dynamics", [FlowSde(), FlowSde(reduction="sum"), DanceSde()], ids=repr)
@pytest.mark.parametrize("region", REGIONS, ids=repr)
@pytest.mark.parametrize("ratio", [Raw(), RatioNorm(), Guard()], ids=repr)
def test_step_objective(ratio, region, dynamics):
    assert gradcheck(lambda v: total(image_actions(v, dynamics, ratio, region)), leaf(LATENT, 1))


def test_step_objective_of_cps():
    assert gradcheck(lambda v: total(image_actions(v, Cps(), Raw(), PpoClip())), leaf(LATENT, 1))


@pytest.mark.parametrize("kl", [K1(), K2(), K3()], ids=repr)
def test_token_penalty(kl):
    assert gradcheck(
        lambda log_prob: SequenceMean()(token_penalty(log_prob, draws((B, L), 2), MASK, kl=kl), MASK), leaf((B, L), 1)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("penalty", [LatentKl, lambda **f: LatentKl(dt_in_denominator=False, **f), VelocityMse])
def test_step_penalty(penalty, reduction):
    x, v_ref = draws(LATENT, 2), draws(LATENT, 3)

    def value(v):
        policy, reference = (FlowSde().transition(x, u, *STEP) for u in (v, v_ref))
        dt, chosen = STEP[0] - STEP[1], penalty(reduction=reduction)
        return step_penalty(v, v_ref, policy.mean, reference.mean, policy.std, dt, MASK[:, 1], regularizer=chosen)[
            MASK[:, 1]
        ]

    assert gradcheck(value, leaf(LATENT, 1))


@pytest.mark.parametrize("aggregation", [SequenceMean(), TrajectoryMean()], ids=repr)
def test_joint_loss(aggregation):
    def value(log_prob, v):
        text = text_actions(log_prob, Token(), PpoClip())
        image = image_actions(v, FlowSde(), RatioNorm(), PpoClip())
        kl = token_penalty(log_prob, draws((B, L), 10), MASK, kl=K3())
        return joint_loss(Joint(text=0.5, image=2.0), aggregation, text=text.with_penalty(kl, 0.3), image=image)

    assert gradcheck(value, (leaf((B, L), 1, 0.3), leaf(LATENT, 9)))
