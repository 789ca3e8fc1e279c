import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import masks, spread
from unigrpo.checks import ShapeError
from unigrpo.objective.text_ratio import Sequence, Token

SHAPE = (3, 5)
RATIOS = st.sampled_from([Token(), Sequence()])
close = torch.testing.assert_close


@given(spread(SHAPE), spread(SHAPE), masks())
def test_token_ratio_is_the_difference_and_0_where_masked(log_prob, old, mask):
    value = Token()(log_prob, old, mask)
    assert torch.equal(value[mask], (log_prob - old)[mask])
    assert (value[~mask] == 0).all()


@given(spread(SHAPE), spread(SHAPE), masks())
def test_sequence_ratio_is_the_mean_over_a_rows_own_tokens(log_prob, old, mask):
    value = Sequence()(log_prob, old, mask)
    for row, (new, before, kept) in enumerate(zip(log_prob, old, mask, strict=True)):
        if kept.any():
            close(value[row][kept], (new - before)[kept].mean().expand(int(kept.sum())))
        assert (value[row][~kept] == 0).all()


@given(spread(SHAPE), masks(), RATIOS)
def test_p33_an_unchanged_policy_has_log_ratio_exactly_zero(log_prob, mask, ratio):
    assert torch.equal(ratio(log_prob, log_prob.clone(), mask), torch.zeros(SHAPE, dtype=log_prob.dtype))


@given(spread(SHAPE), spread(SHAPE), masks(), RATIOS, st.floats(-5, 5))
def test_p18_a_constant_added_to_both_log_probs_changes_nothing(log_prob, old, mask, ratio, constant):
    moved = ratio(log_prob + constant, old + constant, mask)
    close(moved, ratio(log_prob, old, mask), atol=1e-9, rtol=1e-9)


@given(spread(SHAPE), spread(SHAPE), masks(), RATIOS, st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_p46_masked_tokens_may_hold_anything(log_prob, old, mask, ratio, junk):
    def value_and_gradient(log_prob, old):
        log_prob = log_prob.clone().requires_grad_()
        value = ratio(log_prob, old, mask)
        return value, torch.autograd.grad(value.square().sum(), log_prob)[0]

    clean = value_and_gradient(log_prob, old)
    soiled = value_and_gradient(log_prob.where(mask, junk), old.where(mask, junk))
    assert torch.equal(clean[0], soiled[0])
    assert torch.equal(clean[1], soiled[1])
    assert (clean[1][~mask] == 0).all()


@pytest.mark.parametrize("ratio", [Token(), Sequence()])
def test_p20_no_gradient_into_the_old_policy(ratio):
    log_prob, old = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    ratio(log_prob, old, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    assert old.grad is None
    assert (log_prob.grad == 1).all()


@pytest.mark.parametrize("ratio", [Token(), Sequence()])
def test_p49_p50_dtypes_and_shapes_are_checked(ratio):
    mask = torch.ones(2, 3, dtype=torch.bool)
    low = ratio(torch.rand(2, 3).bfloat16(), torch.rand(2, 3).bfloat16(), mask)
    assert low.dtype == torch.float32
    with pytest.raises(TypeError, match=r"old_log_prob torch.float64"):
        ratio(torch.rand(2, 3), torch.rand(2, 3).double(), mask)
    with pytest.raises(TypeError, match="boolean mask"):
        ratio(torch.rand(2, 3), torch.rand(2, 3), mask.float())
    with pytest.raises(ShapeError, match=r"mask \[2, 3\], log_prob \[2, 3\], old_log_prob \[2, 1\]"):
        ratio(torch.rand(2, 3), torch.rand(2, 1), mask)
