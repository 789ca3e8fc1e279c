"""A published BAGEL folder: its configuration, as the official code reads it, and its files; without torch.

The official loaders read two JSON files and overwrite some of their fields.  The same is done here: QK-norm is on, the
layers are mixtures of transformers, embeddings are not tied, and the vision encoder has one layer less and no rotary
positions.  Sizes that stand in no JSON file are those of the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject
from unigrpo.models.bagel.headers import Entry, check, entries_of, entries_of_index, side_of
from unigrpo.models.bagel.layout import (
    LATENT_PLACES,
    VISION_PLACES,
    AutoencoderConfig,
    VisionConfig,
    autoencoder_names,
    policy_dims,
    vision_dims,
)
from unigrpo.models.mot.configuration import MoTConfig

LLM_CONFIG, VIT_CONFIG, AUTOENCODER = "llm_config.json", "vit_config.json", "ae.safetensors"
WEIGHTS = "ema.safetensors"
#: Where the weights are, the first that is there.
_WEIGHTS = (WEIGHTS, "ema.safetensors.index.json", "model.safetensors.index.json", "model.safetensors")
_OTHERS = (
    LLM_CONFIG,
    VIT_CONFIG,
    AUTOENCODER,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
#: Side of the table of latent positions where a folder lacks it: that of BAGEL-7B-MoT.
_LATENT_SIDE = 64
#: Fields with one known value, which they have where they are missing.
_LLM_FIXED = {"hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False}
_VIT_FIXED = {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3}


@dataclass(frozen=True)
class BagelFolder:
    """What a folder holds, known without a weight being read.

    Attributes:
        path: of the folder.
        config: of the policy; the ids of its special tokens are the tokenizer's, and not known here.
        vision: of the vision encoder; None if it is left out.
        autoencoder: of the autoencoder.
        weights: published name -> where that weight is, of all that are there.
    """

    path: Path
    config: MoTConfig
    vision: VisionConfig | None
    autoencoder: AutoencoderConfig
    weights: Mapping[str, Entry]

    @property
    def files(self) -> list[Path]:
        """All that decides what the model computes: weights, configurations and the tokenizer's files."""
        return [*self.shards, *self.others]

    @property
    def shards(self) -> list[Path]:
        """The files of the policy's and the vision encoder's weights."""
        return sorted({entry.file for entry in self.weights.values()})

    @property
    def others(self) -> list[Path]:
        """Those that training does not change."""
        return list(filter(Path.is_file, (self.path / name for name in _OTHERS)))


def read(path: Path, *, vision: bool) -> BagelFolder:
    """What the folder holds, with or without its vision encoder.

    Raises:
        ConfigError: a file is missing or damaged, or they do not fit each other; it names the file.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; expected that of a published BAGEL, with {LLM_CONFIG}")
    llm = _json(path / LLM_CONFIG, _LLM_FIXED)
    autoencoder = _autoencoder(path / AUTOENCODER)
    found = _weights(path)
    tower = _vision(path / VIT_CONFIG) if vision else None
    config = _policy(path / LLM_CONFIG, llm, found, autoencoder, tower)
    expected = policy_dims(config) | (vision_dims(tower) if tower else {})
    absent = {name for name in (LATENT_PLACES, VISION_PLACES) if name not in found}
    check(str(path), found, {name: shape for name, shape in expected.items() if name not in absent})
    return BagelFolder(path, config, tower, autoencoder, found)


def _weights(path: Path) -> dict[str, Entry]:
    for name in _WEIGHTS:
        if (path / name).is_file():
            return entries_of_index(path / name) if name.endswith(".json") else entries_of(path / name)
    raise ConfigError(f"{path}: expected {WEIGHTS}, found no weights; download the whole folder")


def _policy(
    file: Path,
    llm: JsonObject,
    found: Mapping[str, Entry],
    autoencoder: AutoencoderConfig,
    vision: VisionConfig | None,
) -> MoTConfig:
    # The class of the official code has 1e4 where rope_theta is missing, which no BAGEL was trained with.
    numbers = {"rms_norm_eps": _number(file, llm, "rms_norm_eps", 1e-6), "rope_theta": _number(file, llm, "rope_theta")}
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    sizes = {name: _size(file, llm, name) for name in (*names, "num_attention_heads", "num_key_value_heads")}
    latents = autoencoder.latent_channels
    token = found["llm2vae.bias"].shape[0] if "llm2vae.bias" in found else 4 * latents
    patch = math.isqrt(token // latents)
    if patch * patch * latents != token:
        raise ConfigError(
            f"{file.parent}: image tokens of {token} values, expected a square of latent pixels of {latents} channels,"
            f" as {AUTOENCODER} has them; the autoencoder is of another model"
        )
    side = side_of(found[LATENT_PLACES]) if LATENT_PLACES in found else _LATENT_SIDE
    seen = {"vision_channels": vision.hidden_size, "vision_positions": vision.side} if vision else {}
    images = {
        "latent_channels": latents,
        "latent_patch_size": patch,
        "max_latent_size": side,
        "latent_size": [side * patch, side * patch],
    }
    try:
        return MoTConfig.from_dict(sizes | numbers | seen | images)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error


def _number(file: Path, settings: JsonObject, name: str, default: float | None = None) -> float:
    found = settings.get(name, default)
    if not isinstance(found, int | float) or isinstance(found, bool) or found <= 0:
        raise ConfigError(f"{file}: {name}={found!r}: expected a number above 0")
    return float(found)


def _vision(file: Path) -> VisionConfig:
    vit = _json(file, _VIT_FIXED)
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "patch_size", "image_size")
    sizes = {name: _size(file, vit, name) for name in names}
    layers = _size(file, vit, "num_hidden_layers") - 1  # the last one is not used
    eps = _number(file, vit, "layer_norm_eps", 1e-6)
    return VisionConfig(num_hidden_layers=layers, layer_norm_eps=eps, **sizes)


def _autoencoder(file: Path) -> AutoencoderConfig:
    """By the dimensions of the weights: no configuration stands beside them."""
    found = entries_of(file)
    levels = blocks = 0
    while f"encoder.down.{levels}.block.0.conv1.weight" in found:
        levels += 1
    while f"encoder.down.0.block.{blocks}.conv1.weight" in found:
        blocks += 1
    if not levels or "decoder.conv_in.weight" not in found:
        raise ConfigError(f"{file}: expected FLUX's autoencoder under its own names, got none; download it again")
    channels = tuple(found[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels))
    config = AutoencoderConfig(channels, blocks, found["decoder.conv_in.weight"].shape[1])
    check(str(file), found, {name: shape for name, (_, shape) in autoencoder_names(config).items()})
    return config


def _json(file: Path, fixed: JsonObject) -> JsonObject:
    """The content of a configuration, in which some fields have values that are known here."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: expected a configuration of BAGEL, which cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: expected keys and values, got {found!r:.80}")
    for name, value in fixed.items():
        if found.get(name, value) != value:
            raise ConfigError(f"{file}: {name}={found[name]!r}: expected {value!r}, as BAGEL has it")
    return found


def _size(file: Path, settings: JsonObject, name: str) -> int:
    found = settings.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ConfigError(f"{file}: {name}={found!r}: expected a whole number above 0")
    return found
