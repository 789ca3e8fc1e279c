import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import reals, spread, tensors
from unigrpo.checks import ShapeError
from unigrpo.compose import compose
from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Cfg, CfgFree

SHAPE = (3, 4, 2)
SCALES = st.floats(0, 10)
close = torch.testing.assert_close


@given(tensors(SHAPE), tensors(SHAPE), SCALES)
def test_p45_guidance_is_affine_in_its_scale_from_unconditional_to_conditional(cond, uncond, scale):
    assert torch.equal(Cfg(scale=0.0).combine(cond, uncond), uncond)
    close(Cfg(scale=1.0).combine(cond, uncond), cond)
    close(Cfg(scale=scale).combine(cond, uncond), (1 - scale) * uncond + scale * cond, atol=1e-9, rtol=1e-9)


@given(tensors(SHAPE), SCALES, st.booleans())
def test_p45_equal_velocities_make_the_scale_irrelevant(v, scale, renorm):
    close(Cfg(scale=scale, renorm=renorm).combine(v, v.clone()), v)


@given(st.floats(0, 1), reals(0.0, 1.0))
def test_p45_at_scale_1_no_step_asks_for_a_second_evaluation(t, low):
    assert not CfgFree().guides(t)
    assert not Cfg(scale=1.0, low=low * 0.9).guides(t)


@given(tensors(SHAPE), tensors(SHAPE))
def test_cfg_free_is_the_conditional_velocity_to_the_bit(cond, uncond):
    assert torch.equal(CfgFree().combine(cond, uncond), cond)


def test_the_interval_is_open_below_and_closed_above():
    guidance = Cfg(scale=3.0, low=0.4, high=0.8)
    assert [guidance.guides(t) for t in (0.39, 0.4, 0.41, 0.8, 0.81, 1.0)] == [False, False, True, True, False, False]
    assert all(Cfg(scale=3.0).guides(t) for t in (1e-6, 0.5, 1.0))


@given(spread(SHAPE), spread(SHAPE), SCALES)
def test_renorm_keeps_the_direction_and_never_exceeds_the_conditional_norm_of_each_image(cond, uncond, scale):
    plain = Cfg(scale=scale).combine(cond, uncond)
    renormed = Cfg(scale=scale, renorm=True).combine(cond, uncond)
    for before, after, target in zip(plain, renormed, cond, strict=True):
        close(after.norm(), torch.minimum(before.norm(), target.norm()), atol=1e-6, rtol=1e-6)
        close(after * before.norm(), before * after.norm(), atol=1e-5, rtol=1e-5)


def test_renorm_of_a_velocity_of_zeros_is_zero():
    zeros = torch.zeros(SHAPE)
    assert torch.equal(Cfg(scale=4.0, renorm=True).combine(zeros, zeros), zeros)


def test_p50_velocities_of_different_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"v_cond \[3, 4\], v_uncond \[3, 1\]"):
        Cfg().combine(torch.zeros(3, 4), torch.zeros(3, 1))


@pytest.mark.parametrize("fields", [{"scale": -1.0}, {"low": 0.5, "high": 0.5}, {"low": -0.1}, {"high": 1.1}])
def test_impossible_guidance_is_refused(fields):
    with pytest.raises(ValueError, match="expected scale >= 0"):
        Cfg(**fields)


def test_tokens_have_no_velocity_to_hold():
    config = compose(["recipe=interleaved_grpo", "guidance=cfg", "guidance.penalty=conditional"])
    with pytest.raises(ConfigError, match=r"guidance=cfg: penalty=conditional .* image_head=tokens .*penalty=guided"):
        config.check()
