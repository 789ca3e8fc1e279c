"""A published folder is read as it is, and what is wrong with one is said before a weight is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.bagel import published
from unigrpo.compose import compose
from unigrpo.errors import ConfigError
from unigrpo.models.bagel import Bagel
from unigrpo.models.bagel.folder import read
from unigrpo.models.bagel.layout import (
    AutoencoderConfig,
    VisionConfig,
    autoencoder_names,
    policy_dims,
    vision_dims,
)
from unigrpo.models.mot.configuration import BAGEL_7B_MOT, MoTConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("bagel"), side=3)


@pytest.fixture
def copy(folder, tmp_path):
    """One to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def test_sizes_are_those_of_the_files_with_what_the_official_code_overwrites(folder):
    found = read(folder, vision=True)
    config = found.config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 2, 272)
    assert (config.latent_channels, config.latent_patch_size, config.max_latent_size) == (4, 2, 3)
    assert config.latent_size == (6, 6)
    assert (config.qk_norm, config.time_conditioning, config.prediction) == (True, "input", "velocity")
    assert (config.rope_theta, config.vision_channels, config.vision_positions) == (10000.0, 16, 4)
    assert found.vision == VisionConfig(16, 24, 2, 2, 14, 56)
    assert found.autoencoder == AutoencoderConfig(published.LEVELS, 2, published.LATENTS)
    blind = read(folder, vision=False)
    assert (blind.vision, blind.config.vision_channels, blind.config.vision_positions) == (None, 0, 0)


def test_all_names_and_shapes_are_expected():
    """At the published size: 14.61e9 parameters without the autoencoder's 83.8e6 in 244 tensors."""
    seeing = {"vision_channels": 1152, "vision_positions": 70}
    vision = VisionConfig(1152, 4304, 26, 16, 14, 980)
    whole = policy_dims(MoTConfig(**BAGEL_7B_MOT, **seeing)) | vision_dims(vision)
    assert sum(torch.Size(shape).numel() for shape in whole.values()) == pytest.approx(14.61e9, rel=1e-3)
    assert whole["vit_pos_embed.pos_embed"] == (4900, 3584)
    assert whole["vit_model.vision_model.embeddings.patch_embedding.weight"] == (1152, 588)
    names = autoencoder_names(AutoencoderConfig((128, 256, 512, 512), 2, 16))
    assert len(names) == 244
    assert sum(torch.Size(shape).numel() for _, shape in names.values()) == 83_819_683


def test_names_and_shapes_are_those_of_the_layout(folder):
    found = read(folder, vision=True)
    tables = {"latent_pos_embed.pos_embed": (9, 32), "vit_pos_embed.pos_embed": (16, 32)}
    assert policy_dims(found.config) | vision_dims(found.vision) == published.shapes() | tables
    flux = {name: shape for name, (_, shape) in autoencoder_names(found.autoencoder).items()}
    assert flux == published.autoencoder_shapes()


def test_a_plan_needs_no_torch(folder):
    script = (
        "import sys; from unigrpo.models.bagel import Bagel; m = Bagel(sys.argv[1]); from unigrpo.compose import"
        " compose; c = compose(['model=bagel', 'model.folder=' + sys.argv[1]]); assert not list(m.conflicts(c));"
        " print(m.digest()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Bagel(str(folder)).digest()


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors", "llm_config.json", "tokenizer.json"])
def test_the_digest_is_of_every_file(copy, name):
    before = Bagel(str(copy)).digest()
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(
        content.replace(b"1", b"2", 1) if name.endswith("json") else content[:-1] + bytes([content[-1] ^ 1])
    )
    assert Bagel(str(copy)).digest() != before


def test_the_digest_is_of_the_system_prompt(copy, tmp_path):
    said = tmp_path / "think.txt"
    said.write_text("think")
    one = Bagel(str(copy), system_prompt=str(said)).digest()
    said.write_text("do not think")
    assert Bagel(str(copy), system_prompt=str(said)).digest() != one


def changed(copy, name, **fields):
    settings = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({key: v for key, v in (settings | fields).items() if v != "absent"}))


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("llm_config.json", {"hidden_act": "gelu"}, r"llm_config\.json: hidden_act='gelu': expected 'silu'"),
        ("llm_config.json", {"rope_theta": "absent"}, r"rope_theta=None: expected a number above 0"),
        ("llm_config.json", {"hidden_size": 0}, r"hidden_size=0: expected a whole number above 0"),
        ("llm_config.json", {"num_key_value_heads": 3}, r"heads must divide"),
        ("llm_config.json", {"intermediate_size": 47}, r"ema\.safetensors: .*mlp.* expected \[47, 32\] by the conf"),
        ("llm_config.json", {"num_hidden_layers": 3}, r"28 of \d+ weights are missing, such as .*layers\.2.*again"),
        ("vit_config.json", {"hidden_act": "gelu"}, r"vit_config\.json: hidden_act='gelu': expected 'gelu_pytorch"),
        ("vit_config.json", {"num_hidden_layers": 4}, r"16 of \d+ weights are missing, such as vit_model"),
        ("vit_config.json", {"image_size": 70}, r"has shape \[16, \d+\], expected \[25, \d+\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(copy, name, fields, said):
    changed(copy, name, **fields)
    with pytest.raises(ConfigError, match=said):
        read(copy, vision=True)


def test_without_vision_its_files_are_not_asked_for(copy):
    (copy / "vit_config.json").unlink()
    with pytest.raises(ConfigError, match=r"vit_config\.json: expected a configuration of BAGEL, which cannot be"):
        read(copy, vision=True)
    assert read(copy, vision=False).vision is None


def rewritten(copy, name, change):
    weights = load_file(copy / name)
    change(weights)
    save_file(weights, copy / name)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_folder_that_is_none_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere: no such folder; .* published BAGEL"):
        read(tmp_path / "nowhere", vision=True)
    with pytest.raises(ConfigError, match=r"model\.folder: expected the folder of a published BAGEL; give it by"):
        Bagel().load(CPU)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: (c / "ema.safetensors").unlink(), r"expected ema\.safetensors, found no weights; download"),
        (lambda c: (c / "ae.safetensors").unlink(), r"ae\.safetensors: expected weights, .*\(No such file"),
        (lambda c: cut(c / "ema.safetensors"), r"ema\.safetensors: expected \d+ bytes, as its header says, got"),
        (lambda c: (c / "ae.safetensors").write_bytes(b"\x80\x04 a pickle"), r"expected a file of safetensors"),
        (lambda c: (c / "llm_config.json").write_text("{"), r"llm_config\.json: expected a configuration of BAGEL"),
        (lambda c: (c / "llm_config.json").write_text("[1]"), r"llm_config\.json: expected keys and values"),
        (lambda c: rewritten(c, "ae.safetensors", lambda w: w.pop("decoder.up.2.upsample.conv.bias")), r"1 of 244"),
        (lambda c: rewritten(c, "ema.safetensors", lambda w: w.pop("llm2vae.bias")), r"1 of \d+ .*llm2vae\.bias"),
        (
            lambda c: rewritten(c, "ema.safetensors", lambda w: w.update({"llm2vae.bias": torch.zeros(12)})),
            r"image tokens of 12 values, expected a square .* of 4 channels",
        ),
        (
            lambda c: rewritten(c, "ema.safetensors", lambda w: w.update({"latent_pos_embed.pos_embed": w.pop("a")})),
            r"expected a square table of positions, got 5 rows",
        ),
    ],
)
def test_a_damaged_or_incomplete_folder_names_the_file(copy, damage, said):
    rewritten(copy, "ema.safetensors", lambda w: w.update({"a": torch.zeros(5, 32)}))
    damage(copy)
    with pytest.raises(ConfigError, match=said):
        read(copy, vision=True)
    (message,) = Bagel(str(copy)).conflicts(compose(["model=bagel"]))
    assert str(copy) in message


def test_an_index_names_shards(copy):
    weights = load_file(copy / "ema.safetensors")
    names = sorted(weights)
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, mine in halves.items():
        save_file({name: weights[name] for name in mine}, copy / file)
    (copy / "ema.safetensors").unlink()
    shards = {name: file for file, mine in halves.items() for name in mine}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    found = Bagel(str(copy)).load(CPU).policy.state_dict()
    assert all(torch.equal(weights[name], found[name]) for name in found.keys() & weights.keys())
    (copy / "two.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"two\.safetensors: expected weights"):
        read(copy, vision=True)
    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"index\.json: expected the index of sharded weights"):
        read(copy, vision=True)


@pytest.mark.parametrize(("height", "width", "wrong"), [(48, 32, False), (0, 0, False), (40, 48, True), (64, 48, True)])
def test_image_sizes_are_multiples_of_16_inside_the_table(folder, height, width, wrong):
    config = compose(["model=bagel", f"model.folder={folder}", f"sampler.height={height}", f"sampler.width={width}"])
    found = [reason for reason in Bagel(str(folder)).conflicts(config) if "multiples of 16 up to 48 pixels" in reason]
    assert bool(found) == wrong


def test_a_system_prompt_that_is_not_there_is_said(folder):
    model = Bagel(str(folder), system_prompt="/nowhere/think.txt")
    (message,) = model.conflicts(compose(["model=bagel"]))
    assert "model.system_prompt=/nowhere/think.txt: expected a text file" in message
