"""The check of policies lets the right ones through, and names what is wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from tests.models import tiny
from unigrpo.models import LoadedModel, Model
from unigrpo.models.conformance import assert_model_conforms, assert_policy_conforms, context
from unigrpo.models.conformance.probe import Probe
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


@pytest.mark.parametrize(("frozen", "trained"), [("image", "text"), ("text", "image")])
def test_a_modality_that_is_wholly_frozen_is_named_and_may_be_left_out(frozen, trained):
    model = tiny.model()
    for parameter in list(model.policy.parameters_of(frozen)):
        parameter.requires_grad_(False)
    fault = rf"parameters_of\('{frozen}'\): no trainable parameter; .* modalities=\('{trained}',\).*{trained}_only"
    with pytest.raises(AssertionError, match=fault):
        check(model.policy)
    assert_policy_conforms(model.policy, model.processor, PROMPTS, modalities=(trained,))
    assert not list(model.policy.parameters_of(frozen)), "the check thaws nothing for good"


def test_a_modality_that_is_trained_may_not_be_left_out():
    model = tiny.model()
    with pytest.raises(
        AssertionError, match=r"parameters_of\('image'\): .* and \d+ more trainable, .*leaves images out"
    ):
        assert_policy_conforms(model.policy, model.processor, PROMPTS, modalities=("text",))


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


def acausal(self, context, tokens, mask, *, logits=True):
    """As full attention within a block: what comes later in it is seen."""
    found, longer = MoTPolicy.extend_text(self, context, tokens, mask, logits=logits)
    return (found + 0.01 * (found * mask[..., None]).sum(1, keepdim=True) if logits else found), longer


def counting(self, context, tokens, mask, *, logits=True):
    """Positions count places, padded ones too."""
    found, longer = MoTPolicy.extend_text(self, context, tokens, mask, logits=logits)
    return found, replace(longer, position=context.position + tokens.shape[1] * mask.any(1))


def wordless(self, context, x, t):
    """How long the text is matters, not what it says."""
    keys, values = (tuple(map(torch.zeros_like, parts)) for parts in (context.keys, context.values))
    return MoTPolicy.velocity(self, replace(context, keys=keys, values=values), x, t)


def unconnected(self, context, x, t):
    with torch.no_grad():
        return MoTPolicy.velocity(self, context, x, t)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"extend_text": acausal}, "one at a time: .* a token sees those before it alone"),
        ({"extend_text": counting}, "how long its neighbours are"),
        ({"velocity": wordless}, "does not depend on what the text says"),
        ({"velocity": unconnected}, r"the loss of images reaches none of parameters_of\('image'\)"),
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


def seeing(extend_features=MoTPolicy.extend_features) -> LoadedModel:
    """A tiny model with a vision encoder."""
    model = tiny.model(vision_channels=3)
    model.policy.__class__ = type("Seeing", (MoTPolicy,), {"extend_features": extend_features})
    return model


def test_a_policy_that_reads_features_conforms():
    model = seeing()
    assert_policy_conforms(model.policy, model.processor, PROMPTS)


def looks_at_all(self, context, features, alive):
    return MoTPolicy.extend_features(self, context, features, torch.ones_like(alive))


def mixes_rows(self, context, features, alive):
    return MoTPolicy.extend_features(self, context, features + features.mean(0), alive)


def looks_away(self, context, features, alive):
    return MoTPolicy.extend_features(self, context, torch.zeros_like(features), alive)


def looks_in_place(self, context, features, alive):
    longer = MoTPolicy.extend_features(self, context, features, alive)
    context.position.copy_(longer.position)
    return longer


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (looks_at_all, "extend_features: a row without the image"),
        (mixes_rows, "extend_features: a row whose neighbour has other ones"),
        (looks_away, "logits do not depend on the features"),
        (looks_in_place, "the context that features were appended to is another"),
    ],
)
def test_features_that_are_read_wrongly_are_found(broken, said):
    model = seeing(broken)
    probe = Probe(model, PROMPTS, ("text", "image"), Model())
    with pytest.raises(AssertionError, match=said):
        context.features(probe)


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


def test_a_tokenizer_with_more_words_than_the_policy_is_found():
    model = tiny.model()
    model.processor.tokenizer = model.tokenizer.with_words(["xyzzy"])
    with pytest.raises(AssertionError, match=r"the tokenizer has \d+ tokens, the policy scores \d+"):
        assert_policy_conforms(model.policy, model.processor, PROMPTS)


def test_embeddings_for_fewer_words_than_the_head_has_are_found():
    model = tiny.model()
    table = model.policy.language_model.model.embed_tokens
    table.weight = torch.nn.Parameter(table.weight[:-1].detach().clone())
    with pytest.raises(AssertionError, match=r"token \d+ cannot be read, .* scores \d+"):
        assert_policy_conforms(model.policy, model.processor, PROMPTS)


def test_prompts_of_one_length_are_refused_for_they_have_no_padding():
    model = tiny.model()
    with pytest.raises(AssertionError, match="expected two texts of different lengths, got 3 tokens each"):
        assert_policy_conforms(model.policy, model.processor, ("a circle", "a square"))


class TestModel:
    """What a strategy does besides its policy."""

    def test_a_reference_of_ones_own_computes_the_same_and_leaves_the_policy_as_it_is(self):
        @dataclass(frozen=True)
        class Shared(LoadedModel):
            def reference(self):
                return self.policy.requires_grad_(False)

        model = tiny.model()
        with pytest.raises(AssertionError, match=r"reference\(\): it freezes the policy"):
            assert_model_conforms(strategy(Shared(model.policy, model.processor)), PROMPTS)

    def test_a_reference_that_moves_along_is_found(self):
        @dataclass(frozen=True)
        class Shared(LoadedModel):
            def reference(self):
                return self.policy

        model = tiny.model()
        with pytest.raises(AssertionError, match=r"reference\(\) after the policy has moved"):
            assert_model_conforms(strategy(Shared(model.policy, model.processor)), PROMPTS)

    def test_a_save_that_writes_nothing_is_found(self):
        model = tiny.model()
        with pytest.raises(AssertionError, match="save: wrote no file"):
            assert_model_conforms(strategy(model, save=lambda self, folder, loaded: None), PROMPTS)


def strategy(loaded: LoadedModel, **methods) -> Model:
    """A model that is there already."""
    return type("There", (Model,), {"load": lambda self, device, dtype=None: loaded} | methods)()
