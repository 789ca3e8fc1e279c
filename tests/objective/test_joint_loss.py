"""One number of the actions of both policies: means of their own, or one mean over all actions."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DOUBLE, masks, spread
from unigrpo.objective.aggregation import Constant, SequenceMean, TokenMean, TrajectoryMean
from unigrpo.objective.loss import Surrogate, joint_loss
from unigrpo.objective.modalities import ImageOnly, Joint, TextOnly

B, L, M = 4, 5, 3
close = torch.testing.assert_close
NAN = float("nan")
APART = st.sampled_from([SequenceMean(), TokenMean(), Constant(length=7.0)])
ALL = st.sampled_from([SequenceMean(), TokenMean(), Constant(length=7.0), TrajectoryMean()])


def actions(length):
    return st.builds(
        lambda values, mask: Surrogate(values, mask, values, mask), spread((B, length)), masks(batch=B, length=length)
    )


def only(*values):
    values = torch.tensor([values], dtype=DOUBLE)
    mask = ~values.isnan()
    return Surrogate(values, mask, values, mask)


def test_trajectory_mean_by_hand():
    """Two episodes: two tokens and three steps; one token and no picture."""
    text = Surrogate(*map(torch.tensor, ([[1.0, 2.0], [5.0, NAN]], [[True, True], [True, False]], [[0.0]], [[True]])))
    image = Surrogate(*map(torch.tensor, ([[4.0, 6.0, 7.0], [NAN] * 3], [[True] * 3, [False] * 3], [[0.0]], [[True]])))
    text, image = (replace(part, log_ratio=part.values, clipped=part.mask) for part in (text, image))
    one_mean = joint_loss(Joint(), TrajectoryMean(), text=text, image=image)
    assert one_mean.item() == pytest.approx(((1 + 2 + 4 + 6 + 7) / 5 + 5) / 2)
    weighted = joint_loss(Joint(text=3.0, image=0.5), TrajectoryMean(), text=text, image=image)
    assert weighted.item() == pytest.approx((3 * 3 / 5 + 0.5 * 17 / 5 + 3 * 5) / 2)
    apart = joint_loss(Joint(), SequenceMean(), text=text, image=image)
    assert apart.item() == pytest.approx((1.5 + 5) / 2 + (17 / 3 + 0) / 2)


@given(actions(L), actions(M), APART, st.floats(0.1, 3))
def test_joint_loss_is_the_weighted_sum(text, image, aggregation, weight):
    texts, images = aggregation(text.values, text.mask), SequenceMean()(image.values, image.mask)
    for modalities in (Joint(text=1.0, image=weight), Joint(text=weight, image=1.0)):
        found = joint_loss(modalities, aggregation, text=text, image=image)
        close(found, modalities.text * texts + modalities.image * images)


@given(actions(L), actions(M), ALL)
def test_joint_with_a_weight_of_0_is_the_single_modality_gradient_for_gradient(text, image, aggregation):
    """MATH 9.7, with one parameter behind both policies."""
    parameter = torch.tensor(1.1, dtype=DOUBLE, requires_grad=True)

    def gradient(modalities, *, with_other):
        parts = {
            name: replace(part, values=parameter * part.values) if weight or with_other else None
            for name, part, weight in (("text", text, modalities.text), ("image", image, modalities.image))
        }
        found = joint_loss(modalities, aggregation, **parts)
        return found.detach(), torch.autograd.grad(found, parameter)[0]

    for zeroed, single in ((Joint(text=1.0, image=0.0), TextOnly()), (Joint(text=0.0, image=1.0), ImageOnly())):
        expected = gradient(single, with_other=False)
        for modalities in (zeroed, single):
            assert gradient(modalities, with_other=True) == expected


@pytest.mark.parametrize("aggregation", [SequenceMean(), TrajectoryMean()], ids=repr)
def test_a_modality_of_weight_0_is_left_out_even_if_its_loss_is_not_finite(aggregation):
    one, bad = only(1.0), only(float("inf"))
    assert joint_loss(TextOnly(), aggregation, text=one, image=bad).item() == 1
    assert joint_loss(Joint(text=0.0, image=2.0), aggregation, text=bad, image=one).item() == 2


@pytest.mark.parametrize("aggregation", [SequenceMean(), TrajectoryMean()], ids=repr)
def test_a_modality_without_actions_adds_nothing(aggregation):
    """Not an error: it happens that nobody of a minibatch painted."""
    text, masked = only(1.0, 2.0), only(NAN)
    assert joint_loss(Joint(), aggregation, text=text, image=None).item() == 1.5
    assert joint_loss(Joint(), aggregation, text=text, image=masked).item() == 1.5
    assert joint_loss(ImageOnly(), aggregation, text=text, image=None) is None
    assert joint_loss(Joint(), aggregation, text=None, image=None) is None


@given(actions(L), actions(M), ALL, st.permutations(range(B)))
def test_p19_episodes_may_come_in_any_order_and_twice(text, image, aggregation, order):
    expected = joint_loss(Joint(), aggregation, text=text, image=image)
    for rows in (order, [*order, *order]):
        shuffled = (
            Surrogate(part.values[rows], part.mask[rows], part.log_ratio[rows], part.clipped[rows])
            for part in (text, image)
        )
        close(joint_loss(Joint(), aggregation, **dict(zip(("text", "image"), shuffled, strict=True))), expected)


def test_impossible_weights_are_refused():
    for weights in ((-1.0, 1.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="not both 0"):
            Joint(*weights)
