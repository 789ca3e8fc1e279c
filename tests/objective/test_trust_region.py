import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.strategies import DOUBLE, spread, tensors
from unigrpo.checks import ShapeError
from unigrpo.objective.trust_region import PpoClip, Unclipped

N = (12,)
LOG_RATIOS = st.one_of(tensors(N, -10, 10), spread(N, 0.3))
ADVANTAGES = tensors(N)
BANDS = st.tuples(st.floats(1e-6, 0.9), st.floats(1e-6, 3.0)).map(lambda band: PpoClip(*band))
close = torch.testing.assert_close


def gradient(region, log_ratio, advantage):
    log_ratio = log_ratio.clone().requires_grad_()
    (grad,) = torch.autograd.grad(region(log_ratio, advantage).sum(), log_ratio)
    return grad


@given(LOG_RATIOS, ADVANTAGES, BANDS)
def test_objective_is_the_minimum_of_the_paper(log_ratio, advantage, region):
    ratio = log_ratio.exp()
    expected = torch.minimum(ratio * advantage, ratio.clamp(1 - region.low, 1 + region.high) * advantage)
    close(region(log_ratio, advantage), expected)


@given(ADVANTAGES, st.one_of(BANDS, st.just(Unclipped())))
def test_p13_on_policy_the_objective_is_the_advantage_and_nothing_is_clipped(advantage, region):
    zeros = torch.zeros(N, dtype=DOUBLE)
    assert torch.equal(region(zeros, advantage), advantage)
    assert not region.clipped(zeros, advantage).any()


@given(ADVANTAGES, st.one_of(BANDS, st.just(Unclipped())))
def test_p14_on_policy_the_gradient_is_that_of_reinforce_whatever_the_band(advantage, region):
    assert torch.equal(gradient(region, torch.zeros(N, dtype=DOUBLE), advantage), advantage)


@given(LOG_RATIOS, ADVANTAGES, BANDS)
def test_p15_clipping_is_pessimistic_everywhere(log_ratio, advantage, region):
    unclipped = Unclipped()(log_ratio, advantage)
    assert (region(log_ratio, advantage) <= unclipped + 1e-12 * unclipped.abs()).all()


@given(LOG_RATIOS, ADVANTAGES, BANDS)
def test_p16_no_gradient_exactly_beyond_the_bound_that_the_advantage_pushes_to(log_ratio, advantage, region):
    ratio = log_ratio.exp()
    away = (ratio - 1 - region.high).abs().minimum((ratio - 1 + region.low).abs()) > 1e-9
    assume(away.all())
    clipped = ((advantage > 0) & (ratio > 1 + region.high)) | ((advantage < 0) & (ratio < 1 - region.low))
    assert torch.equal(region.clipped(log_ratio, advantage), clipped)
    assert torch.equal(
        gradient(region, log_ratio, advantage), gradient(Unclipped(), log_ratio, advantage).where(~clipped, 0.0)
    )


@given(BANDS)
def test_p16_at_the_bound_itself_the_gradient_is_the_unclipped_one(region):
    bounds = torch.tensor([math.log1p(region.high), math.log1p(-region.low)], dtype=DOUBLE)
    advantage = torch.tensor([2.0, -2.0], dtype=DOUBLE)
    assert torch.equal(gradient(region, bounds, advantage), advantage * bounds.exp())
    assert not region.clipped(bounds, advantage).any()


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_p16_published_image_bands_are_told_apart_in_fp32(eps):
    log_ratio = torch.tensor([-1.01, -0.99, 0.99, 1.01]) * eps
    region = PpoClip(eps, eps)
    assert region.clipped(log_ratio, torch.ones(4)).tolist() == [False, False, False, True]
    assert region.clipped(log_ratio, -torch.ones(4)).tolist() == [True, False, False, False]
    assert (gradient(region, log_ratio, torch.ones(4)) == 0).tolist() == [False, False, False, True]
    assert (gradient(region, log_ratio, -torch.ones(4)) == 0).tolist() == [True, False, False, False]


@given(tensors(N, -2, 2), ADVANTAGES)
def test_p17_a_wide_band_is_no_band(log_ratio, advantage):
    wide = PpoClip(low=1 - 1e-9, high=1e9)
    assert torch.equal(wide(log_ratio, advantage), Unclipped()(log_ratio, advantage))


@given(LOG_RATIOS, ADVANTAGES, st.floats(0.01, 0.4), st.floats(0.0, 0.5))
def test_p17_the_objective_never_falls_as_the_band_widens(log_ratio, advantage, eps, more):
    narrow, wide = PpoClip(eps, eps), PpoClip(eps + more, eps + more)
    assert (narrow(log_ratio, advantage) <= wide(log_ratio, advantage) + 1e-12).all()


@given(LOG_RATIOS, ADVANTAGES, st.one_of(BANDS, st.just(Unclipped())), st.permutations(range(12)))
def test_p19_samples_may_come_in_any_order(log_ratio, advantage, region, order):
    assert torch.equal(region(log_ratio[order], advantage[order]), region(log_ratio, advantage)[order])


@pytest.mark.parametrize("region", [PpoClip(), Unclipped()])
def test_p20_no_gradient_into_the_advantage(region):
    log_ratio = torch.full(N, 0.1, requires_grad=True)
    advantage = torch.ones(N, requires_grad=True)
    region(log_ratio, advantage).sum().backward()
    assert advantage.grad is None
    assert (log_ratio.grad > 0).all()


@given(LOG_RATIOS, ADVANTAGES, BANDS, st.floats(0.01, 100))
def test_p21_the_objective_is_positively_homogeneous_in_the_advantage(log_ratio, advantage, region, factor):
    close(region(log_ratio, factor * advantage), factor * region(log_ratio, advantage))


@given(LOG_RATIOS, ADVANTAGES, st.floats(0.01, 0.9))
def test_p22_equal_bounds_are_the_symmetric_clip_and_each_bound_binds_one_sign(log_ratio, advantage, eps):
    symmetric = PpoClip(eps, eps)
    up, down = advantage.abs(), -advantage.abs()
    assert torch.equal(PpoClip(0.5, eps)(log_ratio, up), symmetric(log_ratio, up))
    assert torch.equal(PpoClip(eps, 2.0)(log_ratio, down), symmetric(log_ratio, down))


def test_p49_low_precision_is_raised_and_integers_and_mixtures_refused():
    log_ratio, advantage = torch.tensor([1e-3, -1e-3]).bfloat16(), torch.tensor([1.0, -1.0]).bfloat16()
    for region in (PpoClip(1e-4, 1e-4), Unclipped()):
        value = region(log_ratio, advantage)
        assert value.dtype == torch.float32
        close(value.double(), region(log_ratio.double(), advantage.double()), atol=1e-6, rtol=1e-6)
        with pytest.raises(TypeError, match=r"advantage torch.int64"):
            region(log_ratio, advantage.long())
        with pytest.raises(TypeError, match="one dtype"):
            region(log_ratio, advantage.double())


def test_p50_a_column_of_advantages_is_refused():
    for region in (PpoClip(), Unclipped()):
        with pytest.raises(ShapeError, match=r"log_ratio \[4\], advantage \[4, 1\]"):
            region(torch.zeros(4), torch.zeros(4, 1))


@pytest.mark.parametrize("band", [(0.0, 0.2), (1.0, 0.2), (0.2, 0.0), (0.2, -0.1)])
def test_impossible_bands_are_refused(band):
    with pytest.raises(ValueError, match="0 < low < 1 and high > 0"):
        PpoClip(*band)
