"""A model on disk: a folder of config.json, tokenizer.json, model.safetensors and autoencoder.safetensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from unigrpo.checkpoints import AUTOENCODER, CONFIG, SHARED, TOKENIZER, VAE, WEIGHTS, file_of, folder_of
from unigrpo.models.autoencoder import Autoencoder, DiffusersAutoencoder, TinyAutoencoder
from unigrpo.models.configuration import MoTConfig
from unigrpo.models.mot import MoTPolicy
from unigrpo.models.quantised import QuantisedAutoencoder
from unigrpo.models.tokenizer import Tokenizer

#: Weights with one row per word.
_BY_WORD = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")


@dataclass
class UnifiedModel:
    """A policy with what turns words and pictures into its tokens and latents."""

    policy: MoTPolicy
    autoencoder: Autoencoder
    tokenizer: Tokenizer

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.policy.device

    def reference(self) -> MoTPolicy:
        """A frozen copy of the policy as it is now."""
        frozen = copy.deepcopy(self.policy).requires_grad_(False)
        return frozen.eval()

    def with_words(self, words: Iterable[str], seed: int) -> UnifiedModel:
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
            fresh = torch.randn(len(new), old.shape[1], generator=drawn) * old.std()
            weights[name] = torch.cat((old, fresh.to(old)))
        policy.load_state_dict(weights)
        return UnifiedModel(policy.eval(), self.autoencoder, tokenizer)


def load(checkpoint: str) -> UnifiedModel:
    """Read a checkpoint.

    Raises:
        ConfigError: no such checkpoint.
        ValueError: a file of it is damaged or does not fit the configuration.
    """
    folder = folder_of(checkpoint)
    policy = MoTPolicy(MoTConfig.from_dict(json.loads((folder / CONFIG).read_text())))
    try:
        policy.load_state_dict(_read(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS}: does not fit {CONFIG} ({error})") from error
    policy.eval()
    if (path := file_of(folder, AUTOENCODER)).is_file():
        weights = _read(path)
        width, channels = weights["decoder.5.bias"].shape[0], weights["mean"].shape[0]
        levels = policy.config.code_levels
        tiny = QuantisedAutoencoder(levels, width) if levels else TinyAutoencoder(channels, width)
        tiny.load_state_dict(weights)
        autoencoder: torch.nn.Module = tiny
    else:
        autoencoder = DiffusersAutoencoder(folder / VAE)
    tokenizer = Tokenizer.load(file_of(folder, TOKENIZER))
    return UnifiedModel(policy, autoencoder.eval().requires_grad_(False), tokenizer)  # type: ignore[arg-type]


def save(folder: Path, model: UnifiedModel) -> None:
    """Write a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SHARED).unlink(missing_ok=True)  # what is written is complete
    (folder / CONFIG).write_text(json.dumps(model.policy.config.to_diff_dict(), indent=2, sort_keys=True) + "\n")
    _write(folder / WEIGHTS, model.policy)
    autoencoder = model.autoencoder
    if isinstance(autoencoder, DiffusersAutoencoder):
        autoencoder.model.save_pretrained(folder / VAE)
    else:
        assert isinstance(autoencoder, TinyAutoencoder)
        _write(folder / AUTOENCODER, autoencoder)
    model.tokenizer.save(folder / TOKENIZER)


def _write(path: Path, module: torch.nn.Module) -> None:
    # Not save_file, which hides a full disk behind an error of its own.
    path.write_bytes(serialise({name: weight.contiguous() for name, weight in module.state_dict().items()}))


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own untyped error for damaged files
        raise ValueError(f"{path}: damaged or missing weights ({error})") from error
