"""Matrices beside dense layers: the formula, their draws, the reference without them, and weights with them inside."""

from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from tests.models import tiny
from tests.models.composed import Composed
from tests.rollouts import roll, scores_of, spec
from unigrpo.errors import ConfigError
from unigrpo.models.adapters import Lora
from unigrpo.models.adapters.layers import Adapted, layers_of, merged, trained
from unigrpo.models.linear import Linear
from unigrpo.noise import seed_of
from unigrpo.rollout.rollout import replay

CPU = torch.device("cpu")
LORA = Lora(rank=3, alpha=6)
KEY = (5,)


def adapted(lora: Lora = LORA, random: bool = True, **changes) -> Adapted:
    """A tiny mixture of transformers with matrices, B random too."""
    found = lora.attach(tiny.model(**changes), KEY)
    assert isinstance(found, Adapted)
    if random:
        shake(found.policy)
    return found


def shake(policy, seed: int = 0, scale: float = 0.3) -> None:
    with torch.no_grad():
        for k, weight in enumerate(trained(policy).values()):
            weight.add_(scale * tiny.randn(*weight.shape, seed=100 * seed + k))


def answers(policy) -> list[torch.Tensor]:
    """Log-probabilities and steps of a rollout that is the same for all."""
    with torch.no_grad():
        return scores_of(replay(policy, spec(), WALK))


WALK = roll(tiny.model().policy, spec(), group=2)


def same(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


def test_a_layer_computes_eq_3_of_lora():
    policy = adapted().policy
    for layer in layers_of(policy).values():
        x = tiny.randn(2, 4, layer.in_features)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.shape == (3, layer.in_features)
        whole = layer.weight.double() + 6 / 3 * b.double() @ a.double()
        bias = None if layer.bias is None else layer.bias.double()
        expected = nn.functional.linear(x.double(), whole, bias)
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_only_the_matrices_are_trained_each_in_its_modality():
    policy = adapted().policy
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    text, image = ({names[id(p)] for p in policy.parameters_of(m)} for m in ("text", "image"))
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == text | image == {*trained(policy)}
    assert all(".lora_A." in name or ".lora_B." in name for name in text | image)
    assert not text & image
    assert any("lm_head" in name for name in text)
    assert any("mlp_moe_gen" in name for name in image)


def test_draws_are_those_of_peft_and_depend_on_the_key_and_the_name_alone():
    model, before = tiny.model(), torch.get_rng_state()
    policy = LORA.attach(model, KEY).policy
    assert torch.equal(torch.get_rng_state(), before), "the global stream is someone else's"
    for name, layer in layers_of(policy).items():
        assert not layer.lora_B["default"].weight.any()
        drawn = layer.lora_A["default"].weight.clone()
        torch.manual_seed(seed_of((*KEY, "adapter", name)))
        layer.reset_lora_parameters("default", True)
        assert torch.equal(layer.lora_A["default"].weight, drawn)
    fewer = adapted(Lora(rank=3, alpha=6, text_targets=("v_proj",)), random=False).policy
    shared = trained(fewer).keys() & trained(policy).keys()
    assert 0 < len(shared) < len(trained(policy))
    first = trained(adapted(random=False).policy)
    assert all(torch.equal(trained(fewer)[name], first[name]) for name in shared)
    other = trained(LORA.attach(tiny.model(), (6,)).policy)
    assert not any(torch.equal(other[name], first[name]) for name in shared if "lora_A" in name)


def test_the_start_is_the_model_and_the_reference_is_it_for_good():
    base = answers(tiny.model().policy)
    loaded = adapted(random=False)
    reference = loaded.reference()
    assert same(answers(loaded.policy), base)
    shake(loaded.policy)
    assert same(answers(reference), base)
    moved = answers(loaded.policy)
    assert not same(moved, base)
    answers(reference)
    assert same(answers(loaded.policy), moved), "asking it changes nothing"


def test_no_weight_is_there_twice():
    loaded = adapted()
    held = {weight.data_ptr() for weight in loaded.policy.parameters()}
    reference = loaded.reference()
    assert {w.data_ptr() for layer in reference._layers for w in layer.parameters()} <= held


def test_the_matrices_come_back_when_the_reference_fails():
    loaded = adapted()
    before, reference = answers(loaded.policy), loaded.reference()
    with pytest.raises((RuntimeError, IndexError)):
        reference.extend_text(reference.start(1), torch.full((1, 1), 10**6), torch.ones(1, 1, dtype=torch.bool))
    assert same(answers(loaded.policy), before)


def test_a_frozen_modality_stays_frozen_while_the_reference_is_asked():
    """The switch of peft would let its matrices want gradients again."""
    loaded = adapted()
    for parameter in loaded.policy.parameters_of("image"):
        parameter.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in loaded.policy.named_parameters()}
    answers(loaded.reference())
    assert {name: p.requires_grad for name, p in loaded.policy.named_parameters()} == wanted


def test_gradients_are_right_when_the_reference_is_asked_in_between():
    def gradients(asked: bool) -> list[torch.Tensor]:
        loaded = adapted()
        scores = scores_of(replay(loaded.policy, spec(), WALK))
        if asked:
            answers(loaded.reference())
        sum(score.square().sum() for score in scores).backward()
        return [weight.grad for weight in trained(loaded.policy).values()]

    alone = gradients(False)
    assert all(gradient is not None and gradient.any() for gradient in alone)
    assert same(gradients(True), alone)


@pytest.mark.parametrize(
    "name", ["train", "to", "load_state_dict", "requires_grad_", "parameters", "_modules", "vae2llm"]
)
def test_a_reference_cannot_change_the_policy(name):
    with pytest.raises(AttributeError, match=f"{name}: a reference only computes"):
        getattr(adapted().reference(), name)


def test_a_method_that_was_wrapped_is_switched_too():
    """As ``torch.compile`` wraps it."""
    loaded = adapted()
    own = loaded.policy.velocity
    loaded.policy.velocity = lambda *given: own(*given)
    assert same(answers(loaded.reference()), answers(tiny.model().policy))


def test_a_copy_of_a_reference_is_one():
    loaded = adapted()
    other = copy.deepcopy(loaded.reference())
    assert other.device == CPU
    assert same(answers(other), answers(tiny.model().policy))


def test_merged_weights_are_those_of_peft_and_go_again():
    loaded = adapted()
    policy, theirs = loaded.policy, copy.deepcopy(loaded.policy)
    for name, layer in layers_of(theirs).items():
        layer.merge()
        theirs.set_submodule(name, layer.get_base_layer())
    before, state = answers(policy), copy.deepcopy(policy.state_dict())
    names = [*tiny.model().policy.state_dict()]
    with merged(policy):
        assert [*policy.state_dict()] == names, "as if there had never been any matrices"
        assert not any(isinstance(part, LoraLayer) for part in policy.modules())
        for name, weight in theirs.state_dict().items():
            torch.testing.assert_close(policy.state_dict()[name], weight, rtol=0, atol=1e-6)
        for mine, expected in zip(answers(policy), before, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)
    assert same(answers(policy), before)
    assert all(torch.equal(policy.state_dict()[name], weight) for name, weight in state.items())
    with pytest.raises(ZeroDivisionError), merged(policy):
        _ = 1 / 0
    assert same(answers(policy), before)


def test_matrices_of_a_model_in_bf16_are_fp32_and_its_weights_stay_bf16():
    """A step of 1e-4 on a weight of .1 is nothing in bf16."""
    base = tiny.model()
    base.policy.to(torch.bfloat16)
    loaded = LORA.attach(base, KEY)
    assert {weight.dtype for weight in trained(loaded.policy).values()} == {torch.float32}
    with merged(loaded.policy):
        assert {weight.dtype for weight in loaded.policy.parameters()} == {torch.bfloat16}
    wide = tiny.model()
    wide.policy.to(torch.float64)
    assert {w.dtype for w in trained(LORA.attach(wide, KEY).policy).values()} == {torch.float64}


def test_their_products_take_one_kernel():
    for layer in layers_of(adapted().policy).values():
        assert type(layer.lora_A["default"]) is type(layer.lora_B["default"]) is Linear


def test_a_policy_that_sorts_by_what_it_saw_before_is_refused(monkeypatch):
    model = Composed().load(CPU)
    listed = {modality: [*model.policy.parameters_of(modality)] for modality in ("text", "image")}
    monkeypatch.setattr(type(model.policy), "parameters_of", lambda self, modality: listed[modality])
    with pytest.raises(ConfigError, match=r"ComposedPolicy\.parameters_of\('text'\): expected .*; wrong about lm\."):
        LORA.attach(model, KEY)


def test_a_model_without_a_dense_layer_to_train_is_refused():
    model = tiny.model()
    model.policy.requires_grad_(False)
    with pytest.raises(ConfigError, match="no dense layer that is trained; use adapter=full"):
        LORA.attach(model, KEY)


@pytest.mark.parametrize("values", [{"rank": 0}, {"alpha": 0}])
def test_sizes_below_1_are_refused(values):
    with pytest.raises(ValueError, match="at least 1"):
        Lora(**values)
