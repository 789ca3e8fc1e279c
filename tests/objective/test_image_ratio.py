import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DOUBLE, noisy, sdes, spread, steps
from unigrpo.checks import ShapeError
from unigrpo.config import RunConfig
from unigrpo.objective.image_ratio import Guard, RatioNorm, Raw

LATENT = (4, 3, 2)
D = 6
REDUCTIONS = ["mean", "sum"]
close = torch.testing.assert_close


def scored(dynamics, x, v, v_old, z, step):
    """What an image ratio is given, for steps drawn with noise ``z`` by the velocity ``v_old``."""
    old, new = dynamics.transition(x, v_old, *step), dynamics.transition(x, v, *step)
    x_next = old.sample(z)
    return dynamics.log_prob(x_next, new), dynamics.log_prob(x_next, old), new.mean, old.mean, new.std


@given(st.sampled_from(REDUCTIONS).flatmap(sdes), *[spread(LATENT)] * 4, steps())
def test_raw_is_the_papers_closed_form(dynamics, x, v, v_old, z, step):
    given_ = scored(dynamics, x, v, v_old, z, step)
    _, _, mean, old_mean, s = given_
    dmu = old_mean - mean
    total = -((dmu**2).sum((1, 2)) / (2 * s**2) + (z * dmu).sum((1, 2)) / s)
    expected = total / D if dynamics.reduction == "mean" else total
    close(Raw()(*given_, dynamics.reduction), expected, atol=1e-9, rtol=1e-7)


@given(st.sampled_from(REDUCTIONS).flatmap(sdes), *[spread(LATENT)] * 4, steps(), st.booleans())
def test_ratio_norm_is_the_noise_along_the_drift(dynamics, x, v, v_old, z, step, std_per_row):
    """``s (log r + ||dmu||^2 / (2 s^2 D)) = -(1/D) z . dmu``; without the 1/D for sums (MATH 9.3)."""
    log_prob, old_log_prob, mean, old_mean, std = scored(dynamics, x, v, v_old, z, step)
    std = std.expand(4) if std_per_row else std
    inner = (z * (old_mean - mean)).sum((1, 2))
    expected = -inner / D if dynamics.reduction == "mean" else -inner
    close(RatioNorm()(log_prob, old_log_prob, mean, old_mean, std, dynamics.reduction), expected, atol=1e-9, rtol=1e-7)


@given(st.sampled_from(REDUCTIONS).flatmap(sdes), *[spread(LATENT)] * 4, steps())
def test_ratio_norm_gradient_is_that_of_its_closed_form(dynamics, x, v, v_old, z, step):
    v = v.requires_grad_()
    given_ = scored(dynamics, x, v, v_old, z, step)
    (grad,) = torch.autograd.grad(RatioNorm()(*given_, dynamics.reduction).sum(), v, retain_graph=True)
    inner = (z * (given_[2] - given_[3].detach())).sum()
    (expected,) = torch.autograd.grad(inner / D if dynamics.reduction == "mean" else inner, v)
    close(grad, expected, atol=1e-9, rtol=1e-7)


def test_ratio_norm_takes_one_std_per_row():
    log_ratio, zeros, mean = torch.tensor([0.1, 0.2]), torch.zeros(2), torch.zeros(2, 3)
    value = RatioNorm()(log_ratio, zeros, mean, mean, torch.tensor([0.5, 2.0]), "mean")
    close(value, torch.tensor([0.05, 0.4]))


@given(noisy(), spread(LATENT), spread(LATENT), spread(LATENT), steps(), st.sampled_from([Raw(), RatioNorm(), Guard()]))
def test_p33_an_unchanged_policy_has_log_ratio_exactly_zero(dynamics, x, v, z, step, ratio):
    given_ = scored(dynamics, x.float(), v.float(), v.float(), z.float(), step)
    assert ratio(*given_, dynamics.reduction).tolist() == [0] * 4


def ratios_by_quadrature(reduction, delta):
    """Log-ratios at all nodes of a Gauss-Hermite rule for the noise, with the nodes' probabilities."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    z = torch.tensor(list(itertools.product(nodes, repeat=2)), dtype=DOUBLE)
    probability = torch.tensor([a * b for a, b in itertools.product(weights, repeat=2)], dtype=DOUBLE) / (2 * np.pi)
    std = torch.tensor(0.3, dtype=DOUBLE)
    old_mean = torch.zeros_like(z)
    mean = old_mean + std * torch.tensor(delta, dtype=DOUBLE)

    def log_prob(mean):
        density = torch.distributions.Normal(mean, std).log_prob(old_mean + std * z)
        return density.sum(1) if reduction == "sum" else density.mean(1)

    return (log_prob(mean), log_prob(old_mean), mean, old_mean, std, reduction), probability


@pytest.mark.parametrize("delta", [(0.4, -0.3), (1.0, 0.5)])
def test_p36_expected_ratio_is_1_summed_and_below_1_mean_reduced(delta):
    given_, probability = ratios_by_quadrature("sum", delta)
    assert (probability * Raw()(*given_).exp()).sum().item() == pytest.approx(1)
    given_, probability = ratios_by_quadrature("mean", delta)
    dims, squared = 2, sum(d * d for d in delta)
    expected = np.exp(-(1 - 1 / dims) * squared / (2 * dims))
    assert (probability * Raw()(*given_).exp()).sum().item() == pytest.approx(expected)
    assert expected < 0.97


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_p36_ratio_norm_is_centred_and_its_spread_is_that_of_the_drift(reduction):
    given_, probability = ratios_by_quadrature(reduction, (0.8, -0.3))
    value = RatioNorm()(*given_)
    assert (probability * value).sum().item() == pytest.approx(0, abs=1e-12)
    norm = (given_[2] - given_[3])[0].norm().item() / (2 if reduction == "mean" else 1)
    assert (probability * value**2).sum().sqrt().item() == pytest.approx(norm)


@given(spread((4,)), spread((4,)), st.floats(-5, 5))
def test_p18_a_constant_added_to_both_log_probs_changes_nothing(log_prob, old, constant):
    mean = torch.zeros(4, 2, dtype=DOUBLE)
    for ratio in (Raw(), RatioNorm()):
        moved = ratio(log_prob + constant, old + constant, mean, mean, torch.tensor(0.5), "mean")
        close(moved, ratio(log_prob, old, mean, mean, torch.tensor(0.5), "mean"), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("ratio", [Raw(), RatioNorm(), Guard()])
def test_p20_no_gradient_into_the_old_policy(ratio):
    log_prob, old = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    mean, old_mean = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    ratio(log_prob, old, mean, old_mean, torch.tensor(0.5), "mean").sum().backward()
    assert old.grad is None
    assert old_mean.grad is None
    assert log_prob.grad.abs().min() > 0
    if type(ratio) is not Raw:
        assert mean.grad.abs().min() > 0


def test_guard_weights_steps_by_1_over_dt_with_mean_1():
    dt = torch.tensor([0.1, 0.2, 0.4], dtype=DOUBLE)
    weights = Guard().step_weights(dt)
    close(weights * dt, torch.full_like(dt, (weights * dt)[0].item()))
    assert weights.mean().item() == pytest.approx(1)
    assert torch.equal(Raw().step_weights(dt), torch.ones_like(dt))
    assert torch.equal(RatioNorm().step_weights(dt), torch.ones_like(dt))


def test_p49_low_precision_is_raised_and_mixtures_refused():
    halves = [torch.rand(shape).bfloat16() for shape in ((2,), (2,), (2, 3), (2, 3))]
    std = torch.tensor(0.5)
    for ratio in (Raw(), RatioNorm()):
        value = ratio(*halves, std, "mean")
        assert value.dtype == torch.float32
        close(value.double(), ratio(*(h.double() for h in halves), std, "mean"), atol=1e-5, rtol=1e-5)
        with pytest.raises(TypeError, match=r"log_prob torch.int64"):
            ratio(halves[0].long(), *halves[1:], std, "mean")
        with pytest.raises(TypeError, match=r"old_log_prob torch.float64"):
            ratio(halves[0], halves[1].double(), *halves[2:], std, "mean")


def test_p50_wrong_shapes_are_refused():
    b, column, mean, std = torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, 3), torch.tensor(0.5)
    with pytest.raises(ShapeError, match=r"log_prob \[2\], old_log_prob \[2, 1\]"):
        Raw()(b, column, mean, mean, std, "mean")
    with pytest.raises(ShapeError, match=r"mean \[2, 3\], old_mean \[2, 1\]"):
        RatioNorm()(b, b, mean, column, std, "mean")
    with pytest.raises(ShapeError, match=r"log_ratio \[2\], drift \[3\]"):
        RatioNorm()(b, b, torch.zeros(3, 3), torch.zeros(3, 3), std, "mean")
    with pytest.raises(ShapeError, match=r"\[2, 1\] for \[2\]"):
        RatioNorm()(b, b, mean, mean, column, "mean")


def conflicts(**slots):
    config = RunConfig.from_dict(slots)
    return list(config.image_ratio.conflicts(config)) if hasattr(config.image_ratio, "conflicts") else []


def test_ratio_norm_needs_a_gaussian_density():
    assert conflicts(image_ratio="raw", dynamics="cps") == []
    for ratio in ("ratio_norm", "guard"):
        (reason,) = conflicts(image_ratio=ratio, dynamics="cps")
        assert "use image_ratio=raw" in reason
        assert conflicts(image_ratio=ratio, dynamics="cps", modalities="text_only") == []
