import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from tests.strategies import DOUBLE, noisy, sdes, spread, steps
from unigrpo.checks import ShapeError
from unigrpo.config import RunConfig
from unigrpo.flow.dynamics import Cps, DanceSde, FlowSde, Ode
from unigrpo.flow.schedule import time_points
from unigrpo.objective.regularizer import LatentKl, NoRegularizer, VelocityMse, penalty_weight

LATENT = (3, 4, 2)
D = 8
REDUCTIONS = st.sampled_from(["mean", "sum"])
PENALTIES = st.builds(
    lambda make, reduction: make(reduction=reduction),
    st.sampled_from([LatentKl, VelocityMse, lambda reduction: LatentKl(dt_in_denominator=False, reduction=reduction)]),
    REDUCTIONS,
)
close = torch.testing.assert_close


def penalty(regularizer, dynamics, x, v, v_ref, step):
    """The penalty [B] of one step, as a trainer computes it."""
    policy, reference = dynamics.transition(x, v, *step), dynamics.transition(x, v_ref, *step)
    return regularizer(v, v_ref, policy.mean, reference.mean, policy.std, step[0] - step[1])


@given(noisy(), *[spread(LATENT)] * 3, steps(), REDUCTIONS)
def test_p39_latent_kl_is_the_kl_of_torch_distributions(dynamics, x, v, v_ref, step, reduction):
    policy, reference = dynamics.transition(x, v, *step), dynamics.transition(x, v_ref, *step)
    elementwise = kl_divergence(Normal(policy.mean, policy.std), Normal(reference.mean, reference.std))
    expected = elementwise.sum((1, 2)) if reduction == "sum" else elementwise.mean((1, 2))
    close(penalty(LatentKl(reduction=reduction), dynamics, x, v, v_ref, step), expected, atol=1e-9, rtol=1e-7)


@given(noisy(), *[spread(LATENT)] * 3, steps(), REDUCTIONS)
def test_p39_latent_kl_is_velocity_mse_times_w(dynamics, x, v, v_ref, step, reduction):
    kl, mse = (penalty(p(reduction=reduction), dynamics, x, v, v_ref, step) for p in (LatentKl, VelocityMse))
    close(kl, penalty_weight(dynamics, *step) * mse, atol=1e-9, rtol=1e-7)


@given(steps(), st.floats(0.1, 1.5))
def test_p39_w_of_flow_sde_as_in_the_paper(step, a):
    """``(dt/2) (sigma (1-t)/(2t) + 1/sigma)^2 = (dt/2) (a/2 + 1/a)^2 (1-t)/t`` for t < 1."""
    t, t_next, _ = step
    dt, sigma = t - t_next, a * (t / (1 - t)).sqrt()
    w = penalty_weight(FlowSde(a=a), *step)
    close(w, dt / 2 * (sigma * (1 - t) / (2 * t) + 1 / sigma) ** 2)
    close(w, dt / 2 * (a / 2 + 1 / a) ** 2 * (1 - t) / t)


def test_p39_w_over_unigrpos_schedule_as_published():
    t = time_points(24, 3.0)
    w = penalty_weight(FlowSde(a=0.8), t[:-1], t[1:], t[1])
    assert (w.shape, w.dtype) == ((24,), DOUBLE)
    published = {0: 1.6e-4, 1: 3.0e-4, 2: 6.6e-4, 3: 1.1e-3, 12: 1.5e-2, 23: 1.2}
    assert {k: float(f"{w[k]:.1e}") for k in published} == published
    assert (w[23] / w[0]).item() == pytest.approx(7500, rel=0.02)


def test_p39_w_spreads_81_fold_over_ten_uniform_steps():
    t = time_points(10)
    w = penalty_weight(FlowSde(a=0.7), t[1:-1], t[2:], t[1])
    assert (w[-1] / w[0]).item() == pytest.approx(81)


def test_w_is_infinite_without_noise():
    t, t_next = torch.tensor(0.5), torch.tensor(0.4)
    assert penalty_weight(Ode(), t, t_next, t).item() == float("inf")
    with pytest.raises(ShapeError, match=r"t \[\], t_next \[1\]"):
        penalty_weight(FlowSde(), t, t_next[None], t)


@given(noisy(), *[spread(LATENT)] * 3, steps(), REDUCTIONS)
def test_the_code_variant_is_the_exact_kl_times_dt(dynamics, x, v, v_ref, step, reduction):
    """MATH 9.3; equivalently ``||dmu||^2 / (2 sigma^2)``."""
    exact, code = (
        penalty(LatentKl(dt_in_denominator=flag, reduction=reduction), dynamics, x, v, v_ref, step)
        for flag in (True, False)
    )
    close(code, exact * (step[0] - step[1]))


@given(PENALTIES, *[spread(LATENT)] * 3, st.floats(0.05, 2.0), st.floats(0.01, 0.2))
def test_a_scalar_or_one_number_per_row_are_the_same(regularizer, v, mean, v_ref, std, dt):
    std = torch.tensor(std, dtype=DOUBLE)
    per_row = regularizer(v, v_ref, mean, v_ref, std.expand(3), torch.full((3,), dt, dtype=DOUBLE))
    close(regularizer(v, v_ref, mean, v_ref, std, dt), per_row)


@given(sdes(), *[spread(LATENT)] * 3, steps())
def test_p40_gradients_of_both_penalties_are_collinear(dynamics, x, v, v_ref, step):
    """With w := const the latent KL *is* velocity MSE: the control arm of a comparison of the two."""
    v = v.requires_grad_()
    w = penalty_weight(dynamics, *step)
    gradients = [
        torch.autograd.grad(penalty(p, dynamics, x, v, v_ref, step).sum(), v)[0]
        for p in (LatentKl(reduction="sum"), VelocityMse(reduction="mean"))
    ]
    close(gradients[0], w * D * gradients[1], atol=1e-9, rtol=1e-7)
    (constant,) = torch.autograd.grad((penalty(LatentKl(), dynamics, x, v, v_ref, step) / w).sum(), v)
    close(constant, gradients[1], atol=1e-9, rtol=1e-7)


@given(PENALTIES, noisy(), spread(LATENT), spread(LATENT), spread(LATENT), steps())
def test_p41_zero_with_zero_gradient_at_the_reference_and_neither_elsewhere(regularizer, dynamics, x, v, dv, step):
    assume(dv.abs().amax((1, 2)).min() > 1e-3)
    for offset, moved in ((0 * dv, False), (dv, True)):
        policy = (v + offset).requires_grad_()
        value = penalty(regularizer, dynamics, x, policy, v, step)
        (grad,) = torch.autograd.grad(value.sum(), policy)
        assert ((value > 0) == moved).all()
        assert (grad.abs().amax((1, 2)) > 0).eq(moved).all()


@given(PENALTIES, noisy(), *[spread(LATENT)] * 3, steps())
def test_p42_symmetric_and_without_gradient_into_the_reference(regularizer, dynamics, x, v, v_ref, step):
    v_ref = v_ref.requires_grad_()
    value = penalty(regularizer, dynamics, x, v.requires_grad_(), v_ref, step)
    close(value, penalty(regularizer, dynamics, x, v_ref, v, step))
    assert torch.autograd.grad(value.sum(), v_ref, allow_unused=True)[0] is None


@given(PENALTIES, noisy(), *[spread(LATENT)] * 3, steps(), st.floats(0.1, 10))
def test_p43_penalties_are_quadratic(regularizer, dynamics, x, v, dv, step, factor):
    once, scaled = (penalty(regularizer, dynamics, x, v + c * dv, v, step) for c in (1.0, factor))
    close(scaled, factor**2 * once, atol=1e-9, rtol=1e-6)


@given(PENALTIES, noisy(), spread(LATENT), spread(LATENT), steps())
def test_p44_the_reference_itself_is_not_penalised_at_all(regularizer, dynamics, x, v, step):
    assert penalty(regularizer, dynamics, x.float(), v.float(), v.float().clone(), step).tolist() == [0] * 3


def test_no_regularizer_is_zero_and_has_no_weight():
    v = torch.ones(2, 3)
    assert NoRegularizer().weight == 0
    assert torch.equal(NoRegularizer()(v, 2 * v, v, 2 * v, torch.ones(()), 0.1), torch.zeros(2))


@pytest.mark.parametrize("cls", [LatentKl, VelocityMse])
def test_p49_p50_dtypes_shapes_and_weights_are_checked(cls):
    v, std = torch.rand(2, 3), torch.tensor(0.5)
    low = cls()(*[u.bfloat16() for u in (v, v / 2, v, v / 2)], std, 0.1)
    assert low.dtype == torch.float32
    close(low.double(), cls()(*[u.bfloat16().double() for u in (v, v / 2, v, v / 2)], std, 0.1), atol=1e-6, rtol=1e-6)
    with pytest.raises(TypeError, match=r"reference torch.float64"):
        cls()(v, v.double(), v, v.double(), std, 0.1)
    with pytest.raises(ShapeError, match=r"policy \[2, 3\], reference \[2, 1\]"):
        cls()(v, v[:, :1], v, v[:, :1], std, 0.1)
    with pytest.raises(ValueError, match="weight=-1"):
        cls(weight=-1.0)


def test_latent_kl_per_row_std_of_the_wrong_length_is_refused():
    v = torch.rand(2, 3)
    with pytest.raises(ShapeError, match=r"\[3\] for \[2\]"):
        LatentKl()(v, v, v, v, torch.ones(3), 0.1)


def test_a_variance_without_dt_has_none_to_leave_out():
    """CPS: the variance is (t' sin)^2, so that the KL is the exact one or none at all."""
    slots = {"dynamics": "cps", "image_ratio": "raw", "window": {"name": "random_window", "high": 4}}
    kept = RunConfig.from_dict(slots | {"regularizer": {"name": "latent_kl"}})
    assert kept.conflicts() == []
    left_out = RunConfig.from_dict(slots | {"regularizer": {"name": "latent_kl", "dt_in_denominator": False}})
    (reason,) = left_out.conflicts()
    assert "dynamics=cps has none; use regularizer.dt_in_denominator=true" in reason
    for changes in ({"dynamics": "dance_sde"}, {"modalities": "text_only"}):
        assert RunConfig.from_dict(left_out.to_dict() | changes).conflicts() == []


def test_latent_kl_without_noise_is_refused_before_a_run():
    def conflicts(**slots):
        config = RunConfig.from_dict({"regularizer": "latent_kl", **slots})
        return list(config.regularizer.conflicts(config))

    (reason,) = conflicts(dynamics="ode")
    assert "use regularizer=velocity_mse" in reason
    assert conflicts(dynamics="ode", modalities="text_only") == []
    assert conflicts(dynamics="flow_sde") == conflicts(dynamics="cps") == []


def test_w_grows_towards_the_image_for_every_sde_and_is_lowest_at_pure_noise():
    """The paper's argument: at high noise the latent KL hardly restrains the velocity."""
    t = time_points(10, 3.0)
    for dynamics in (FlowSde(), DanceSde()):
        w = penalty_weight(dynamics, t[:-1], t[1:], t[1])
        assert w[0] == w.min()
    assert penalty_weight(Cps(), t[:-2], t[1:-1], t[1]).isfinite().all()
