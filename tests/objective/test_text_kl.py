"""KL estimators, by exact enumeration over a small categorical; d = log q - log p."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from tests.strategies import DOUBLE, spread, tensors
from unigrpo.checks import ShapeError
from unigrpo.objective.text_kl import K1, K2, K3, NoTextKl

VOCABULARY = (6,)
LOGITS = st.one_of(tensors(VOCABULARY), spread(VOCABULARY))
close = torch.testing.assert_close


def expected(estimator, logits, ref_logits):
    """E_p[estimate], the sampling distribution held fixed: what the mean over samples converges to."""
    log_p, log_q = logits.log_softmax(0), ref_logits.log_softmax(0)
    return (log_p.exp().detach() * estimator(log_p, log_q)).sum()


def kl(logits, ref_logits):
    return kl_divergence(Categorical(logits=logits), Categorical(logits=ref_logits))


def gradient(function, logits, ref_logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


@given(tensors((8,), -10, 0), tensors((8,), -10, 0))
def test_p23_k2_and_k3_are_never_negative_and_zero_where_equal(log_p, log_q):
    for estimator in (K2(), K3()):
        value = estimator(log_p, log_q)
        assert (value >= 0).all()
        assert torch.equal(estimator(log_p, log_p.clone()), torch.zeros_like(log_p))
        assert (value > 0)[(log_p - log_q).abs() > 1e-4].all()


@given(LOGITS, LOGITS)
def test_p24_k1_and_k3_are_unbiased(logits, ref_logits):
    for estimator in (K1(), K3()):
        close(expected(estimator, logits, ref_logits), kl(logits, ref_logits), atol=1e-12, rtol=1e-9)


@given(spread(VOCABULARY), spread(VOCABULARY))
def test_p24_k2_is_biased(logits, ref_logits):
    assume(kl(logits, ref_logits) > 0.1)
    assert (expected(K2(), logits, ref_logits) - kl(logits, ref_logits)).abs() > 1e-6


@given(LOGITS, LOGITS)
def test_p25_gradients_in_expectation(logits, ref_logits):
    """k1: none at all; k2: that of KL(p || q); k3: that of KL(q || p)."""

    def of(estimator):
        return gradient(lambda x: expected(estimator, x, ref_logits), logits, ref_logits)

    close(of(K1()), torch.zeros_like(logits), atol=1e-9, rtol=0)
    close(of(K2()), gradient(lambda x: kl(x, ref_logits), logits, ref_logits), atol=1e-9, rtol=1e-7)
    close(of(K3()), gradient(lambda x: kl(ref_logits, x), logits, ref_logits), atol=1e-9, rtol=1e-7)


@given(tensors((8,), -5, 0), tensors((8,), -5, 0))
def test_p26_k3_is_k2_up_to_third_order(log_p, log_q):
    d = log_q - log_p
    assert ((K3()(log_p, log_q) - K2()(log_p, log_q)).abs() <= d.abs() ** 3 * d.clamp(min=0).exp() / 6 + 1e-12).all()


@pytest.mark.parametrize("d", [1e-4, -1e-4, 1e-3, -1e-3])
def test_p27_k3_in_fp32_is_right_near_zero(d):
    value = K3()(torch.zeros(1), torch.tensor([d])).item()
    exact = K3()(torch.zeros(1, dtype=DOUBLE), torch.tensor([d]).double()).item()
    assert value == pytest.approx(exact, rel=0.01)


def test_p28_far_from_the_reference_k3_keeps_its_gradient():
    log_p = torch.tensor([-25.0], dtype=DOUBLE, requires_grad=True)
    (grad,) = torch.autograd.grad(K3()(log_p, torch.zeros(1, dtype=DOUBLE)).sum(), log_p)
    assert grad.item() == pytest.approx(1 - torch.tensor(25.0, dtype=DOUBLE).exp().item())


@given(tensors((3, 4), -5, 0), tensors((3, 4), -5, 0), st.floats(-3, 3))
def test_p18_a_constant_added_to_both_log_probs_changes_nothing(log_p, log_q, constant):
    for estimator in (K1(), K2(), K3()):
        close(estimator(log_p + constant, log_q + constant), estimator(log_p, log_q), atol=1e-9, rtol=1e-9)


def test_p20_no_gradient_into_the_reference():
    for estimator in (K1(), K2(), K3()):
        log_p, log_q = (torch.tensor([x], requires_grad=True) for x in (-1.0, -2.0))
        estimator(log_p, log_q).sum().backward()
        assert log_q.grad is None
        assert log_p.grad is not None


def test_no_kl_is_zero_and_has_no_weight():
    assert NoTextKl().weight == 0
    assert torch.equal(NoTextKl()(torch.ones(2, 3), torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("cls", [K1, K2, K3])
def test_p49_p50_dtypes_shapes_and_weights_are_checked(cls):
    low = cls()(torch.tensor([-1.0]).bfloat16(), torch.tensor([-2.0]).bfloat16())
    assert low.dtype == torch.float32
    with pytest.raises(TypeError, match=r"ref_log_prob torch.float64"):
        cls()(torch.zeros(2), torch.zeros(2, dtype=DOUBLE))
    with pytest.raises(ShapeError, match=r"log_prob \[2\], ref_log_prob \[2, 1\]"):
        cls()(torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="weight=-1"):
        cls(weight=-1.0)
