import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from tests.strategies import DOUBLE, noisy, sdes, spread, steps, tensors
from unigrpo.checks import ShapeError
from unigrpo.config import RunConfig
from unigrpo.flow.dynamics import Cps, DanceSde, FlowSde, Ode, Transition
from unigrpo.flow.schedule import time_points

LATENT = (3, 4, 2)
close = torch.testing.assert_close


def at(*times):
    return tuple(torch.tensor(t, dtype=DOUBLE) for t in times)


@given(tensors(LATENT), tensors(LATENT), steps(), st.floats(0.1, 1.5))
def test_flow_sde_mean_and_std_as_written_in_the_paper(x, v, step, a):
    t, t_next, t_second = step
    # Flow-GRPO writes the step with a negative dt and the terms of x and v apart.
    dt, sigma = t_next - t, a * (t / (1 - t)).sqrt()
    mean = x * (1 + sigma**2 / (2 * t) * dt) + v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    transition = FlowSde(a=a).transition(x, v, t, t_next, t_second)
    close(transition.mean, mean)
    close(transition.std, sigma * (-dt).sqrt())


@given(tensors(LATENT), tensors(LATENT), steps(), st.floats(0, 1))
def test_cps_mean_and_std_as_written_in_the_paper(x, v, step, eta):
    t, t_next, t_second = step
    x0, x1, angle = x - t * v, x + (1 - t) * v, eta * math.pi / 2
    transition = Cps(eta=eta).transition(x, v, t, t_next, t_second)
    close(transition.mean, (1 - t_next) * x0 + t_next * math.cos(angle) * x1)
    close(transition.std, t_next * math.sin(angle))


@given(tensors(LATENT), tensors(LATENT), steps(), st.sampled_from([FlowSde(a=0.0), DanceSde(a=0.0), Cps(eta=0.0)]))
def test_p29_without_noise_every_step_is_the_ode_step(x, v, step, dynamics):
    expected = Ode().transition(x, v, *step)
    close(expected.mean, x - (step[0] - step[1]) * v)
    transition = dynamics.transition(x, v, *step)
    assert transition.std.item() == expected.std.item() == 0
    if isinstance(dynamics, Cps):
        close(transition.mean, expected.mean)
    else:
        assert torch.equal(transition.mean, expected.mean)


@given(tensors(LATENT), tensors(LATENT), steps())
def test_p29_noise_vanishes_continuously(x, v, step):
    expected = Ode().transition(x, v, *step)
    for dynamics in (FlowSde(a=1e-5), DanceSde(a=1e-5), Cps(eta=1e-5)):
        transition = dynamics.transition(x, v, *step)
        close(transition.mean, expected.mean, atol=1e-6, rtol=1e-6)
        assert 0 < transition.std < 1e-4


@given(noisy(), tensors(LATENT), tensors(LATENT), steps())
def test_p30_std_does_not_depend_on_latent_or_velocity(dynamics, x, v, step):
    std = dynamics.transition(x, v, *step).std
    assert std == dynamics.transition(x + 1, v * -3, *step).std
    t, t_next, _ = step
    if isinstance(dynamics, FlowSde):
        close(std, dynamics.a * (t / (1 - t) * (t - t_next)).sqrt())
    if isinstance(dynamics, DanceSde):
        close(std, dynamics.a * (t - t_next).sqrt())


@given(sdes(), tensors(LATENT), tensors(LATENT), tensors(LATENT), steps())
def test_p31_mean_is_affine_in_the_velocity_with_the_slope_of_the_paper(dynamics, x, v, dv, step):
    t, t_next, t_second = step
    sigma = dynamics.sigma(t, t_second)
    slope = -(1 + sigma**2 * (1 - t) / (2 * t)) * (t - t_next)
    moved, still = (dynamics.transition(x, u, *step).mean for u in (v + dv, v))
    close(moved - still, slope * dv, atol=1e-9, rtol=1e-7)


@given(st.sampled_from(["mean", "sum"]).flatmap(sdes), tensors(LATENT), tensors(LATENT), tensors(LATENT), steps())
def test_p32_log_prob_is_that_of_torch_distributions(dynamics, x, v, x_next, step):
    transition = dynamics.transition(x, v, *step)
    elementwise = Normal(transition.mean, transition.std).log_prob(x_next)
    expected = elementwise.sum((1, 2)) if dynamics.reduction == "sum" else elementwise.mean((1, 2))
    close(dynamics.log_prob(x_next, transition), expected)


@given(noisy(), tensors(LATENT), tensors(LATENT), spread(LATENT), steps())
def test_p32_log_prob_is_largest_at_the_mean(dynamics, x, v, offset, step):
    transition = dynamics.transition(x, v, *step)
    best = dynamics.log_prob(transition.mean, transition)
    assert (dynamics.log_prob(transition.mean + offset, transition) < best).all()


@given(st.sampled_from([FlowSde, DanceSde, Cps]), tensors(LATENT), tensors(LATENT), tensors(LATENT), steps())
def test_p32_mean_reduced_is_summed_over_the_number_of_elements(cls, x, v, x_next, step):
    transition = cls().transition(x, v, *step)
    mean, total = (cls(reduction=r).log_prob(x_next, transition) for r in ("mean", "sum"))
    close(mean * 8, total)


@given(tensors(LATENT), tensors(LATENT), tensors(LATENT), steps())
def test_cps_log_prob_is_a_squared_distance_without_variance(x, v, x_next, step):
    transition = Cps().transition(x, v, *step)
    expected = [-((row - mean) ** 2).mean().item() for row, mean in zip(x_next, transition.mean, strict=True)]
    assert Cps().log_prob(x_next, transition).tolist() == pytest.approx(expected)


@given(noisy(), spread(LATENT), spread(LATENT), spread(LATENT), steps(), st.booleans())
def test_p33_replay_of_a_stored_step_gives_the_bits_of_the_rollout(dynamics, x, v, noise, step, stored_in_bf16):
    x, v, noise = x.float(), v.float(), noise.float()
    rollout = dynamics.transition(x, v, *step)
    stored = rollout.sample(noise)
    if stored_in_bf16:
        stored = stored.bfloat16()
    old = dynamics.log_prob(stored, rollout)
    replayed = dynamics.log_prob(stored.clone(), dynamics.transition(x.clone(), v.clone(), *step))
    assert old.dtype == torch.float32
    assert torch.equal(old, replayed)


@given(noisy(), spread(LATENT), spread(LATENT), steps())
def test_one_time_for_all_rows_or_one_per_row_are_the_same(dynamics, x, v, step):
    shared = dynamics.transition(x, v, *step)
    apart = dynamics.transition(x, v, *(t.expand(3) for t in step))
    assert torch.equal(shared.mean, apart.mean)
    assert torch.equal(shared.std.expand(3), apart.std)
    assert torch.equal(dynamics.log_prob(x, shared), dynamics.log_prob(x, apart))
    assert torch.equal(shared.sample(v), apart.sample(v))


def gaussian_flow(t, m, s):
    """Mean and variance of x_t for data N(m, s^2), and the exact velocity's slope and intercept in x."""
    mean, var = (1 - t) * m, (1 - t) ** 2 * s**2 + t**2
    slope = (t - (1 - t) * s**2) / var
    return mean, var, slope, -m - slope * mean


def push(dynamics, mean, var, t, t_next, t_second, m, s):
    """Mean and variance after one step from N(mean, var) under the exact velocity."""
    _, _, slope, intercept = gaussian_flow(t, m, s)
    x = torch.stack((mean, mean + 1)).reshape(2, 1, 1)
    transition = dynamics.transition(x, slope * x + intercept, t, t_next, t_second)
    at_mean, at_mean_plus_1 = transition.mean.flatten()
    return at_mean, (at_mean_plus_1 - at_mean) ** 2 * var + transition.std**2


@pytest.mark.parametrize("dynamics", [FlowSde(a=0.8), FlowSde(a=1.3), DanceSde(a=0.5), Ode()], ids=repr)
@pytest.mark.parametrize("t", [0.3, 0.5, 0.8])
def test_p34_one_step_keeps_the_marginal_up_to_the_square_of_dt(dynamics, t):
    (m, s, start), errors = at(1.7, 0.6, t), []
    mean, var, *_ = gaussian_flow(start, m, s)
    for dt in (2e-3, 1e-3):
        end = start - dt
        pushed_mean, pushed_var = push(dynamics, mean, var, start, end, start, m, s)
        exact_mean, exact_var, *_ = gaussian_flow(end, m, s)
        close(pushed_mean, exact_mean)
        errors.append((pushed_var - exact_var).abs().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.03)


@given(steps(), st.floats(0.1, 1.0), st.floats(-2, 2))
def test_p34_cps_keeps_the_marginal_of_point_data_exactly(step, eta, point):
    m, s = at(point, 0.0)
    mean, var, *_ = gaussian_flow(step[0], m, s)
    pushed = push(Cps(eta=eta), mean, var, *step, m, s)
    close(pushed, gaussian_flow(step[1], m, s)[:2], atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("dynamics", [FlowSde(a=0.8), DanceSde(a=0.5)], ids=repr)
def test_p35_many_small_steps_approach_the_marginal_in_proportion_to_dt(dynamics):
    (m, s), errors = at(1.7, 0.6), []
    for n in (100, 200):
        times = torch.linspace(0.95, 0.05, n + 1, dtype=DOUBLE)
        mean, var, *_ = gaussian_flow(times[0], m, s)
        for t, t_next in pairwise(times):
            mean, var = push(dynamics, mean, var, t, t_next, times[1], m, s)
        exact_mean, exact_var, *_ = gaussian_flow(times[-1], m, s)
        close(mean, exact_mean)
        errors.append((var - exact_var).abs().item())
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


@given(st.integers(2, 30), st.floats(1, 5), sdes(), spread(LATENT), spread(LATENT), spread(LATENT))
def test_p37_the_whole_schedule_is_finite_from_pure_noise_to_the_image(n, shift, dynamics, x, v, noise):
    t = time_points(n, shift)
    for k in range(n):
        transition = dynamics.transition(x.float(), v.float(), t[k], t[k + 1], t[1])
        x_next = transition.sample(noise.float())
        assert x_next.isfinite().all()
        assert 0 < transition.std < math.inf
        assert dynamics.log_prob(x_next, transition).isfinite().all()


def test_p37_at_pure_noise_sigma_uses_the_schedules_second_point():
    t, t_next, t_second = at(1.0, 0.9, 0.75)
    sigma = FlowSde(a=0.8).sigma(t, t_second)
    assert sigma.item() == pytest.approx(0.8 * math.sqrt(1 / 0.25))
    later = FlowSde(a=0.8).sigma(t_next, t_second)
    assert later.item() == pytest.approx(0.8 * math.sqrt(0.9 / 0.1))


def test_p37_the_last_step_of_cps_and_every_ode_step_are_deterministic_and_have_no_log_prob():
    x = torch.ones(2, 3)
    step = at(0.2, 0.0, 0.9)
    for dynamics in (Cps(), Ode()):
        transition = dynamics.transition(x, x, *step)
        assert torch.equal(transition.sample(torch.full_like(x, 1e6)), transition.mean)
        with pytest.raises(ValueError, match="no log-probability"):
            dynamics.log_prob(x, transition)


def test_a_sampled_step_scored_with_gradients_on_is_data():
    """Without the detach the gradient of the sample cancels that of the mean and nothing is learnt."""
    x, v, noise = torch.zeros(2, 3), torch.ones(2, 3, requires_grad=True), torch.ones(2, 3)
    for dynamics in (FlowSde(), DanceSde(), Cps()):
        transition = dynamics.transition(x, v, *at(0.5, 0.4, 0.9))
        (grad,) = torch.autograd.grad(dynamics.log_prob(transition.sample(noise), transition).sum(), v)
        assert (grad < 0).all()  # x' lies above the mean, which falls with v


def test_p49_low_precision_latents_are_stepped_in_fp32():
    x, v = torch.rand(2, 3), torch.rand(2, 3)
    step = at(0.5, 0.4, 0.9)
    for dynamics in (FlowSde(), Cps(), Ode()):
        low = dynamics.transition(x.bfloat16(), v.bfloat16(), *step)
        full = dynamics.transition(x.bfloat16().double(), v.bfloat16().double(), *step)
        assert (low.mean.dtype, full.mean.dtype) == (torch.float32, torch.float64)
        close(low.mean.double(), full.mean, atol=1e-6, rtol=1e-6)


def test_p50_wrong_shapes_and_times_are_refused():
    x, step = torch.zeros(2, 3), at(0.5, 0.4, 0.9)
    for dynamics in (FlowSde(), Cps(), Ode()):
        with pytest.raises(ShapeError, match=r"x \[2, 3\], v \[2, 1\]"):
            dynamics.transition(x, torch.zeros(2, 1), *step)
        with pytest.raises(ShapeError, match=r"\[3\] for \[2, 3\]"):
            dynamics.transition(x, x, *(t.expand(3) for t in step))
        for t, t_next in ((0.4, 0.5), (0.4, 0.4), (1.1, 0.5), (0.4, -0.1)):
            with pytest.raises(ValueError, match="1 >= t > t_next >= 0"):
                dynamics.transition(x, x, *at(t, t_next, 0.9))
    with pytest.raises(TypeError, match="floating"):
        Ode().transition(x.long(), x, *step)
    with pytest.raises(ShapeError, match=r"x_next \[2\], mean \[2, 3\]"):
        FlowSde().log_prob(x[:, 0], FlowSde().transition(x, x, *step))
    with pytest.raises(ShapeError, match=r"noise \[2, 1\]"):
        Transition(x, torch.ones(())).sample(torch.ones(2, 1))


def test_p52_inputs_are_left_alone_and_their_strides_do_not_matter():
    x, v = torch.rand(3, 4).t(), torch.rand(1, 3).expand(4, 3)
    kept = x.clone(), v.clone()
    for dynamics in (FlowSde(), Cps(), Ode()):
        strided = dynamics.transition(x, v, *at(0.5, 0.4, 0.9))
        dense = dynamics.transition(x.contiguous(), v.contiguous(), *at(0.5, 0.4, 0.9))
        close(strided.mean, dense.mean)
    assert torch.equal(x, kept[0])
    assert torch.equal(v, kept[1])


@pytest.mark.parametrize(("cls", "field"), [(FlowSde, {"a": -0.1}), (DanceSde, {"a": -1.0}), (Cps, {"eta": 1.5})])
def test_impossible_noise_levels_are_refused(cls, field):
    with pytest.raises(ValueError, match=next(iter(field))):
        cls(**field)


def conflicts_of(dynamics, **slots):
    config = RunConfig.from_dict({"dynamics": dynamics, "sampler": {"steps": 8}, **slots})
    return list(config.dynamics.conflicts(config))


def test_dynamics_without_noise_are_refused_before_a_run():
    assert "dynamics=ode" in conflicts_of({"name": "flow_sde", "a": 0})[0]
    assert "dynamics=ode" in conflicts_of({"name": "cps", "eta": 0})[0]
    assert conflicts_of("flow_sde") == conflicts_of("dance_sde") == conflicts_of("cps") == []


def test_cps_is_refused_where_its_last_step_would_be_trained():
    (reason,) = conflicts_of("cps", window="all")
    assert "window=all trains it" in reason
    assert "high <= 7" in reason
    assert conflicts_of("cps", window="all", modalities="text_only") == []
    assert conflicts_of("cps", window={"name": "random_window", "low": 4, "high": 8}) != []
    assert conflicts_of("cps", window={"name": "random_window", "low": 4, "high": 7}) == []
