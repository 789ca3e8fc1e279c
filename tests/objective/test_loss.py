"""The assembled losses: what holds of a minibatch whichever strategies it is put together from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DOUBLE, masks, spread
from unigrpo.objective.aggregation import Constant, SequenceMean, TokenMean
from unigrpo.objective.image_ratio import Guard, RatioNorm, Raw
from unigrpo.objective.loss import Surrogate, image_objective, joint_loss, text_objective, text_penalty
from unigrpo.objective.modalities import ImageOnly, Joint, TextOnly
from unigrpo.objective.text_kl import K1, K2, K3, NoTextKl
from unigrpo.objective.text_ratio import Sequence, Token
from unigrpo.objective.trust_region import PpoClip, Unclipped
from unigrpo.tensors import ShapeError

B, L, LATENT = 4, 5, (4, 3, 2)
close = torch.testing.assert_close
NAN = float("nan")

text_strategies = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([Token(), Sequence()]),
        "trust_region": st.sampled_from([PpoClip(0.1, 0.3), Unclipped()]),
        "aggregation": st.sampled_from([SequenceMean(), TokenMean(), Constant(length=7.0)]),
    }
)
image_strategies = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([Raw(), RatioNorm(), Guard()]),
        "trust_region": st.sampled_from([PpoClip(0.01, 0.02), Unclipped()]),
        "reduction": st.sampled_from(["mean", "sum"]),
    }
)
text_batches = st.fixed_dictionaries(
    {
        "log_prob": spread((B, L), 0.3),
        "old_log_prob": spread((B, L), 0.3),
        "advantage": spread((B,)),
        "mask": masks(batch=B, length=L),
    }
)
image_batches = st.fixed_dictionaries(
    {
        "log_prob": spread((B,), 0.03),
        "old_log_prob": spread((B,), 0.03),
        "mean": spread(LATENT, 0.1),
        "old_mean": spread(LATENT, 0.1),
        "std": st.floats(0.1, 1.0).map(lambda s: torch.full((B,), s, dtype=DOUBLE)),
        "advantage": spread((B,)),
        "weight": spread((B,)).map(torch.Tensor.exp),
    }
)


def loss_and_gradients(objective, batch, strategies, wanted=("log_prob", "mean")):
    leaves = {name: batch[name].clone().requires_grad_() for name in wanted if name in batch}
    surrogate = objective(**batch | leaves, **strategies)
    gradients = torch.autograd.grad(surrogate.loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return surrogate, gradients


def test_text_objective_by_hand():
    """Two rows of 2 and 1 tokens; ratios 2, 1 and 0.5, advantages 1 and -1, clip 0.2."""
    ratio = torch.tensor([[2.0, 1.0], [0.5, NAN]], dtype=DOUBLE)
    surrogate = text_objective(
        log_prob=ratio.log(),
        old_log_prob=torch.zeros(2, 2, dtype=DOUBLE),
        advantage=torch.tensor([1.0, -1.0], dtype=DOUBLE),
        mask=~ratio.isnan(),
        ratio=Token(),
        trust_region=PpoClip(0.2, 0.2),
        aggregation=SequenceMean(),
    )
    assert surrogate.loss.item() == pytest.approx(-((1.2 + 1.0) / 2 - 0.8) / 2)
    diagnostics = surrogate.diagnostics()
    assert diagnostics["ratio_mean"] == pytest.approx(3.5 / 3)
    assert diagnostics["ratio_std"] == pytest.approx((((2 - 3.5 / 3) ** 2 + (1 - 3.5 / 3) ** 2 + (4 / 9)) / 3) ** 0.5)
    assert diagnostics["clip_frac"] == pytest.approx(2 / 3)


def test_image_objective_by_hand():
    """Ratios 1.5 and 0.5, advantages 2 and 2, clip 0.1, gradient weights 0.5 and 1.5."""
    zeros = torch.zeros(2, 3, dtype=DOUBLE)
    surrogate = image_objective(
        log_prob=torch.tensor([1.5, 0.5], dtype=DOUBLE).log(),
        old_log_prob=zeros[:, 0],
        mean=zeros,
        old_mean=zeros,
        std=torch.tensor(0.3),
        advantage=torch.full((2,), 2.0, dtype=DOUBLE),
        weight=torch.tensor([0.5, 1.5]),
        reduction="mean",
        ratio=Raw(),
        trust_region=PpoClip(0.1, 0.1),
    )
    assert surrogate.loss.item() == pytest.approx(-(0.5 * 1.1 * 2 + 1.5 * 0.5 * 2) / 2)
    assert surrogate.clipped.tolist() == [True, False]


def test_diagnostics_see_ratios_of_1_plus_1e_6_and_none_where_nothing_counts():
    log_ratio = torch.tensor([1e-6, 3e-6])
    diagnostics = Surrogate(torch.zeros(()), log_ratio, torch.tensor([False, True])).diagnostics()
    assert diagnostics["ratio_mean"] - 1 == pytest.approx(2e-6, rel=1e-4)
    assert diagnostics["ratio_std"] == pytest.approx(1e-6, rel=1e-4)
    assert diagnostics["clip_frac"] == 0.5
    assert Surrogate(torch.zeros(()), log_ratio[:0], log_ratio[:0].bool()).diagnostics() == {}


@given(image_batches, image_strategies)
def test_p13_on_policy_the_image_loss_is_minus_the_mean_advantage(batch, strategies):
    batch |= {"old_log_prob": batch["log_prob"], "old_mean": batch["mean"], "weight": 1.0}
    surrogate = image_objective(**batch, **strategies)
    close(surrogate.loss, -batch["advantage"].mean())
    assert surrogate.diagnostics() == {"ratio_mean": 1.0, "ratio_std": 0.0, "clip_frac": 0.0}


@given(text_batches, text_strategies)
def test_p13_on_policy_the_text_loss_is_minus_the_advantage_of_what_counts(batch, strategies):
    batch |= {"old_log_prob": batch["log_prob"], "mask": torch.ones(B, L, dtype=torch.bool)}
    surrogate = text_objective(**batch, **strategies)
    scale = L / 7 if isinstance(strategies["aggregation"], Constant) else 1
    close(surrogate.loss, -batch["advantage"].mean() * scale)
    assert surrogate.diagnostics() == {"ratio_mean": 1.0, "ratio_std": 0.0, "clip_frac": 0.0}


@given(text_batches, image_batches, text_strategies, image_strategies)
def test_p14_on_policy_gradients_are_those_of_reinforce(text, image, text_chosen, image_chosen):
    text |= {"old_log_prob": text["log_prob"], "mask": torch.ones(B, L, dtype=torch.bool)}
    text_chosen |= {"aggregation": SequenceMean()}
    _, (grad,) = loss_and_gradients(text_objective, text, text_chosen, ["log_prob"])
    close(grad, -text["advantage"][:, None].expand(B, L) / (B * L))
    image |= {"old_log_prob": image["log_prob"], "old_mean": image["mean"], "weight": 1.0}
    _, (grad, through_mean) = loss_and_gradients(image_objective, image, image_chosen)
    normalised = 1 if type(image_chosen["ratio"]) is Raw else image["std"]
    close(grad, -image["advantage"] / B * normalised)
    assert (through_mean == 0).all()


@given(text_batches, image_batches, text_strategies, image_strategies)
def test_p15_clipping_never_lowers_a_loss(text, image, text_chosen, image_chosen):
    for objective, batch, chosen in (
        (text_objective, text, text_chosen),
        (image_objective, image, image_chosen),
    ):
        clipped, unclipped = (
            objective(**batch, **chosen | {"trust_region": region}).loss for region in (PpoClip(), Unclipped())
        )
        assert clipped >= unclipped - 1e-12


@given(text_batches, text_strategies, st.permutations(range(B)))
def test_p19_rows_may_come_in_any_order_and_twice(batch, strategies, order):
    expected = text_objective(**batch, **strategies).loss
    for rows in (order, [*order, *order]):
        close(text_objective(**{k: v[rows] for k, v in batch.items()}, **strategies).loss, expected)


@given(image_batches, image_strategies, st.permutations(range(B)))
def test_p19_image_rows_may_come_in_any_order_and_twice(batch, strategies, order):
    expected = image_objective(**batch, **strategies).loss
    for rows in (order, [*order, *order]):
        close(image_objective(**{k: v[rows] for k, v in batch.items()}, **strategies).loss, expected)


@given(text_batches, image_batches, text_strategies, image_strategies)
def test_p20_only_the_policy_gets_gradients(text, image, text_chosen, image_chosen):
    data = ["old_log_prob", "advantage", "old_mean"]
    for objective, batch, chosen in ((text_objective, text, text_chosen), (image_objective, image, image_chosen)):
        batch = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in batch.items()}
        objective(**batch, **chosen).loss.backward()
        assert batch["log_prob"].grad is not None
        assert all(batch[name].grad is None for name in data if name in batch)


@given(text_batches, image_batches, text_strategies, image_strategies, st.floats(0.1, 10))
def test_p21_losses_are_homogeneous_in_the_advantage(text, image, text_chosen, image_chosen, factor):
    for objective, batch, chosen in ((text_objective, text, text_chosen), (image_objective, image, image_chosen)):
        scaled = objective(**batch | {"advantage": factor * batch["advantage"]}, **chosen).loss
        close(scaled, factor * objective(**batch, **chosen).loss)


@given(text_batches, text_strategies)
def test_equal_rewards_give_no_gradient(batch, strategies):
    """MATH 9.7: with all advantages 0 only the regularizers move the policy."""
    _, gradients = loss_and_gradients(text_objective, batch | {"advantage": torch.zeros(B, dtype=DOUBLE)}, strategies)
    assert all((g == 0).all() for g in gradients)


@given(text_batches, text_strategies, st.sampled_from([NAN, float("inf"), -float("inf")]))
def test_p46_masked_tokens_may_hold_anything(batch, strategies, junk):
    soiled = batch | {name: batch[name].where(batch["mask"], junk) for name in ("log_prob", "old_log_prob")}
    (clean, clean_grad), (other, other_grad) = (
        loss_and_gradients(text_objective, b, strategies) for b in (batch, soiled)
    )
    assert torch.equal(clean.loss, other.loss)
    assert torch.equal(clean_grad[0], other_grad[0])
    assert torch.equal(clean.log_ratio, other.log_ratio)


@given(text_batches, st.sampled_from([K1(), K2(), K3(), NoTextKl()]), st.sampled_from([NAN, float("inf")]))
def test_p46_masked_tokens_may_hold_anything_in_the_text_penalty(batch, kl, junk):
    def value_and_gradient(log_prob, ref):
        log_prob = log_prob.clone().requires_grad_()
        value = text_penalty(log_prob, ref, batch["mask"], kl=kl, aggregation=TokenMean())
        return value, torch.autograd.grad(value + 0 * log_prob.nan_to_num().sum(), log_prob)[0]

    log_prob, ref, mask = batch["log_prob"], batch["old_log_prob"], batch["mask"]
    clean = value_and_gradient(log_prob, ref)
    soiled = value_and_gradient(log_prob.where(mask, junk), ref.where(mask, junk))
    close(clean[0].item(), float(kl(log_prob, ref)[mask].sum() / mask.sum().clamp(min=1)))
    assert torch.equal(clean[0], soiled[0])
    assert torch.equal(clean[1][mask], soiled[1][mask])
    assert (soiled[1][~mask] == 0).all()


@given(text_batches, text_strategies, st.integers(1, 3))
def test_p48_more_padding_changes_nothing(batch, strategies, more):
    wide = {
        name: torch.cat((batch[name], torch.full((B, more), junk, dtype=batch[name].dtype)), 1)
        for name, junk in (("log_prob", NAN), ("old_log_prob", NAN), ("mask", False))
    }
    close(text_objective(**batch | wide, **strategies).loss, text_objective(**batch, **strategies).loss)


@given(text_batches, image_batches, text_strategies, image_strategies)
def test_p49_half_precision_gives_an_fp32_loss_near_that_of_fp64(text, image, text_chosen, image_chosen):
    text_chosen |= {"trust_region": Unclipped()}
    image_chosen |= {"trust_region": Unclipped()}
    for objective, batch, chosen in ((text_objective, text, text_chosen), (image_objective, image, image_chosen)):
        low = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
        exact = {k: v.double() if v.is_floating_point() else v for k, v in low.items()}
        loss = objective(**low, **chosen).loss
        assert loss.dtype == torch.float32
        close(loss.double(), objective(**exact, **chosen).loss, atol=1e-5, rtol=1e-5)


def test_p49_integer_advantages_and_mixed_dtypes_are_refused():
    chosen = {"ratio": Token(), "trust_region": PpoClip(), "aggregation": SequenceMean()}
    x, mask = torch.zeros(B, L), torch.ones(B, L, dtype=torch.bool)
    for advantage in (torch.ones(B, dtype=torch.int64), torch.ones(B, dtype=DOUBLE)):
        with pytest.raises(TypeError, match=f"advantage {advantage.dtype}"):
            text_objective(x, x, advantage, mask, **chosen)


def test_p50_a_column_of_advantages_raises_and_never_mixes_samples():
    chosen = {"ratio": Token(), "trust_region": PpoClip(), "aggregation": SequenceMean()}
    x, mask, column = torch.zeros(B, L), torch.ones(B, L, dtype=torch.bool), torch.zeros(B, 1)
    with pytest.raises(ShapeError, match=r"advantage \[4, 1\], rows \[4\]"):
        text_objective(x, x, column, mask, **chosen)
    with pytest.raises(ShapeError, match=r"advantage \[5\], rows \[4\]"):
        text_objective(x, x, torch.zeros(L), mask, **chosen)
    b, mean = torch.zeros(B), torch.zeros(LATENT)
    image = {"reduction": "mean", "ratio": Raw(), "trust_region": PpoClip()}
    with pytest.raises(ShapeError, match=r"log_ratio \[4\], advantage \[4, 1\]"):
        image_objective(b, b, mean, mean, torch.ones(()), column, 1.0, **image)
    with pytest.raises(ShapeError, match=r"\[4, 1\] for \[4\]"):
        image_objective(b, b, mean, mean, torch.ones(()), b, column, **image)
    with pytest.raises(ShapeError, match=r"mask \[4, 5\], log_prob \[4, 5\], ref_log_prob \[4, 1\]"):
        text_penalty(x, column, mask, kl=K3(), aggregation=TokenMean())


@given(text_batches, text_strategies, st.integers(1, B - 1))
def test_p51_micro_batches_add_up_to_the_batch(batch, strategies, cut):
    whole, (whole_grad,) = loss_and_gradients(text_objective, batch, strategies)
    parts = [{k: v[rows] for k, v in batch.items()} for rows in (slice(cut), slice(cut, None))]
    if isinstance(strategies["aggregation"], TokenMean):
        shares = [part["mask"].sum() / batch["mask"].sum().clamp(min=1) for part in parts]
    else:
        shares = [cut / B, 1 - cut / B]
    done = [loss_and_gradients(text_objective, part, strategies) for part in parts]
    close(sum(share * part.loss for share, (part, _) in zip(shares, done, strict=True)), whole.loss)
    close(torch.cat([share * g for share, (_, (g,)) in zip(shares, done, strict=True)]), whole_grad)


@given(image_batches, image_strategies, st.integers(1, B - 1))
def test_p51_image_micro_batches_add_up_to_the_batch(batch, strategies, cut):
    whole, whole_grads = loss_and_gradients(image_objective, batch, strategies)
    done = [
        (share, *loss_and_gradients(image_objective, {k: v[rows] for k, v in batch.items()}, strategies))
        for share, rows in ((cut / B, slice(cut)), (1 - cut / B, slice(cut, None)))
    ]
    close(sum(share * part.loss for share, part, _ in done), whole.loss)
    for k, whole_grad in enumerate(whole_grads):
        close(torch.cat([share * gradients[k] for share, _, gradients in done]), whole_grad)


@given(text_batches, image_batches, text_strategies, image_strategies)
def test_p52_strides_do_not_matter_and_inputs_are_left_alone(text, image, text_chosen, image_chosen):
    for objective, batch, chosen in ((text_objective, text, text_chosen), (image_objective, image, image_chosen)):
        strided = {k: v.repeat_interleave(2, -1)[..., ::2] for k, v in batch.items()}
        kept = {k: v.clone() for k, v in strided.items()}
        close(objective(**strided, **chosen).loss, objective(**batch, **chosen).loss)
        assert all(torch.equal(strided[k], kept[k]) for k in kept)


def test_p52_expanded_inputs_are_as_good_as_dense_ones():
    row = torch.linspace(-1, 1, L, dtype=DOUBLE)
    expanded = row.expand(B, L)
    mask = torch.ones(1, 1, dtype=torch.bool).expand(B, L)
    chosen = {"ratio": Sequence(), "trust_region": PpoClip(), "aggregation": TokenMean()}
    advantage = torch.ones((), dtype=DOUBLE).expand(B)
    one, other = (
        text_objective(x, 0 * x, advantage, m, **chosen).loss
        for x, m in ((expanded, mask), (expanded.contiguous(), mask.contiguous()))
    )
    close(one, other)


LOSSES = st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 3))


@given(LOSSES)
def test_joint_loss_is_the_weighted_sum(case):
    a, b, weight = case
    text, image = torch.tensor(a, dtype=DOUBLE), torch.tensor(b, dtype=DOUBLE)
    close(joint_loss(Joint(text=1.0, image=weight), text=text, image=image), text + weight * image)
    close(joint_loss(Joint(text=weight, image=1.0), text=text, image=image), weight * text + image)


@given(text_batches, image_batches, text_strategies, image_strategies)
def test_joint_with_a_weight_of_0_is_the_single_modality_gradient_for_gradient(text, image, text_chosen, image_chosen):
    """MATH 9.7, with one parameter behind both policies."""
    parameter = torch.tensor(1.1, dtype=DOUBLE, requires_grad=True)

    def gradient(modalities, *, with_other):
        text_loss = text_objective(**text | {"log_prob": parameter * text["log_prob"]}, **text_chosen).loss
        image_loss = image_objective(
            **image | {"log_prob": parameter * image["log_prob"], "mean": parameter * image["mean"]}, **image_chosen
        ).loss
        kept = {
            "text": text_loss if modalities.text or with_other else None,
            "image": image_loss if modalities.image or with_other else None,
        }
        loss = joint_loss(modalities, **kept)
        return loss.detach(), torch.autograd.grad(loss, parameter)[0]

    for zeroed, single in ((Joint(text=1.0, image=0.0), TextOnly()), (Joint(text=0.0, image=1.0), ImageOnly())):
        expected = gradient(single, with_other=False)
        for modalities in (zeroed, single):
            assert gradient(modalities, with_other=True) == expected


def test_a_modality_of_weight_0_is_left_out_even_if_its_loss_is_not_finite():
    one, nan = torch.tensor(1.0), torch.tensor(NAN)
    assert joint_loss(TextOnly(), text=one, image=nan).item() == 1
    assert joint_loss(Joint(text=0.0, image=2.0), text=nan, image=one).item() == 2


def test_a_missing_loss_and_impossible_weights_are_refused():
    with pytest.raises(ValueError, match="no image loss"):
        joint_loss(Joint(), text=torch.tensor(1.0), image=None)
    for weights in ((-1.0, 1.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="not both 0"):
            Joint(*weights)
