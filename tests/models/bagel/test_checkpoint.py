"""Weights to a device and back, the tokenizer's special tokens, and all that a run relies on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import tiny
from tests.models.bagel import published
from unigrpo.config import RunConfig
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.models import weights
from unigrpo.models.bagel import Bagel
from unigrpo.models.conformance import assert_model_conforms
from unigrpo.models.mot import Mot, checkpoint
from unigrpo.models.mot.policy import Connector
from unigrpo.rollout.trajectory import ImageSegment

CPU = torch.device("cpu")
PROMPTS = ("a red kite", "a kite")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("bagel"))


@pytest.fixture
def copy(folder, tmp_path):
    """One to be changed."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("vision", [True, False])
def test_it_conforms(folder, vision):
    assert_model_conforms(Bagel(str(folder), vision=vision), PROMPTS)


def test_the_system_prompt_conforms(folder, tmp_path):
    (tmp_path / "think.txt").write_text("think \nred")
    assert_model_conforms(Bagel(str(folder), vision=False, system_prompt=str(tmp_path / "think.txt")), PROMPTS)


def test_the_policy_has_one_dtype_that_of_its_embeddings_or_the_one_asked_for(tmp_path):
    folder = published.write(tmp_path, dtype=torch.bfloat16)
    read = load_file(folder / "ema.safetensors")
    tables = {name: weight.float() for name, weight in read.items() if name.endswith("pos_embed")}
    save_file(read | tables, folder / "ema.safetensors")
    low, high = (Bagel(str(folder)).load(CPU, dtype) for dtype in (None, torch.float32))
    assert {parameter.dtype for parameter in low.policy.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in high.policy.parameters()} == {torch.float32}
    asked = Bagel(str(folder), vision=False, dtype="float32").load(CPU).policy
    assert {parameter.dtype for parameter in asked.parameters()} == {torch.float32}
    encoders = (*low.processor.vision.parameters(), *low.autoencoder.parameters())
    assert {parameter.dtype for parameter in encoders} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in encoders)
    table = high.policy.connector.places.pos_embed
    assert torch.equal(table, tables["vit_pos_embed.pos_embed"])
    assert not table.requires_grad
    image = ImageSegment((), tiny.randn(1, *low.processor.latent_shape()), torch.tensor([True]))
    context = low.policy.extend_features(low.policy.start(1), low.processor.see(image), torch.tensor([True]))
    velocity = low.policy.velocity(context, tiny.randn(1, 4, 4, 4), torch.tensor(0.5))
    assert velocity.dtype == torch.float32
    assert velocity.isfinite().all()


def test_places_travel_exactly_in_any_dtype(folder):
    """4,899 is no number of bfloat16; the connector reads it in the dtype in which it came."""
    connector = Connector(2, 8, 70).to(torch.bfloat16)
    numbers = torch.tensor([4897.0, 4899.0])
    assert not torch.equal(numbers.to(torch.bfloat16).float(), numbers)
    tokens = connector(torch.cat((torch.zeros(1, 2, 2), numbers[None, :, None]), -1))
    plain = connector.fc2(connector.act(connector.fc1(torch.zeros(1, 2, 2, dtype=torch.bfloat16))))
    assert torch.equal(tokens, plain + connector.places.pos_embed[[4897, 4899]])


def test_tables_of_positions_that_a_folder_lacks_are_computed(folder, copy):
    read = load_file(copy / "ema.safetensors")
    whole = {name: weight for name, weight in read.items() if not name.endswith("pos_embed")}
    save_file(whole, copy / "ema.safetensors")
    policy = Bagel(str(copy)).load(CPU).policy
    assert policy.config.max_latent_size == 64
    torch.testing.assert_close(policy.latent_pos_embed.pos_embed, published.sines(64, 32), atol=1e-6, rtol=0)
    places = read["vit_pos_embed.pos_embed"]
    torch.testing.assert_close(policy.connector.places.pos_embed, places, atol=1e-6, rtol=0)


def test_what_is_loaded_is_not_the_files(copy):
    """The file may change while the run goes on."""
    policy = Bagel(str(copy)).load(CPU).policy
    before = policy.state_dict()["llm2vae.weight"].clone()
    content = (copy / "ema.safetensors").read_bytes()
    with (copy / "ema.safetensors").open("r+b") as file:
        file.write(bytes(len(content)))
    assert torch.equal(policy.llm2vae.weight, before)


@pytest.mark.parametrize("vision", [True, False])
def test_it_is_written_as_it_was_published_with_what_was_trained(folder, tmp_path, vision):
    """Without its vision encoder too, the folder stays whole."""
    strategy = Bagel(str(folder), vision=vision)
    model = strategy.load(CPU)
    with torch.no_grad():
        model.policy.llm2vae.bias.add_(1)
        model.policy.language_model.model.norm.weight.add_(1)
    strategy.save(tmp_path, model)
    before, after = load_file(folder / "ema.safetensors"), load_file(tmp_path / "ema.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"llm2vae.bias", "language_model.model.norm.weight"}
    again = Bagel(str(tmp_path)).load(CPU)
    assert torch.equal(again.policy.llm2vae.bias, model.policy.llm2vae.bias)
    assert again.tokenizer.words() == model.tokenizer.words()
    assert {path.name for path in folder.iterdir()} - {path.name for path in tmp_path.iterdir()} == {"config.json"}


def test_it_is_written_as_a_checkpoint_of_ours(folder, tmp_path):
    """Without its vision encoder: the same tokens, latents, velocities and pictures from ``model=mot``."""
    model = Bagel(str(folder), vision=False).load(CPU)
    checkpoint.save(tmp_path, model)
    again = Mot(str(tmp_path)).load(CPU)
    assert again.policy.config == model.policy.config
    (one,), (other,) = (m.processor.encode([Prompt("p", "a red kite")]) for m in (model, again))
    assert torch.equal(one.tokens, other.tokens)
    assert again.processor.ids == model.processor.ids
    x, t = tiny.randn(1, 4, 4, 4), torch.tensor(0.5)
    with torch.no_grad():
        mine, theirs = (m.policy.velocity(m.policy.start(1), x, t) for m in (model, again))
        assert torch.equal(mine, theirs)
        assert torch.equal(model.autoencoder.decode(x), again.autoencoder.decode(x))


def test_weights_are_written_one_by_one_as_safetensors_has_them(tmp_path):
    tensors = {
        "a": tiny.randn(3, 2),
        "b.c": tiny.randn(5).to(torch.bfloat16),
        "transposed": tiny.randn(4, 3).T,
        "one": torch.tensor(7),
        "none": torch.zeros(0, 4),
    }
    weights.write(tmp_path / "w.safetensors", tensors)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_special_tokens_are_the_tokenizers_by_role(folder):
    """Not those of llm_config.json, which says 3 and 4."""
    model = Bagel(str(folder)).load(CPU)
    names = {n: token for token, n in model.tokenizer.words().items()}
    ids, config = model.processor.ids, model.policy.config
    framing = [ids.bos, ids.eos, ids.pad, ids.image, config.end_of_image_id]
    assert [names[i] for i in framing] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|vision_start|>",
        "<|vision_end|>",
    ]
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (ids.bos, ids.eos, ids.pad)
    assert config.start_of_image_id == ids.image


def tokenizer_with(folder: Path, change) -> None:
    settings = json.loads((folder / "tokenizer.json").read_text())
    change(settings)
    (folder / "tokenizer.json").write_text(json.dumps(settings))


def test_a_tokenizer_without_the_special_tokens_is_refused(copy):
    tokenizer_with(copy, lambda s: s.update(added_tokens=s["added_tokens"][:3]))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: the tokenizer has no token <\|vision_start\|>"):
        Bagel(str(copy)).load(CPU)


def test_special_tokens_that_are_words_alone_are_refused(copy):
    """In the vocabulary, but not marked: a text that has them would be spelled byte by byte."""

    def demote(settings):
        for token in settings["added_tokens"]:
            settings["model"]["vocab"][token["content"]] = token["id"]
        settings["added_tokens"] = [t for t in settings["added_tokens"] if t["content"] != "<|im_end|>"]

    tokenizer_with(copy, demote)
    with pytest.raises(ConfigError, match=r"reads '<\|im_end\|>' as tokens \[.*\], expected the one token 262"):
        Bagel(str(copy)).load(CPU)


def test_a_tokenizer_of_a_larger_model_is_refused(copy):
    tokenizer_with(copy, lambda s: s["model"]["vocab"].update({f"word{n}": 300 + n for n in range(20)}))
    with pytest.raises(ConfigError, match=r"the tokenizer has 285 tokens, the policy 272; .* another model"):
        Bagel(str(copy)).load(CPU)


def test_a_missing_tokenizer_is_said(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="expected a tokenizer, but it cannot be read"):
        Bagel(str(copy)).load(CPU)


@pytest.mark.parametrize("said", ["", "think \nred"])
def test_a_text_is_a_turn_without_a_name_and_the_system_prompt_one_of_its_own(folder, tmp_path, said):
    (tmp_path / "think.txt").write_text(said)
    prompt = str(tmp_path / "think.txt") if said else ""
    processor = Bagel(str(folder), vision=False, system_prompt=prompt).load(CPU).processor
    inner, end = processor.tokenizer.inner, 262
    (request,) = processor.encode([Prompt("p", "a red kite")])
    assert request.tokens[0].tolist() == [*inner.encode("a red kite").ids, end]
    assert processor.ids.system == ((*inner.encode(said).ids, end) if said else ())
    assert processor.ids.prompt is None
    assert inner.decode(processor.ids.system) == said


def test_an_outline_is_all_of_it_without_a_weight(folder):
    model = Bagel(str(folder))
    outline, loaded = (make() for make in (lambda: model.outline(RunConfig(), CPU), lambda: model.load(CPU)))
    for mine, theirs in zip(outline.modules, loaded.modules, strict=True):
        assert all(weight.is_meta for weight in mine.parameters())
        shapes = ({name: (p.shape, p.dtype) for name, p in one.named_parameters()} for one in (mine, theirs))
        assert next(shapes) == next(shapes)
    assert outline.processor.device == CPU
