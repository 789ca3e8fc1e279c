import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import masks, spread
from unigrpo.checks import ShapeError
from unigrpo.objective.aggregation import Constant, SequenceMean, TokenMean, TrajectoryMean

SHAPE = (3, 5)
ALL = [SequenceMean(), TokenMean(), Constant(length=7.0), TrajectoryMean()]
STRATEGIES = st.sampled_from(ALL)
close = torch.testing.assert_close


@given(spread(SHAPE), masks())
def test_closed_forms(values, mask):
    rows = [row[kept].tolist() for row, kept in zip(values, mask, strict=True)]
    tokens = [value for row in rows for value in row]
    means = [sum(row) / len(row) if row else 0 for row in rows]
    assert SequenceMean()(values, mask).item() == pytest.approx(sum(means) / 3)
    assert TokenMean()(values, mask).item() == pytest.approx(sum(tokens) / max(len(tokens), 1))
    assert Constant(length=7.0)(values, mask).item() == pytest.approx(sum(tokens) / 7 / 3)
    assert TrajectoryMean()(values, mask).item() == pytest.approx(sum(means) / 3)


def test_only_the_trajectory_mean_is_joint():
    assert [aggregation.joint for aggregation in ALL] == [False, False, False, True]


@given(spread(SHAPE), masks(), STRATEGIES, st.sampled_from([float("nan"), float("inf"), 1e30]))
def test_p46_masked_values_may_be_anything(values, mask, aggregation, junk):
    def value_and_gradient(values):
        values = values.clone().requires_grad_()
        total = aggregation(values, mask)
        return total, torch.autograd.grad(total, values)[0]

    clean, soiled = value_and_gradient(values), value_and_gradient(values.where(mask, junk))
    assert torch.equal(clean[0], soiled[0])
    assert torch.equal(clean[1], soiled[1])
    assert (clean[1][~mask] == 0).all()


@given(spread(SHAPE), st.integers(1, 5))
def test_p47_token_mean_is_sequence_mean_if_lengths_are_equal(values, length):
    mask = (torch.arange(5) < length).expand(SHAPE)
    close(TokenMean()(values, mask), SequenceMean()(values, mask))


def test_p47_and_not_otherwise():
    values = torch.tensor([[1.0, 1.0], [3.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert SequenceMean()(values, mask).item() == pytest.approx(2)
    assert TokenMean()(values, mask).item() == pytest.approx(5 / 3)


@pytest.mark.parametrize("aggregation", ALL, ids=repr)
def test_p47_rows_without_tokens_add_zero(aggregation):
    values = torch.full((2, 3), float("nan"))
    empty = torch.zeros(2, 3, dtype=torch.bool)
    assert aggregation(values, empty).item() == 0


@given(spread(SHAPE), masks(), STRATEGIES, st.integers(1, 4))
def test_p48_more_padding_changes_nothing(values, mask, aggregation, more):
    wider = torch.cat((values, torch.full((3, more), float("nan"), dtype=values.dtype)), 1)
    wider_mask = torch.cat((mask, torch.zeros(3, more, dtype=torch.bool)), 1)
    close(aggregation(wider, wider_mask), aggregation(values, mask), atol=1e-12, rtol=1e-12)


@given(spread(SHAPE), masks(), STRATEGIES)
def test_p19_a_doubled_batch_has_the_same_value(values, mask, aggregation):
    close(aggregation(values.repeat(2, 1), mask.repeat(2, 1)), aggregation(values, mask))


@pytest.mark.parametrize("aggregation", ALL, ids=repr)
def test_p49_p50_dtypes_and_shapes_are_checked(aggregation):
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert aggregation(torch.ones(2, 3).bfloat16(), mask).dtype == torch.float32
    with pytest.raises(TypeError, match="floating"):
        aggregation(mask, mask)
    with pytest.raises(ShapeError, match=r"mask \[2, 3\], values \[2, 1\]"):
        aggregation(torch.ones(2, 1), mask)


def test_a_length_below_or_at_0_is_refused():
    with pytest.raises(ValueError, match="length=0"):
        Constant(length=0.0)
