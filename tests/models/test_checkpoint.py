"""A model on disk: what is saved is what is loaded; what is damaged is named."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL

from tests.models import tiny
from unigrpo.checkpoints import AUTOENCODER, CONFIG, SHIPPED, WEIGHTS, digest
from unigrpo.models import checkpoint
from unigrpo.models.autoencoder import DiffusersAutoencoder
from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.registry import ConfigError


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
        for made in (model, loaded):
            tokens, mask = made.tokenizer.encode(["a photo of a red circle"])
            _, context = made.policy.extend_text(made.policy.start(1), tokens, mask)
            painted.append(made.autoencoder.decode(made.policy.velocity(context, x, torch.tensor(0.5))))
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
    AutoencoderKL(block_out_channels=(4,), latent_channels=3, norm_num_groups=2).save_pretrained(tmp_path / "vae")
    model = tiny.model()
    large = UnifiedModel(model.policy, DiffusersAutoencoder(tmp_path / "vae").eval(), model.tokenizer)
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


@pytest.mark.skipif(not (SHIPPED / "tiny-shapes" / CONFIG).is_file(), reason="the shipped checkpoint is not made yet")
class TestShipped:
    def test_it_is_small_and_is_what_its_recipe_says(self):
        folder = SHIPPED / "tiny-shapes"
        assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 2**20
        recipe = json.loads((folder / "recipe.json").read_text())
        assert recipe["sha256"] == digest(folder)
        assert 0.30 <= recipe["scores"]["geneval/strict"] <= 0.55

    def test_it_speaks_the_language_of_its_world(self):
        from unigrpo.worlds import Shapes

        world, loaded = Shapes(), checkpoint.load("tiny-shapes")
        assert loaded.policy.config.vocab_size == len(loaded.tokenizer)
        texts = [prompt.prompt for split in ("train", "test") for prompt in world.prompts(split)][::31]
        assert loaded.tokenizer.decode(*loaded.tokenizer.encode(texts)) == texts

    def test_its_autoencoder_keeps_a_scene_right(self):
        """Encoded and decoded, clean pictures are still what their prompts ask for."""
        import random

        import numpy as np

        from unigrpo.worlds import Shapes
        from unigrpo.worlds.shapes.examples import satisfying_scene

        world, loaded = Shapes(), checkpoint.load("tiny-shapes")
        prompts = world.select_prompts("test", (8,) * 6)
        scenes = [satisfying_scene(prompt, random.Random(0)) for prompt in prompts]
        pictures = torch.from_numpy(np.stack([world.render(scene) for scene in scenes]))
        seen = world.judge(loaded.autoencoder.decode(loaded.autoencoder.encode(pictures)), prompts)
        assert np.mean([verdict.strict for verdict in seen]) >= 0.95
