import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import present, rewards, spread
from unigrpo.checks import ShapeError
from unigrpo.objective.advantage import GlobalStd, Group, MeanOnly, PerReward, zero_variance

ONE = torch.ones(1, dtype=torch.float64)
DDOFS = st.sampled_from([0, 1])
HALF_ROOT_3 = math.sqrt(3) / 2
close = torch.testing.assert_close


@st.composite
def strategies(draw, eps=1e-4):
    cls = draw(st.sampled_from([Group, MeanOnly, GlobalStd, PerReward]))
    return cls() if cls is MeanOnly else cls(ddof=draw(DDOFS), eps=eps)


def weights(r):
    return torch.linspace(1, 2, r.shape[2], dtype=r.dtype)


def of(strategy, r):
    return strategy(r, weights(r))


two_components = rewards(components=2)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Group(eps=0.0), [[-math.sqrt(1.5), 0, math.sqrt(1.5)], [math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)]]),
        (Group(ddof=1, eps=0.0), [[-1, 0, 1], [2 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]]),
        (MeanOnly(), [[-1, 0, 1], [2, -1, -1]]),
        (GlobalStd(eps=0.0), [[-HALF_ROOT_3, 0, HALF_ROOT_3], [2 * HALF_ROOT_3, -HALF_ROOT_3, -HALF_ROOT_3]]),
    ],
    ids=repr,
)
def test_closed_forms(strategy, expected):
    r = torch.tensor([[1.0, 2, 3], [4, 1, 1]], dtype=torch.float64)
    close(strategy(r[..., None], ONE), torch.tensor(expected, dtype=torch.float64))


def test_per_reward_by_hand():
    """Two rewards in one group; scales 1 and 10 count alike after normalisation."""
    r = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 10.0], [1.0, 10.0]]], dtype=torch.float64)
    advantage = PerReward(eps=0.0)(r, torch.tensor([1.0, 3.0], dtype=torch.float64))
    close(advantage, torch.tensor([[-4.0, -2.0, 2.0, 4.0]], dtype=torch.float64) / math.sqrt(10))


@given(strategies(), two_components)
def test_p01_every_group_sums_to_zero(strategy, r):
    advantage = of(strategy, r)
    close(advantage.sum(1), torch.zeros(r.shape[0], dtype=r.dtype), atol=1e-8, rtol=0)


@given(DDOFS, spread((3, 6, 1)))
def test_p01_a_group_that_varies_has_unit_std(ddof, r):
    std = Group(ddof=ddof, eps=0.0)(r, ONE).std(1, correction=ddof)
    close(std, torch.ones_like(std))


@given(DDOFS, spread((3, 6, 2)))
def test_p01_per_reward_whitens_the_batch(ddof, r):
    close(of(PerReward(ddof=ddof, eps=0.0), r).std(correction=ddof).item(), 1.0)


@given(strategies(), two_components, st.floats(-5, 5))
def test_p02_a_constant_added_to_rewards_changes_nothing(strategy, r, constant):
    moved = r + constant
    if torch.equal(zero_variance(moved, weights(r)), zero_variance(r, weights(r))):
        close(of(strategy, moved), of(strategy, r), atol=1e-9, rtol=1e-9)


@given(st.sampled_from([Group, GlobalStd, PerReward]), spread((3, 6, 2)), st.floats(0.1, 50))
def test_p03_without_eps_a_positive_scale_changes_nothing(cls, r, scale):
    close(of(cls(eps=0.0), scale * r), of(cls(eps=0.0), r))


@given(st.sampled_from([Group, GlobalStd]), spread((3, 6, 1)), st.floats(1.1, 50))
def test_p03_with_eps_advantages_grow_with_the_scale(cls, r, scale):
    grown, plain = (of(cls(eps=0.1), factor * r).abs() for factor in (scale, 1.0))
    assert (grown > plain).all()


@given(strategies(), two_components)
def test_p04_advantages_are_odd(strategy, r):
    close(of(strategy, -r), -of(strategy, r))


@given(strategies(), two_components, st.randoms(use_true_random=False))
def test_p05_members_and_groups_may_come_in_any_order(strategy, r, rng):
    members, groups = list(range(r.shape[1])), list(range(r.shape[0]))
    rng.shuffle(members)
    rng.shuffle(groups)
    close(of(strategy, r[groups][:, members]), of(strategy, r)[groups][:, members], atol=1e-9, rtol=1e-9)


@given(st.sampled_from([Group(), Group(ddof=1), MeanOnly()]), spread((4, 5, 2)), spread((1, 5, 2)))
def test_p06_a_group_does_not_feel_the_others(strategy, r, other):
    changed = torch.cat((r[:3], other))
    assert torch.equal(of(strategy, changed)[:3], of(strategy, r)[:3])


@given(st.sampled_from([GlobalStd(), PerReward()]), spread((4, 5, 2)))
def test_p06_with_a_std_of_the_batch_it_does(strategy, r):
    changed = torch.cat((r[:3], 100 * r[3:].sin()))
    if isinstance(strategy, PerReward):
        changed = torch.cat((r[:3], torch.zeros_like(r[3:])))
    assert not torch.allclose(of(strategy, changed)[:3], of(strategy, r)[:3], rtol=1e-3)


@given(rewards())
def test_p07_samuelson_bound(r):
    size = r.shape[1]
    assert Group(eps=0.0)(r, ONE).nan_to_num(0).abs().max() <= math.sqrt(size - 1) + 1e-6
    assert Group(ddof=1, eps=0.0)(r, ONE).nan_to_num(0).abs().max() <= (size - 1) / math.sqrt(size) + 1e-6


def test_p07_samuelson_bound_is_reached_by_one_winner():
    r = torch.tensor([[[1.0], [0.0], [0.0], [0.0]]], dtype=torch.float64)
    assert Group(eps=0.0)(r, ONE).max().item() == pytest.approx(math.sqrt(3))
    assert Group(ddof=1, eps=0.0)(r, ONE).max().item() == pytest.approx(3 / 2)


@given(strategies(), spread((2, 5, 2)), st.floats(-3, 3), st.sampled_from([torch.float32, torch.float64]))
def test_p08_a_group_of_equal_rewards_gets_exact_zeros(strategy, r, constant, dtype):
    r = torch.cat((r, torch.full((1, 5, 2), constant, dtype=torch.float64))).to(dtype)
    advantage = of(strategy, r)
    assert advantage.isfinite().all()
    assert advantage[2].tolist() == [0] * 5
    assert zero_variance(r, weights(r)).tolist() == [False, False, True]
    gather_rewards = r[2:].expand(3, 5, 2)
    assert torch.equal(of(strategy, gather_rewards), torch.zeros(3, 5, dtype=dtype))


def test_p08_equal_rewards_whose_mean_rounds_away_from_them():
    groups = [torch.full((1, size, 1), 0.1) for size in range(2, 40)]
    assert any((r.mean(1) != 0.1 * torch.ones(1, 1)).item() for r in groups)
    for r in groups:
        assert torch.equal(Group()(r, torch.ones(1)), torch.zeros(1, r.shape[1]))


@given(st.sampled_from([Group(), MeanOnly(), GlobalStd()]), rewards())
def test_p09_within_a_group_the_order_of_rewards_is_kept(strategy, r):
    advantage, total = strategy(r, ONE), r[..., 0]
    higher = total[:, :, None] > total[:, None, :]
    assert (advantage[:, :, None] - advantage[:, None, :])[higher].ge(0).all()


@given(spread((3, 4, 2)), spread((3, 4, 2)), st.floats(-3, 3))
def test_p10_mean_only_is_linear(r, other, factor):
    close(of(MeanOnly(), r + factor * other), of(MeanOnly(), r) + factor * of(MeanOnly(), other))


@pytest.mark.parametrize("strategy", [Group(), MeanOnly(), GlobalStd(), PerReward()], ids=repr)
def test_p11_a_group_of_one_is_refused(strategy):
    with pytest.raises(ValueError, match="2 or more"):
        strategy(torch.zeros(3, 1, 1), torch.ones(1))


@given(st.sampled_from([Group(), Group(ddof=1), MeanOnly()]), spread((6, 4, 2)), st.integers(1, 5))
def test_p12_groups_may_be_spread_over_ranks(strategy, r, cut):
    close(torch.cat((of(strategy, r[:cut]), of(strategy, r[cut:]))), of(strategy, r), atol=1e-12, rtol=1e-12)


@given(strategies(), spread((3, 4, 1)))
def test_components_count_by_their_weights(strategy, r):
    """A component of weight 0 does not matter; a reward split in two halves is the reward."""
    zero_weight = torch.tensor([1.0, 0.0], dtype=r.dtype)
    close(strategy(torch.cat((r, r.flip(1)), 2), zero_weight), strategy(r, ONE))
    halves = torch.tensor([0.5, 0.5], dtype=r.dtype)
    close(strategy(torch.cat((r, r), 2), halves), strategy(r, ONE))


def test_p49_half_precision_rewards_give_fp32_and_integers_are_refused():
    r = torch.rand(2, 4, 1)
    low = Group()(r.bfloat16(), torch.ones(1, dtype=torch.bfloat16))
    assert low.dtype == torch.float32
    close(low.double(), Group()(r.bfloat16().double(), ONE), atol=1e-5, rtol=1e-5)
    with pytest.raises(TypeError, match=r"rewards torch.int64"):
        Group()(r.long(), torch.ones(1))


@pytest.mark.parametrize("shapes", [((2, 4), (1,)), ((2, 4, 2), (1,)), ((2, 4, 1), (1, 1)), ((2, 4, 2), ())])
def test_p50_wrong_shapes_are_refused_by_name(shapes):
    for strategy in (Group(), PerReward()):
        with pytest.raises(ShapeError) as error:
            strategy(*map(torch.zeros, shapes))
        assert all(str(list(shape)) in str(error.value) for shape in shapes)


@given(strategies(), two_components)
def test_with_everybody_present_a_mask_changes_nothing(strategy, r):
    everybody = torch.ones(r.shape[:2], dtype=torch.bool)
    close(strategy(r, weights(r), everybody), of(strategy, r), atol=1e-9, rtol=1e-9)


@given(st.sampled_from([Group(), Group(ddof=1), MeanOnly()]), spread((3, 6, 2)), present((3, 6)))
def test_a_group_is_judged_as_if_only_those_present_existed(strategy, r, there):
    found = strategy(r, weights(r), there)
    for group, kept, advantage in zip(r, there, found, strict=True):
        expected = of(strategy, group[None, kept])[0] if kept.sum() > 1 else torch.zeros(int(kept.sum()))
        close(advantage[kept], expected.double(), atol=1e-9, rtol=1e-9)


@given(DDOFS, spread((3, 6, 2)), present((3, 6)))
def test_a_std_of_the_batch_is_that_of_all_present(ddof, r, there):
    centred = MeanOnly()(r, weights(r), there)
    total = (r * weights(r)).sum(-1)[there]
    if len(total) > 1:
        std = total.std(correction=ddof)
        close(GlobalStd(ddof=ddof)(r, weights(r), there), centred / (std + 1e-4), atol=1e-9, rtol=1e-9)
    each = sum(w * Group(ddof=ddof)(r[..., k, None], ONE, there) for k, w in enumerate(weights(r)))
    if len(total) > 1:
        std = each[there].std(correction=ddof)
        close(PerReward(ddof=ddof)(r, weights(r), there), each / (std + 1e-4), atol=1e-9, rtol=1e-9)


@given(strategies(), two_components.flatmap(lambda r: st.tuples(st.just(r), present(r.shape[:2]))))
def test_the_absent_count_for_nothing_and_get_exactly_0(strategy, case):
    r, there = case
    soiled = r.where(there[..., None], float("nan"))
    advantage = strategy(soiled, weights(r), there)
    assert torch.equal(advantage, strategy(r, weights(r), there))
    assert (advantage[~there] == 0).all()
    assert advantage.isfinite().all()
    assert (advantage[there.sum(1) < 2] == 0).all(), "nobody is better than himself"


@given(strategies(), spread((2, 5, 2)), st.floats(-3, 3), st.sampled_from([torch.float32, torch.float64]))
def test_p08_equal_rewards_of_those_present_get_exact_zeros(strategy, r, constant, dtype):
    r = torch.cat((r, torch.full((1, 5, 2), constant, dtype=torch.float64))).to(dtype)
    there = torch.tensor([[True] * 5, [True] * 5, [True, False, True, True, False]])
    r[2, 1] += 1
    assert strategy(r, weights(r), there)[2].tolist() == [0] * 5


@given(strategies(), spread((3, 6, 2)), present((3, 6)), st.permutations(range(6)))
def test_p05_those_present_may_come_in_any_order(strategy, r, there, order):
    close(
        strategy(r[:, order], weights(r), there[:, order]),
        strategy(r, weights(r), there)[:, order],
        atol=1e-9,
        rtol=1e-9,
    )


def test_a_mask_of_another_shape_or_dtype_is_refused():
    with pytest.raises(ShapeError, match=r"mask \[2, 3\], members \[2, 4\]"):
        Group()(torch.zeros(2, 4, 1), torch.ones(1), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match="boolean mask"):
        Group()(torch.zeros(2, 4, 1), torch.ones(1), torch.ones(2, 4))


@pytest.mark.parametrize("strategy", [Group(), MeanOnly(), GlobalStd(), PerReward()], ids=repr)
def test_p11_a_masked_group_of_one_gets_0(strategy):
    assert strategy(torch.ones(3, 1, 1), torch.ones(1), torch.ones(3, 1, dtype=torch.bool)).tolist() == [[0]] * 3
