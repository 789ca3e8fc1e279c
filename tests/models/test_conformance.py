"""The check of policies lets the right ones through, and names what is wrong with the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import tiny
from unigrpo.models.conformance import assert_policy_conforms
from unigrpo.models.mot.policy import MoTPolicy

PROMPTS = ("a photo of a red circle", "a blue square")


def check(policy: MoTPolicy) -> None:
    assert_policy_conforms(policy, tiny.model().processor, PROMPTS)


def broken(**methods) -> MoTPolicy:
    """A tiny policy with some methods of another class."""
    policy = tiny.model().policy
    policy.__class__ = type("Broken", (MoTPolicy,), methods)
    return policy


def test_the_shipped_architecture_conforms():
    model = tiny.model()
    before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
    assert_policy_conforms(model.policy, model.processor, PROMPTS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.policy.state_dict().items())
    assert not model.policy.training
    assert all(p.requires_grad for p in model.policy.parameters_of("text"))


def test_a_frozen_half_conforms():
    model = tiny.model()
    for parameter in list(model.policy.parameters_of("image")):
        parameter.requires_grad_(parameter.ndim > 1)
    check(model.policy)


def in_place(self, context, tokens, mask, *, logits=True):
    found, longer = MoTPolicy.extend_text(self, context, tokens, mask, logits=logits)
    context.position.copy_(longer.position)
    return found, longer


def leaky(self, context, tokens, mask, *, logits=True):
    return MoTPolicy.extend_text(self, context, tokens, torch.ones_like(mask), logits=logits)


def forgetful(self, context, latents, alive):
    return MoTPolicy.extend_image(self, context, latents, torch.ones_like(alive))


def half(self, context, x, t):
    return MoTPolicy.velocity(self, context, x, t).half()


def timeless(self, context, x, t):
    return MoTPolicy.velocity(self, context, x, torch.full_like(t, 0.5))


def promptless(self, context, x, t):
    return MoTPolicy.velocity(self, self.start(context.batch), x, t)


def undecided(self, context, x, t):
    """Takes another kernel where a gradient is wanted, as torch.nn.Linear may."""
    found = MoTPolicy.velocity(self, context, x, t)
    return found * (1 + 1e-6) if self.llm2vae.weight.requires_grad and torch.is_grad_enabled() else found


def noisy(self, context, x, t):
    found = MoTPolicy.velocity(self, context, x, t)
    return found + 1e-3 * self.training


def overlapping(self, modality):
    yield from (p for p in self.parameters() if p.requires_grad)


def incomplete(self, modality):
    return (p for p in MoTPolicy.parameters_of(self, modality) if p is not self.language_model.lm_head.weight)


def always_logits(self, context, tokens, mask, *, logits=True):
    return MoTPolicy.extend_text(self, context, tokens, mask)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"extend_text": in_place}, "is another a.* build a new one|is another after"),
        ({"extend_text": leaky}, "masked tokens"),
        ({"extend_text": always_logits}, "extend_text without logits"),
        ({"extend_image": forgetful}, "a row without the image: .* that episode is over"),
        ({"velocity": half}, "velocity: its dtype"),
        ({"velocity": timeless}, "does not depend on the time"),
        ({"velocity": promptless}, "prompts have no effect"),
        ({"velocity": undecided}, "the ratio before the first update is then not 1"),
        ({"velocity": noisy}, "switch dropout off"),
        ({"parameters_of": overlapping}, "in text and in image; each modality has its own learning rate"),
        ({"parameters_of": incomplete}, "lm_head.weight in neither text nor image"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named_and_why_it_matters(methods, said):
    with pytest.raises(AssertionError, match=said):
        check(broken(**methods))


def test_a_context_that_loses_its_rows_is_found(monkeypatch):
    from unigrpo.models.mot.context import MoTContext

    swapped = MoTContext.repeat
    monkeypatch.setattr(
        MoTContext,
        "repeat",
        lambda self, times: swapped(self, times).rows(torch.arange(self.batch).repeat(times) * times),
    )
    with pytest.raises(AssertionError, match=r"repeat: rows 0, 1 -> 0, 0, 1, 1"):
        check(tiny.model().policy)


def test_weights_outside_of_the_state_are_found():
    class Hidden(MoTPolicy):
        def state_dict(self, *args, **kwargs):
            return {n: w for n, w in super().state_dict(*args, **kwargs).items() if n != "llm2vae.bias"}

        def load_state_dict(self, state_dict, **kwargs):
            return super().load_state_dict(state_dict, strict=False)

    policy = tiny.model().policy
    policy.__class__ = Hidden
    with pytest.raises(AssertionError, match=r"load_state_dict\(state_dict\(\)\): expected the same bits"):
        check(policy)


def test_a_tokenizer_of_another_model_is_found():
    model = tiny.model()
    model.processor._ids = replace(model.processor.ids, image=999)
    with pytest.raises(AssertionError, match=r"the tokenizer's ids .*999"):
        assert_policy_conforms(model.policy, model.processor, PROMPTS)
