"""A pipeline whose own text encoder thinks: one language model that writes the texts and reads them for the image."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from tests.models.pipelines import tiny
from unigrpo.compose import compose
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.pipelines import Diffusers
from unigrpo.models.pipelines.loading import assembled, own_language
from unigrpo.models.pipelines.rows import FAMILIES
from unigrpo.training.trainer import Trainer

pytestmark = pytest.mark.no_cover
THINKERS = ["Flux2KleinPipeline", "QwenImagePipeline"]
T = torch.tensor(0.6)


def thinking(name: str):
    pipe = copy.deepcopy(tiny.pipeline(name))
    model = Diffusers(path="given", language_model="own", **tiny.TOLD.get(name, {}))
    return assembled(model, pipe, FAMILIES[name], own_language(pipe, "the test's"))


def context_of(loaded):
    (text,) = loaded.processor.encode([Prompt("a", "a red cube"), Prompt("b", "two blue balls")])
    first = torch.full_like(text.tokens[:, :1], loaded.processor.ids.prompt)
    tokens, mask = torch.cat((first, text.tokens), 1), torch.cat((torch.ones_like(text.mask[:, :1]), text.mask), 1)
    return loaded.policy.extend_text(loaded.policy.start(2), tokens, mask, logits=False)[1]


def noise_of(loaded):
    shape = loaded.processor.latent_shape(tiny.SIDE, tiny.SIDE)
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", THINKERS)
def test_the_image_loss_reaches_the_thinker_where_the_context_lets_it(name):
    loaded = thinking(name)
    for live in (False, True):
        context = context_of(loaded)
        loaded.policy.zero_grad()
        loaded.policy.velocity(context if live else context.detach(), noise_of(loaded), T).square().sum().backward()
        found = [p.grad is not None and bool(p.grad.any()) for p in loaded.policy.parameters_of("text")]
        assert any(found) == live
        assert any(p.grad is not None and bool(p.grad.any()) for p in loaded.policy.parameters_of("image"))


def test_a_detached_context_passes_no_gradient_of_what_the_live_one_has_read():
    loaded = thinking("Flux2KleinPipeline")
    context = context_of(loaded)
    loaded.policy.velocity(context, noise_of(loaded), T)
    loaded.policy.velocity(context.detach(), noise_of(loaded), T).square().sum().backward()
    assert not any(p.grad is not None and bool(p.grad.any()) for p in loaded.policy.parameters_of("text"))


@pytest.mark.parametrize("name", THINKERS)
def test_a_reference_reads_with_an_encoder_of_its_own(name):
    loaded = thinking(name)
    reference = loaded.reference()
    x = noise_of(loaded)
    with torch.no_grad():
        before = reference.velocity(context_of(loaded), x, T)
        assert torch.equal(loaded.policy.velocity(context_of(loaded), x, T), before)
        for weight in loaded.policy.parameters_of("text"):
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        assert not torch.equal(loaded.policy.velocity(context_of(loaded), x, T), before)
        assert torch.equal(reference.velocity(context_of(loaded), x, T), before)
    assert reference.pipe.vae is loaded.policy.pipe.vae


def test_qwens_vision_language_model_writes_what_transformers_lets_it():
    model = tiny.pipeline("QwenImagePipeline").text_encoder
    language = CausalLM(copy.deepcopy(model), "the test's")
    language.thaw()
    tokens = torch.randint(0, 290, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[7], [5]])
    with torch.no_grad():
        found, _ = language.extend_text(language.start(2), tokens, mask)
        for row, length in enumerate((7, 5)):
            wanted = model(input_ids=tokens[row : row + 1, :length]).logits[0]
            torch.testing.assert_close(
                found[row, :length].log_softmax(-1), wanted.log_softmax(-1), atol=1e-5, rtol=1e-5
            )
    trained = {name for name, p in language.named_parameters() if p.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained), "no text needs eyes"


@pytest.mark.parametrize("context_grad", [False, True])
def test_an_update_of_both(context_grad, tmp_path):
    folder = tiny.saved("Flux2KleinPipeline", tmp_path / "klein")
    small = ["rollout.prompts=2", "rollout.group_size=2", "rollout.minibatches=1", "sampler.steps=4"]
    told = ["model.language_model=own", "model.text_layers=[1]", "model.max_sequence_length=48"]
    size = ["sampler.height=32", "sampler.width=32", f"optim.context_grad={context_grad}"]
    trainer = Trainer(compose(["recipe=unigrpo", "model=diffusers", f"model.path={folder}", *small, *told, *size]))
    spec = trainer.rollout_spec(0)
    (trajectory,) = trainer.rollout(0, spec)
    advantage = torch.tensor([[1.0], [-1.0], [0.5], [-0.5]]).expand(-1, len(trajectory.segments))
    found = trainer.train_step(trainer.prepare([trajectory], [advantage], 0, spec), spec)
    assert found["guard/text"] == 0
    assert found["guard/image"] == 0
    trainer.config.model.save(tmp_path / "left", trainer.model)
    assert sorted(path.name for path in (tmp_path / "left").iterdir()) == ["text_encoder", "transformer"]
    again = dataclasses.replace(trainer.config.model, trained=str(tmp_path / "left")).load(torch.device("cpu"))
    for name, weight in again.policy.state_dict().items():
        assert torch.equal(weight, trainer.policy.state_dict()[name])


def test_an_encoder_that_cannot_write_is_refused():
    with pytest.raises(ConfigError, match="CLIPTextModelWithProjection has no head that writes words"):
        own_language(tiny.pipeline("StableDiffusion3Pipeline"), "model.language_model='own'")
    config = compose(["recipe=unigrpo", "model=diffusers", "model.path=x", "optim.context_grad=true"])
    assert any("model.path" in fault for fault in config.conflicts())
