"""A model on disk: what is saved is what is loaded; what is damaged is named."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from tests.models import tiny
from unigrpo.checkpoints import AUTOENCODER, CONFIG, SHIPPED, WEIGHTS, digest
from unigrpo.data.dataset import SPLITS
from unigrpo.errors import ConfigError
from unigrpo.models.autoencoder import DiffusersAutoencoder
from unigrpo.models.mot import Mot, checkpoint
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.plain import build
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.judge import judge
from unigrpo.worlds.shapes.prompts import select
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.train_checkpoint import CheckpointRecipe


@pytest.fixture
def saved(tmp_path):
    model = tiny.model(prediction="data", latent_patch_size=2)
    checkpoint.save(tmp_path / "tiny", model)
    return model, tmp_path / "tiny"


def test_loaded_is_saved(saved):
    model, folder = saved
    loaded = checkpoint.load(str(folder))
    for mine, theirs in ((model.policy, loaded.policy), (model.autoencoder, loaded.autoencoder)):
        names, others = mine.state_dict(), theirs.state_dict()
        assert names.keys() == others.keys()
        assert all(torch.equal(names[name], others[name]) for name in names)
    assert loaded.policy.config.to_dict() == model.policy.config.to_dict()
    assert loaded.tokenizer.inner.get_vocab() == model.tokenizer.inner.get_vocab()
    assert not loaded.policy.training
    assert not any(parameter.requires_grad for parameter in loaded.autoencoder.parameters())
    x, painted = tiny.randn(1, *model.policy.latent_shape), []
    with torch.no_grad():
        for alive in (model, loaded):
            tokens, mask = alive.tokenizer.encode(["a photo of a red circle"])
            _, context = alive.policy.extend_text(alive.policy.start(1), tokens, mask)
            painted.append(alive.autoencoder.decode(alive.policy.velocity(context, x, torch.tensor(0.5))))
    assert torch.equal(*painted)


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    _, folder = saved
    checkpoint.save(tmp_path / "again", checkpoint.load(str(folder)))
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    assert digest(folder) == digest(tmp_path / "again")


def test_digest_follows_the_weights(saved, tmp_path):
    model, folder = saved
    before = digest(folder)
    with torch.no_grad():
        model.policy.llm2vae.bias[0] += 1
    checkpoint.save(folder, model)
    assert digest(folder) != before


def test_a_large_models_autoencoder_is_kept_in_diffusers_form(tmp_path):
    torch.manual_seed(0)
    from diffusers import AutoencoderKL  # slow, and every worker reads this file

    AutoencoderKL(block_out_channels=(4,), latent_channels=3, norm_num_groups=2).save_pretrained(tmp_path / "vae")
    model = tiny.model()
    large = MoTModel.of(model.policy, DiffusersAutoencoder(tmp_path / "vae").eval(), model.tokenizer)
    checkpoint.save(tmp_path / "large", large)
    loaded = checkpoint.load(str(tmp_path / "large"))
    picture = tiny.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.autoencoder.encode(picture), large.autoencoder.encode(picture))


@pytest.mark.parametrize("name", [WEIGHTS, AUTOENCODER])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_weights_are_named(saved, name, damage):
    _, folder = saved
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\xff" * 64, "empty": b""}[damage])
    with pytest.raises(ValueError, match=f"{name}: damaged or missing weights"):
        checkpoint.load(str(folder))


def test_missing_weights_are_named(saved):
    _, folder = saved
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"{WEIGHTS}: damaged or missing weights"):
        checkpoint.load(str(folder))


def test_weights_that_do_not_fit_the_configuration_are_named(saved):
    _, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"intermediate_size": 56}))
    with pytest.raises(ValueError, match=WEIGHTS):
        checkpoint.load(str(folder))


def test_unknown_checkpoint_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.checkpoint='nowhere': no such shipped checkpoint or folder"):
        checkpoint.load("nowhere")


def test_reference_is_a_frozen_copy(saved):
    model, _ = saved
    reference = model.reference()
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    with torch.no_grad():
        before = reference.llm2vae.bias.clone()
        model.policy.llm2vae.bias += 1
    assert torch.equal(reference.llm2vae.bias, before)
    assert all(parameter.requires_grad for parameter in model.policy.parameters_of("text"))


def test_loading_holds_the_weights_once(saved, monkeypatch):
    """No weight is made before those of the file are there, and none of them is cut out of the file's memory."""
    _, folder = saved
    made = []
    initial = torch.nn.init.normal_

    def noted(*tensor, **named):
        made.append((tensor[0] if tensor else named["tensor"]).device)
        return initial(*tensor, **named)

    monkeypatch.setattr(torch.nn.init, "normal_", noted)
    loaded = checkpoint.load(str(folder))
    assert {device.type for device in made} == {"meta"}
    weights = list(loaded.policy.parameters())
    assert all(w.untyped_storage().nbytes() == w.numel() * w.element_size() for w in weights)
    (folder / WEIGHTS).write_bytes(b"")
    assert all(weight.isfinite().all() for weight in weights)
    assert not loaded.policy.latent_pos_embed.pos_embed.requires_grad


def test_it_is_loaded_in_the_dtype_that_is_asked_for(saved):
    _, folder = saved
    loaded = Mot(str(folder)).load(torch.device("cpu"), torch.bfloat16)
    assert {weight.dtype for weight in loaded.policy.parameters()} == {torch.bfloat16}
    assert loaded.autoencoder.mean.dtype == torch.float32


def test_a_tokenizer_of_another_model_is_named(saved):
    _, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"eos_token_id": 7}))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: does not fit .*the model's eos is token 7, the"):
        Mot(str(folder)).load(torch.device("cpu"))


def test_an_unknown_key_of_the_configuration_is_named(saved):
    _, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(
        json.dumps(config | {"hiden_size": 7, "transformers_version": "5", "dtype": "float32"})
    )
    with pytest.raises(ConfigError, match="unknown key 'hiden_size'; did you mean 'hidden_size'"):
        Mot(str(folder)).load(torch.device("cpu"))


class TestNewWords:
    """A checkpoint that learns the words of a larger world."""

    def test_old_words_keep_their_ids_and_logits(self, saved):
        model, _ = saved
        larger = model.with_words(["circle", "zeppelin", "airship"], seed=3)
        old, new = model.tokenizer.words(), larger.tokenizer.words()
        assert new == old | {"zeppelin": len(old), "airship": len(old) + 1}
        assert larger.policy.config.vocab_size == len(new)
        tokens, mask = model.tokenizer.encode(["a photo of a red circle", "a blue square"])
        with torch.no_grad():
            mine, _ = model.policy.extend_text(model.policy.start(2), tokens, mask)
            theirs, _ = larger.policy.extend_text(larger.policy.start(2), tokens, mask)
        torch.testing.assert_close(theirs[..., : len(old)], mine, atol=1e-5, rtol=0)
        assert larger.tokenizer.decode(*larger.tokenizer.encode(["red zeppelin"])) == ["red zeppelin"]

    def test_new_words_are_drawn_from_the_seed_at_the_scale_of_the_old(self, saved):
        model, _ = saved
        words = [f"word{k}" for k in range(40)]
        one, same, other = (model.with_words(words, seed).policy.state_dict() for seed in (1, 1, 2))
        name = "language_model.model.embed_tokens.weight"
        fresh = one[name][-40:]
        assert torch.equal(one[name], same[name])
        assert not torch.equal(fresh, other[name][-40:])
        assert fresh.std() == pytest.approx(model.policy.state_dict()[name].std().item(), rel=0.1)

    def test_the_rest_of_the_model_stays_and_so_does_the_old_one(self, saved):
        model, _ = saved
        before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
        larger = model.with_words(["zeppelin"], seed=0)
        weights = larger.policy.state_dict()
        for name, weight in before.items():
            assert torch.equal(weights[name][: len(weight)] if weight.ndim else weights[name], weight), name
            assert torch.equal(model.policy.state_dict()[name], weight)
        assert larger.autoencoder is model.autoencoder

    def test_a_model_that_knows_them_all_is_itself(self, saved):
        model, _ = saved
        assert model.with_words(["circle", "red"], seed=0) is model

    def test_it_is_saved_and_loaded_like_any_other(self, saved, tmp_path):
        model, _ = saved
        larger = model.with_words(["zeppelin"], seed=0)
        checkpoint.save(tmp_path / "larger", larger)
        loaded = checkpoint.load(str(tmp_path / "larger"))
        assert loaded.tokenizer.words() == larger.tokenizer.words()
        assert loaded.policy.config.vocab_size == larger.policy.config.vocab_size


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}")))
class TestShipped:
    def test_it_is_small_and_is_what_its_recipe_says(self, name):
        folder = SHIPPED / name
        assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 2**20
        recipe = json.loads((folder / "recipe.json").read_text())
        assert recipe["sha256"] == digest(folder)
        assert 0.30 <= recipe["scores"]["geneval/strict"] <= 0.55
        assert build(CheckpointRecipe, recipe["recipe"]).steps > 0

    def test_it_speaks_the_language_of_its_world(self, name):
        loaded = checkpoint.load(name)
        assert loaded.policy.config.vocab_size == len(loaded.tokenizer)
        tasks = ("images",) if name == "tiny-shapes" else ("images", "stories", "edits")
        splits = [Shapes(task).prompts(split) for task in tasks for split in SPLITS]
        texts = [prompt.text for tags in splits for prompts in tags.values() for prompt in prompts][::31]
        assert loaded.tokenizer.decode(*loaded.tokenizer.encode(texts)) == texts

    def test_its_autoencoder_keeps_a_scene_right(self, name):
        """Encoded and decoded, clean pictures are still what their prompts ask for."""
        loaded = checkpoint.load(name)
        prompts = select("test", (8,) * 6)
        scenes = [satisfying_scene(prompt, random.Random(0)) for prompt in prompts]
        pictures = torch.from_numpy(render(scenes))
        seen = judge(loaded.autoencoder.decode(loaded.autoencoder.encode(pictures)), prompts)
        assert np.mean([verdict.strict for verdict in seen]) >= 0.95
