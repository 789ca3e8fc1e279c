"""Objectives and penalties of actions: what holds whichever strategies they are put together from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DOUBLE, masks, spread
from unigrpo.checks import ShapeError
from unigrpo.objective.aggregation import Constant, SequenceMean, TokenMean
from unigrpo.objective.image_ratio import Guard, RatioNorm, Raw
from unigrpo.objective.loss import (
    Surrogate,
    concat_actions,
    step_objective,
    step_penalty,
    token_objective,
    token_penalty,
)
from unigrpo.objective.regularizer import LatentKl, NoRegularizer, VelocityMse
from unigrpo.objective.text_kl import K1, K2, K3, NoTextKl
from unigrpo.objective.text_ratio import Sequence, Token
from unigrpo.objective.trust_region import PpoClip, Unclipped

B, L, LATENT = 4, 5, (4, 3, 2)
close = torch.testing.assert_close
NAN = float("nan")
ALL = torch.ones(B, dtype=torch.bool)
JUNK = st.sampled_from([NAN, float("inf"), -float("inf")])

token_strategies = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([Token(), Sequence()]),
        "trust_region": st.sampled_from([PpoClip(0.1, 0.3), Unclipped()]),
    }
)
aggregations = st.sampled_from([SequenceMean(), TokenMean(), Constant(length=7.0)])
step_strategies = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([Raw(), RatioNorm(), Guard()]),
        "trust_region": st.sampled_from([PpoClip(0.01, 0.02), Unclipped()]),
        "reduction": st.sampled_from(["mean", "sum"]),
    }
)
token_batches = st.fixed_dictionaries(
    {
        "log_prob": spread((B, L), 0.3),
        "old_log_prob": spread((B, L), 0.3),
        "advantage": spread((B, L)),
        "mask": masks(batch=B, length=L),
    }
)
step_batches = st.fixed_dictionaries(
    {
        "log_prob": spread((B,), 0.03),
        "old_log_prob": spread((B,), 0.03),
        "mean": spread(LATENT, 0.1),
        "old_mean": spread(LATENT, 0.1),
        "std": st.floats(0.1, 1.0).map(lambda s: torch.full((B,), s, dtype=DOUBLE)),
        "advantage": spread((B,)),
        "mask": masks(batch=B, length=1).map(lambda mask: mask[:, 0]),
        "weight": spread((B,)).map(torch.Tensor.exp),
    }
)
both_objectives = st.tuples(
    st.tuples(st.just(token_objective), token_batches, token_strategies),
    st.tuples(st.just(step_objective), step_batches, step_strategies),
)


def loss(objective, batch, chosen, aggregation=None):
    actions = objective(**batch, **chosen)
    return (aggregation or SequenceMean())(actions.values, actions.mask)


def loss_and_gradients(objective, batch, chosen, aggregation=None, wanted=("log_prob", "mean")):
    leaves = {name: batch[name].clone().requires_grad_() for name in wanted if name in batch}
    total = loss(objective, batch | leaves, chosen, aggregation)
    return total, torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)


def test_token_objective_by_hand():
    """Two rows of 2 and 1 tokens; ratios 2, 1 and 0.5, advantages 1, 3 and -1, clip 0.2."""
    ratio = torch.tensor([[2.0, 1.0], [0.5, NAN]], dtype=DOUBLE)
    actions = token_objective(
        log_prob=ratio.log(),
        old_log_prob=torch.zeros(2, 2, dtype=DOUBLE),
        advantage=torch.tensor([[1.0, 3.0], [-1.0, NAN]], dtype=DOUBLE),
        mask=~ratio.isnan(),
        ratio=Token(),
        trust_region=PpoClip(0.2, 0.2),
    )
    close(actions.values[actions.mask], -torch.tensor([1.2, 3.0, -0.8], dtype=DOUBLE))
    assert actions.clipped.tolist() == [[True, False], [True, False]]
    diagnostics = actions.diagnostics()
    assert diagnostics["ratio_mean"] == pytest.approx(3.5 / 3)
    assert diagnostics["ratio_std"] == pytest.approx((((2 - 3.5 / 3) ** 2 + (1 - 3.5 / 3) ** 2 + (4 / 9)) / 3) ** 0.5)
    assert diagnostics["clip_frac"] == pytest.approx(2 / 3)


def test_step_objective_by_hand():
    """Ratios 1.5 and 0.5, advantages 2 and 2, clip 0.1, gradient weights 0.5 and 1.5."""
    zeros = torch.zeros(2, 3, dtype=DOUBLE)
    actions = step_objective(
        log_prob=torch.tensor([1.5, 0.5], dtype=DOUBLE).log(),
        old_log_prob=zeros[:, 0],
        mean=zeros,
        old_mean=zeros,
        std=torch.tensor(0.3),
        advantage=torch.full((2,), 2.0, dtype=DOUBLE),
        mask=torch.tensor([True, True]),
        weight=torch.tensor([0.5, 1.5]),
        reduction="mean",
        ratio=Raw(),
        trust_region=PpoClip(0.1, 0.1),
    )
    close(actions.values, -torch.tensor([[0.5 * 1.1 * 2], [1.5 * 0.5 * 2]], dtype=DOUBLE))
    assert actions.clipped.tolist() == [[True], [False]]


def actions_of(log_ratio, clipped, mask):
    log_ratio = torch.tensor([log_ratio])
    return Surrogate(0 * log_ratio, torch.tensor([mask]), log_ratio, torch.tensor([clipped]))


def test_diagnostics_see_ratios_of_1_plus_1e_6_and_none_where_nothing_counts():
    actions = actions_of([1e-6, 3e-6, 5.0], [False, True, True], [True, True, False])
    diagnostics = actions.diagnostics()
    assert diagnostics["ratio_mean"] - 1 == pytest.approx(2e-6, rel=1e-4)
    assert diagnostics["ratio_std"] == pytest.approx(1e-6, rel=1e-4)
    assert diagnostics["clip_frac"] == 0.5
    assert actions.max_abs() == pytest.approx(3e-6)
    nothing = actions_of([NAN], [True], [False])
    assert (nothing.diagnostics(), nothing.max_abs()) == ({}, 0.0)


def test_segments_lie_side_by_side():
    first, second = actions_of([1.0, 2.0], [True, False], [True, True]), actions_of([-3.0], [False], [False])
    both = concat_actions([first, second])
    assert both.log_ratio.tolist() == [[1, 2, -3]]
    assert both.mask.tolist() == [[True, True, False]]
    assert both.clipped.tolist() == [[True, False, False]]
    assert both.values.shape == (1, 3)


def test_a_penalty_is_added_with_its_weight_action_by_action():
    actions = actions_of([1.0, 2.0], [True, False], [True, True])
    assert actions.with_penalty(torch.tensor([[3.0, 5.0]]), 0.5).values.tolist() == [[1.5, 2.5]]
    with pytest.raises(ShapeError, match=r"values \[1, 2\], penalty \[1, 1\]"):
        actions.with_penalty(torch.tensor([[3.0]]), 0.5)


@given(step_batches, step_strategies)
def test_p13_on_policy_the_step_loss_is_minus_the_mean_advantage(batch, chosen):
    batch |= {"old_log_prob": batch["log_prob"], "old_mean": batch["mean"], "weight": 1.0, "mask": ALL}
    close(loss(step_objective, batch, chosen), -batch["advantage"].mean())
    diagnostics = step_objective(**batch, **chosen).diagnostics()
    assert diagnostics == {"ratio_mean": 1.0, "ratio_std": 0.0, "clip_frac": 0.0}


@given(token_batches, token_strategies, aggregations)
def test_p13_on_policy_the_token_loss_is_minus_the_advantage_of_what_counts(batch, chosen, aggregation):
    batch |= {"old_log_prob": batch["log_prob"]}
    close(loss(token_objective, batch, chosen, aggregation), -aggregation(batch["advantage"], batch["mask"]))
    diagnostics = token_objective(**batch | {"mask": batch["mask"] | True}, **chosen).diagnostics()
    assert diagnostics == {"ratio_mean": 1.0, "ratio_std": 0.0, "clip_frac": 0.0}


@given(both_objectives)
def test_p14_on_policy_gradients_are_those_of_reinforce(both):
    (_, tokens, token_chosen), (_, steps, step_chosen) = both
    tokens |= {"old_log_prob": tokens["log_prob"], "mask": torch.ones(B, L, dtype=torch.bool)}
    _, (grad,) = loss_and_gradients(token_objective, tokens, token_chosen)
    share = tokens["advantage"]
    if isinstance(token_chosen["ratio"], Sequence):  # each token's log-probability is in the ratio of all
        share = share.mean(1, keepdim=True).expand(B, L)
    close(grad, -share / (B * L))
    steps |= {"old_log_prob": steps["log_prob"], "old_mean": steps["mean"], "weight": 1.0, "mask": ALL}
    _, (grad, through_mean) = loss_and_gradients(step_objective, steps, step_chosen)
    normalised = 1 if type(step_chosen["ratio"]) is Raw else steps["std"]
    close(grad, -steps["advantage"] / B * normalised)
    assert (through_mean == 0).all()


@given(both_objectives)
def test_p15_clipping_never_lowers_a_loss(both):
    for objective, batch, chosen in both:
        clipped, unclipped = (
            loss(objective, batch, chosen | {"trust_region": region}) for region in (PpoClip(), Unclipped())
        )
        assert clipped >= unclipped - 1e-12


@given(both_objectives, aggregations, st.permutations(range(B)))
def test_p19_rows_may_come_in_any_order_and_twice(both, aggregation, order):
    for objective, batch, chosen in both:
        expected = loss(objective, batch, chosen, aggregation)
        for rows in (order, [*order, *order]):
            close(loss(objective, {k: v[rows] for k, v in batch.items()}, chosen, aggregation), expected)


@given(both_objectives)
def test_p20_only_the_policy_gets_gradients(both):
    data = ["old_log_prob", "advantage", "old_mean"]
    for objective, batch, chosen in both:
        batch = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in batch.items()}
        loss(objective, batch, chosen).backward()
        assert batch["log_prob"].grad is not None
        assert all(batch[name].grad is None for name in data if name in batch)


@given(both_objectives, st.floats(0.1, 10))
def test_p21_losses_are_homogeneous_in_the_advantage(both, factor):
    for objective, batch, chosen in both:
        scaled = loss(objective, batch | {"advantage": factor * batch["advantage"]}, chosen)
        close(scaled, factor * loss(objective, batch, chosen))


@given(both_objectives)
def test_equal_rewards_give_no_gradient(both):
    """MATH 9.7: with all advantages 0 only the regularizers move the policy."""
    for objective, batch, chosen in both:
        _, gradients = loss_and_gradients(objective, batch | {"advantage": 0 * batch["advantage"]}, chosen)
        assert all((g == 0).all() for g in gradients)


@given(both_objectives, JUNK)
def test_p46_masked_actions_may_hold_anything(both, junk):
    for objective, batch, chosen in both:
        soiled = dict(batch)
        for name in ("log_prob", "old_log_prob", "mean", "old_mean", "advantage"):
            if name in batch:
                soiled[name] = batch[name].clone()
                soiled[name][~batch["mask"]] = junk
        (clean, clean_grads), (other, other_grads) = (loss_and_gradients(objective, b, chosen) for b in (batch, soiled))
        assert torch.equal(clean, other)
        for one, another in zip(clean_grads, other_grads, strict=True):
            assert torch.equal(one, another)
            assert (another[~batch["mask"]] == 0).all()
        (clean, other) = (objective(**b, **chosen) for b in (batch, soiled))
        assert torch.equal(clean.log_ratio[clean.mask], other.log_ratio[other.mask])
        assert clean.diagnostics() == other.diagnostics()


@given(token_batches, st.sampled_from([K1(), K2(), K3(), NoTextKl()]), JUNK)
def test_p46_masked_tokens_may_hold_anything_in_the_penalty(batch, kl, junk):
    def value_and_gradient(log_prob, ref):
        log_prob = log_prob.clone().requires_grad_()
        value = TokenMean()(token_penalty(log_prob, ref, batch["mask"], kl=kl), batch["mask"])
        return value, torch.autograd.grad(value + 0 * log_prob.nan_to_num().sum(), log_prob)[0]

    log_prob, ref, mask = batch["log_prob"], batch["old_log_prob"], batch["mask"]
    clean = value_and_gradient(log_prob, ref)
    soiled = value_and_gradient(log_prob.where(mask, junk), ref.where(mask, junk))
    close(clean[0].item(), float(kl(log_prob, ref)[mask].sum() / mask.sum().clamp(min=1)))
    assert torch.equal(clean[0], soiled[0])
    assert torch.equal(clean[1][mask], soiled[1][mask])
    assert (soiled[1][~mask] == 0).all()


@given(step_batches, st.sampled_from([NoRegularizer(), LatentKl(), VelocityMse(reduction="sum")]), JUNK)
def test_p46_masked_rows_may_hold_anything_in_the_penalty(batch, regularizer, junk):
    def values_and_gradients(mean, ref):
        leaves = [mean.clone().requires_grad_(), mean.clone().requires_grad_()]
        penalty = step_penalty(leaves[0], ref, leaves[1], ref, batch["std"], 0.1, mask, regularizer=regularizer)
        total = SequenceMean()(penalty, mask[:, None]) + 0 * sum(leaf.nan_to_num().sum() for leaf in leaves)
        return penalty[:, 0][mask], *torch.autograd.grad(total, leaves)

    mean, ref, mask = batch["mean"], batch["old_mean"], batch["mask"]
    clean = values_and_gradients(mean, ref)
    close(clean[0], regularizer(mean, ref, mean, ref, batch["std"], 0.1)[mask])
    soiled = (values.clone() for values in (mean, ref))
    soiled = [values.masked_fill_(~mask[:, None, None], junk) for values in soiled]
    for one, other in zip(clean, values_and_gradients(*soiled), strict=True):
        assert torch.equal(one, other)


@given(token_batches, token_strategies, aggregations, st.integers(1, 3))
def test_p48_more_padding_changes_nothing(batch, chosen, aggregation, more):
    wide = {
        name: torch.cat((batch[name], torch.full((B, more), junk, dtype=batch[name].dtype)), 1)
        for name, junk in (("log_prob", NAN), ("old_log_prob", NAN), ("advantage", NAN), ("mask", False))
    }
    close(loss(token_objective, batch | wide, chosen, aggregation), loss(token_objective, batch, chosen, aggregation))


@given(both_objectives)
def test_p49_half_precision_gives_an_fp32_loss_near_that_of_fp64(both):
    for objective, batch, chosen in both:
        chosen |= {"trust_region": Unclipped()}
        low = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
        exact = {k: v.double() if v.is_floating_point() else v for k, v in low.items()}
        found = loss(objective, low, chosen)
        assert found.dtype == torch.float32
        close(found.double(), loss(objective, exact, chosen), atol=1e-5, rtol=1e-5)


def test_p49_integer_advantages_and_mixed_dtypes_are_refused():
    x, mask = torch.zeros(B, L), torch.ones(B, L, dtype=torch.bool)
    for advantage in (torch.ones(B, L, dtype=torch.int64), torch.ones(B, L, dtype=DOUBLE)):
        with pytest.raises(TypeError, match=f"advantage {advantage.dtype}"):
            token_objective(x, x, advantage, mask, ratio=Token(), trust_region=PpoClip())


def test_p50_advantages_of_another_shape_raise_and_never_mix_samples():
    x, mask, column = torch.zeros(B, L), torch.ones(B, L, dtype=torch.bool), torch.zeros(B, 1)
    for advantage, shape in ((column, r"\[4, 1\]"), (torch.zeros(L), r"\[5\]"), (torch.zeros(B), r"\[4\]")):
        with pytest.raises(ShapeError, match=rf"log_ratio \[4, 5\], advantage {shape}"):
            token_objective(x, x, advantage, mask, ratio=Token(), trust_region=PpoClip())
    with pytest.raises(ShapeError, match=r"mask \[4, 5\], log_prob \[4, 5\], ref_log_prob \[4, 1\]"):
        token_penalty(x, column, mask, kl=K3())
    b, mean, one = torch.zeros(B), torch.zeros(LATENT), torch.ones(())
    chosen = {"reduction": "mean", "ratio": Raw(), "trust_region": PpoClip()}
    with pytest.raises(ShapeError, match=r"log_ratio \[4\], advantage \[4, 1\]"):
        step_objective(b, b, mean, mean, one, column, ALL, 1.0, **chosen)
    with pytest.raises(ShapeError, match=r"\[4, 1\] for \[4\]"):
        step_objective(b, b, mean, mean, one, b, ALL, column, **chosen)
    with pytest.raises(ShapeError, match=r"mask \[4\], rows \[1\]"):
        step_objective(b, b, mean[:1], mean, one, b, ALL, 1.0, **chosen)
    with pytest.raises(ShapeError, match=r"mask \[3\], rows \[4\]"):
        step_penalty(mean, mean, mean, mean, one, 0.1, ALL[:3], regularizer=VelocityMse())
    with pytest.raises(TypeError, match="boolean mask"):
        step_objective(b, b, mean, mean, one, b, ALL.float(), 1.0, **chosen)


@given(token_batches, token_strategies, aggregations, st.integers(1, B - 1))
def test_p51_micro_batches_add_up_to_the_batch(batch, chosen, aggregation, cut):
    whole, (whole_grad,) = loss_and_gradients(token_objective, batch, chosen, aggregation)
    parts = [{k: v[rows] for k, v in batch.items()} for rows in (slice(cut), slice(cut, None))]
    if isinstance(aggregation, TokenMean):
        shares = [part["mask"].sum() / batch["mask"].sum().clamp(min=1) for part in parts]
    else:
        shares = [cut / B, 1 - cut / B]
    done = [loss_and_gradients(token_objective, part, chosen, aggregation) for part in parts]
    close(sum(share * part for share, (part, _) in zip(shares, done, strict=True)), whole)
    close(torch.cat([share * g for share, (_, (g,)) in zip(shares, done, strict=True)]), whole_grad)


@given(step_batches, step_strategies, st.integers(1, B - 1))
def test_p51_micro_batches_of_pictures_add_up_to_the_batch(batch, chosen, cut):
    whole, whole_grads = loss_and_gradients(step_objective, batch, chosen)
    done = [
        (share, *loss_and_gradients(step_objective, {k: v[rows] for k, v in batch.items()}, chosen))
        for share, rows in ((cut / B, slice(cut)), (1 - cut / B, slice(cut, None)))
    ]
    close(sum(share * part for share, part, _ in done), whole)
    for k, whole_grad in enumerate(whole_grads):
        close(torch.cat([share * gradients[k] for share, _, gradients in done]), whole_grad)


@given(both_objectives)
def test_p52_strides_do_not_matter_and_inputs_are_left_alone(both):
    for objective, batch, chosen in both:
        strided = {k: v.repeat_interleave(2, -1)[..., ::2] for k, v in batch.items()}
        kept = {k: v.clone() for k, v in strided.items()}
        close(loss(objective, strided, chosen), loss(objective, batch, chosen))
        assert all(torch.equal(strided[k], kept[k]) for k in kept)


def test_p52_expanded_inputs_are_as_good_as_dense_ones():
    row = torch.linspace(-1, 1, L, dtype=DOUBLE)
    expanded = row.expand(B, L)
    mask = torch.ones(1, 1, dtype=torch.bool).expand(B, L)
    chosen = {"ratio": Sequence(), "trust_region": PpoClip()}
    advantage = torch.ones((), dtype=DOUBLE).expand(B, L)
    one, other = (
        token_objective(x, 0 * x, advantage, m, **chosen).values
        for x, m in ((expanded, mask), (expanded.contiguous(), mask.contiguous()))
    )
    close(one, other)
