"""A model on disk: a folder of config.json, tokenizer.json, model.safetensors and autoencoder.safetensors.

With ``vision_channels`` in its configuration it has a folder ``vision/`` of a vision tower too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise

from unigrpo.checkpoints import AUTOENCODER, CONFIG, SHARED, TOKENIZER, VAE, VISION, WEIGHTS, file_of, folder_of
from unigrpo.errors import ConfigError
from unigrpo.models.autoencoder import Autoencoder, DiffusersAutoencoder, TinyAutoencoder
from unigrpo.models.model import LoadedModel
from unigrpo.models.mot.configuration import MoTConfig
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.models.processor import LatentGrid, StandardProcessor
from unigrpo.models.quantised import QuantisedAutoencoder
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.models.vision import VisionEncoder, VisionTower

#: Weights with one row per word.
_BY_WORD = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class MoTModel(LoadedModel):
    """A mixture of transformers with its processor.

    Raises:
        ConfigError: of a vision encoder and the connector behind it one is missing.
    """

    policy: MoTPolicy
    processor: StandardProcessor

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.policy.connector is None) != (self.processor.vision is None):
            has, lacks = "a connector", "the processor has no vision encoder to feed it"
            if self.policy.connector is None:
                has, lacks = "no connector", "the processor has a vision encoder"
            raise ConfigError(
                f"vision_channels={self.policy.config.vision_channels}: the policy has {has}, but {lacks}"
            )

    @classmethod
    def of(
        cls, policy: MoTPolicy, autoencoder: Autoencoder, tokenizer: Tokenizer, vision: VisionEncoder | None = None
    ) -> MoTModel:
        """From its parts."""
        config = policy.config
        return cls(policy, StandardProcessor(tokenizer, autoencoder, grid_of(config), vision=vision))

    @property
    def autoencoder(self) -> Autoencoder:
        """Of its images."""
        return self.processor.autoencoder

    @property
    def tokenizer(self) -> Tokenizer:
        """Of its texts."""
        return self.processor.tokenizer

    def with_words(self, words: Iterable[str], seed: int) -> MoTModel:
        """A model that knows these words too; new ones have untrained embeddings, drawn from ``seed``."""
        known = self.tokenizer.words()
        new = [word for word in words if word not in known]
        if not new:
            return self
        tokenizer = self.tokenizer.with_words(new)
        policy = MoTPolicy(MoTConfig.from_dict(self.policy.config.to_dict() | {"vocab_size": len(tokenizer)}))
        weights = self.policy.state_dict()
        drawn = torch.Generator().manual_seed(seed)
        for name in _BY_WORD:
            old = weights[name]
            fresh = torch.randn(len(new), old.shape[1], generator=drawn) * old.std().cpu()
            weights[name] = torch.cat((old, fresh.to(old)))
        policy.load_state_dict(weights)
        larger = MoTModel.of(policy.to(self.policy.device).eval(), self.autoencoder, tokenizer, self.processor.vision)
        larger.processor.to(self.policy.device)
        return larger


def grid_of(config: MoTConfig) -> LatentGrid:
    """The latents that a policy of these sizes can make: no larger than its table of positions."""
    patch = config.latent_patch_size
    return LatentGrid(config.latent_channels, *config.latent_size, patch, patch * config.max_latent_size)


def load(checkpoint: str, device: torch.device = _CPU, dtype: torch.dtype | None = None) -> MoTModel:
    """Read a checkpoint.

    Raises:
        ConfigError: no such checkpoint.
        ValueError: a file of it is damaged or does not fit the configuration.
    """
    folder, policy = folder_of(checkpoint), _shape(checkpoint)
    try:
        policy.load_state_dict(_read(folder / WEIGHTS, device, dtype), assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS}: does not fit {CONFIG} ({error})") from error
    return _with_processor(folder, policy, device)


def outline(checkpoint: str, device: torch.device) -> MoTModel:
    """A checkpoint whose policy is on the meta device; of the weights, if they are there, only the dtype is read.

    Its processor is read whole, and goes to ``device``.

    Raises:
        ConfigError: no such checkpoint.
        ValueError: a file of it is damaged or does not fit the configuration.
    """
    folder, policy = folder_of(checkpoint), _shape(checkpoint)
    if (folder / WEIGHTS).is_file():
        with safe_open(folder / WEIGHTS, "pt") as file:
            policy.to(file.get_tensor("language_model.model.norm.weight").dtype)
    return _with_processor(folder, policy, device)


def _shape(checkpoint: str) -> MoTPolicy:
    """The policy of a checkpoint on the meta device: no weights are read, and none are made."""
    config = MoTConfig.from_dict(json.loads((folder_of(checkpoint) / CONFIG).read_text()))
    with torch.device("meta"):
        return MoTPolicy(config)


def _with_processor(folder: Path, policy: MoTPolicy, device: torch.device) -> MoTModel:
    """A checkpoint's policy, wherever it is, with the processor that lies beside it, which goes to ``device``."""
    config = policy.config
    if (path := file_of(folder, AUTOENCODER)).is_file():
        weights = _read(path, device)
        width, channels = weights["decoder.5.bias"].shape[0], weights["mean"].shape[0]
        levels = config.code_levels
        tiny = QuantisedAutoencoder(levels, width) if levels else TinyAutoencoder(channels, width)
        tiny.load_state_dict(weights)
        autoencoder: TinyAutoencoder | DiffusersAutoencoder = tiny
    else:
        autoencoder = DiffusersAutoencoder(folder / VAE)
    try:
        tokenizer = Tokenizer.load(file_of(folder, TOKENIZER))
    except ConfigError as error:
        raise ValueError(str(error)) from error
    ids = {role: getattr(config, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    ids |= {role: getattr(config, f"{role}_id") for role in ("start_of_image", "end_of_image")}
    try:
        tokenizer.check_ids(ids, config.vocab_size)
    except ValueError as error:
        raise ValueError(f"{file_of(folder, TOKENIZER)}: does not fit {folder / CONFIG} ({error})") from error
    vision = _vision(folder, config.vision_channels)
    model = MoTModel.of(policy.eval(), autoencoder.eval().requires_grad_(False), tokenizer, vision)
    model.processor.to(device)
    return model


def _vision(folder: Path, channels: int) -> VisionTower | None:
    """The tower of a checkpoint whose policy reads features of so many channels."""
    if not channels:
        if (folder / VISION).is_dir():
            raise ValueError(f"{folder / VISION} would not be used: {CONFIG} has no vision_channels")
        return None
    tower = VisionTower(folder / VISION)
    if tower.channels != channels:
        raise ValueError(f"{folder / VISION}: has features of {tower.channels} channels, {CONFIG} {channels}")
    return tower


def save(folder: Path, model: MoTModel) -> None:
    """Write a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SHARED).unlink(missing_ok=True)  # what is written is complete
    (folder / CONFIG).write_text(json.dumps(model.policy.config.to_dict(), indent=2, sort_keys=True) + "\n")
    _write(folder / WEIGHTS, model.policy)
    autoencoder = model.autoencoder
    if isinstance(autoencoder, DiffusersAutoencoder):
        autoencoder.model.save_pretrained(folder / VAE)
    else:
        assert isinstance(autoencoder, TinyAutoencoder)
        _write(folder / AUTOENCODER, autoencoder)
    model.tokenizer.save(folder / TOKENIZER)
    if (vision := model.processor.vision) is not None:
        assert isinstance(vision, VisionTower)
        vision.save(folder / VISION)


def _write(path: Path, module: torch.nn.Module) -> None:
    # Not save_file, which hides a full disk behind an error of its own.
    path.write_bytes(serialise({name: weight.contiguous() for name, weight in module.state_dict().items()}))


def _read(path: Path, device: torch.device, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a file, each with memory of its own: the file may change later."""
    try:
        with safe_open(path, "pt") as file:
            return {
                name: tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)
                for name, tensor in ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
            }
    except Exception as error:  # safetensors raises its own untyped error for damaged files
        raise ValueError(f"{path}: damaged or missing weights ({error})") from error
