"""Vision encoders: a tower of transformers from a folder sees what transformers' own pipeline does."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.models import tiny
from unigrpo.checkpoints import digest
from unigrpo.errors import ConfigError
from unigrpo.models.mot import Mot, checkpoint
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.models.vision import PREPROCESSOR, Preparation, VisionTower

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}
WORDS = SIZES | {"vocab_size": 20}


@cache
def models():
    """Tiny random models and the processors that transformers has for them."""
    from transformers import (
        BitImageProcessorPil,
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(0)
    cut = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}
    return {
        "siglip": (SiglipVisionModel(SiglipVisionConfig(**SIZES)), SiglipImageProcessorPil(size=_sides(24))),
        "clip": (CLIPModel(CLIPConfig(text_config=WORDS, vision_config=SIZES)), CLIPImageProcessorPil(**cut)),
        "dinov2": (Dinov2Model(Dinov2Config(**SIZES)), BitImageProcessorPil(**cut)),
    }


def _sides(side):
    return {"height": side, "width": side}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, (model, processor) in models().items():
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(found[name])
        processor.save_pretrained(found[name])
    return found


def seen_by_transformers(name, pixels):
    """What the processor makes of 8-bit images [B, 3, H, W]."""
    images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]
    return models()[name][1](images, return_tensors="pt")["pixel_values"]


def grey(*size):
    """8-bit images that resizing does not drive out of their range."""
    return torch.randint(96, 160, (2, 3, *size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize(("name", "size"), [("siglip", (24, 24)), ("clip", (28, 36)), ("dinov2", (33, 28))])
def test_a_tower_sees_what_transformers_sees(folders, name, size):
    """Nothing is resized here, as Pillow rounds what it resizes."""
    pixels, model = grey(*size), models()[name][0].eval()
    with torch.no_grad():
        whole = getattr(model, "vision_model", model)
        expected = whole(pixel_values=seen_by_transformers(name, pixels)).last_hidden_state
    tower = VisionTower(folders[name])
    features = tower(pixels / 127.5 - 1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert features.shape[2] == tower.channels == 16
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize("size", [(40, 31), (17, 30)])
@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_an_image_of_another_size_is_resized_as_transformers_does_it(folders, name, size):
    pixels, tower = grey(*size), VisionTower(folders[name])
    mine = (tower.preparation.resized(pixels / 127.5 - 1) + 1) / 2
    theirs = seen_by_transformers(name, pixels) * tower.std + tower.mean
    torch.testing.assert_close(mine, theirs, atol=1.5 / 255, rtol=0)


def test_a_tower_is_written_as_it_is_read(folders, tmp_path):
    tower, pixels = VisionTower(folders["clip"]), grey(24, 40) / 127.5 - 1
    tower.save(tmp_path)
    again = VisionTower(tmp_path)
    assert torch.equal(again(pixels), tower(pixels))
    assert again.preparation == tower.preparation


@pytest.fixture(scope="module")
def checkpoint_folder(folders, tmp_path_factory):
    """A tiny model that sees through a tower."""
    model, folder = tiny.model(vision_channels=16), tmp_path_factory.mktemp("checkpoint")
    tower = VisionTower(folders["siglip"])
    checkpoint.save(folder, MoTModel.of(model.policy, model.autoencoder, model.tokenizer, tower))
    return folder


def test_a_checkpoint_keeps_its_connector_and_its_tower(folders, checkpoint_folder):
    model = checkpoint.load(str(checkpoint_folder))
    pixels = grey(32, 32) / 127.5 - 1
    assert torch.equal(model.processor.vision(pixels), VisionTower(folders["siglip"])(pixels))
    weights = load_file(checkpoint_folder / "model.safetensors")
    assert torch.equal(model.policy.connector.fc2.weight, weights["connector.fc2.weight"])
    more = model.with_words(["xyzzy"], 0)
    assert torch.equal(more.policy.connector.fc1.weight, weights["connector.fc1.weight"])
    assert more.processor.vision is model.processor.vision


@pytest.mark.parametrize("name", ["model.safetensors", PREPROCESSOR])
def test_the_tower_is_part_of_a_checkpoints_digest(checkpoint_folder, tmp_path, name):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "other")
    before = digest(folder)
    assert before == digest(checkpoint_folder)
    (folder / "vision" / name).write_bytes((folder / "vision" / name).read_bytes() + b" ")
    assert digest(folder) != before


def test_a_checkpoint_whose_tower_and_connector_do_not_fit_is_refused(checkpoint_folder, tmp_path):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"connector.fc1.weight": torch.zeros(32, 9)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"vision_channels": 9}))
    with pytest.raises(ConfigError, match=r"vision: has features of 16 channels, config\.json 9"):
        Mot(str(folder)).load(torch.device("cpu"))
    save_file({n: w for n, w in weights.items() if not n.startswith("connector")}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"vision_channels": 0}))
    with pytest.raises(ConfigError, match=r"vision would not be used: config\.json has no vision_ch"):
        Mot(str(folder)).load(torch.device("cpu"))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    shutil.rmtree(folder / "vision")
    with pytest.raises(ConfigError, match=f"vision: expected the folder of a vision model .*{PREPROCESSOR}"):
        Mot(str(folder)).load(torch.device("cpu"))


@pytest.fixture
def siglip(folders, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(folders["siglip"], tmp_path / "tower")


def test_a_folder_that_is_none_is_said(tmp_path):
    with pytest.raises(ConfigError, match=f"nowhere: expected the folder of a vision model.*{PREPROCESSOR} cannot"):
        VisionTower(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "said"), [("model.safetensors", "OSError"), ("config.json", "config.json cannot be")])
def test_what_is_missing_is_said(siglip, name, said):
    (siglip / name).unlink()
    with pytest.raises(ConfigError, match=f"tower: .*{said}"):
        VisionTower(siglip)


def test_weights_in_a_pickle_are_not_read(siglip):
    (siglip / "model.safetensors").rename(siglip / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"tower: no vision model .*model\.safetensors"):
        VisionTower(siglip)


def test_a_weight_that_is_missing_is_not_drawn(siglip):
    weights = load_file(siglip / "model.safetensors")
    lacking = next(name for name in weights if name.endswith("patch_embedding.bias"))
    del weights[lacking]
    save_file(weights, siglip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights of SiglipVisionModel are missing, .*patch_embedding\.bias"):
        VisionTower(siglip)


def test_a_model_of_texts_is_refused(siglip):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    BertModel(BertConfig(**sizes)).save_pretrained(siglip)
    with pytest.raises(ConfigError, match=r"no vision model that transformers reads \(BertModel reads input_ids\)"):
        VisionTower(siglip)


def test_a_model_of_maps_is_refused(siglip):
    from transformers import ConvNextConfig, ConvNextModel

    ConvNextModel(ConvNextConfig(hidden_sizes=[4] * 4, depths=[1] * 4)).save_pretrained(siglip)
    with pytest.raises(ConfigError, match=r"\(ConvNextModel has no sequence of hidden states of one size\)"):
        VisionTower(siglip)


GOOD = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": _sides(24), "resample": 3}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"do_normalize": False}, "do_normalize=False: expected true"),
        ({"image_mean": None}, "image_mean=None: expected one number for each"),
        ({"image_std": [0.5, "a", 0.5]}, "image_std=.*: expected one number for each"),
        ({"size": {"longest_edge": 24}}, "size={'longest_edge': 24}: expected height and width, or shortest_edge"),
        ({"size": {"shortest_edge": 24}}, "size=.*: expected height and width, or do_center_crop"),
        ({"size": {"height": 24, "width": 0}}, "size=.*: expected height and width"),
        ({"do_center_crop": True}, "crop_size=None: expected height and width"),
        ({"resample": 1}, r"resample=1: expected 2 \(bilinear\) or 3 \(bicubic\)"),
    ],
)
def test_a_preparation_that_is_not_known_is_refused(changed, said):
    with pytest.raises(ConfigError, match=f"somewhere: {said}"):
        Preparation.of(GOOD | changed, Path("somewhere"))


def test_old_files_have_one_number_for_a_size():
    assert Preparation.of(GOOD | {"size": 24}, Path()).size == (24, 24)
    old = Preparation.of(GOOD | {"size": 28, "do_center_crop": True, "crop_size": 24}, Path())
    assert (old.size, old.crop) == (28, (24, 24))
    assert Preparation.of(json.loads(json.dumps(old.to_dict())), Path()) == old
