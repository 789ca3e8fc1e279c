"""Models small enough for a test: random in every parameter, so that none of them can be left out unnoticed."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from unigrpo.models.autoencoder import TinyAutoencoder
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.models.mot.configuration import MoTConfig
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.models.quantised import QuantisedAutoencoder
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.rollout.trajectory import TextSegment
from unigrpo.worlds.shapes.vocabulary import vocabulary


def config(**changes: Any) -> MoTConfig:
    """2 layers of width 32 with grouped queries; pictures of 2 x 2 tokens."""
    sizes = {
        "vocab_size": 13,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1e4,
        "latent_channels": 3,
        "max_latent_size": 5,
        "latent_size": (2, 2),
    }
    return MoTConfig(**sizes | changes)


def policy(seed: int = 0, **changes: Any) -> MoTPolicy:
    """A policy whose norms, biases and modulations are random too."""
    generator = torch.Generator().manual_seed(seed)
    alive = MoTPolicy(config(**changes)).eval()
    with torch.no_grad():
        for parameter in alive.parameters():
            if parameter.requires_grad:
                scale = 0.2 if parameter.ndim == 1 else 1.5 / parameter.shape[-1] ** 0.5
                offset = 1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0
                parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return alive


@cache
def words() -> Tokenizer:
    """The tokenizer of the world ``shapes``."""
    return Tokenizer.of_words(vocabulary())


class Quarters:
    """A vision encoder: the mean colour of each quarter of an image, as 4 features of 3 channels."""

    channels = 3

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(2).transpose(1, 2)

    def to(self, device: torch.device) -> Quarters:
        return self


def model(seed: int = 0, code_levels: tuple[int, ...] = (), **changes: Any) -> MoTModel:
    """A whole model for the world ``shapes``: 32-pixel pictures, latents of 4 x 4, or so many codes."""
    tokenizer = words()
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
        "start_of_image_id": tokenizer.start_of_image,
        "end_of_image_id": tokenizer.end_of_image,
    }
    torch.manual_seed(seed)
    autoencoder = QuantisedAutoencoder(code_levels, 8) if code_levels else TinyAutoencoder(channels=3, width=8)
    kind = {"code_levels": code_levels, "time_conditioning": "input" if code_levels else "adaln"}
    alive = policy(seed, **ids | kind, latent_size=(4, 4), **changes)
    vision = Quarters() if alive.connector is not None else None
    return MoTModel.of(alive, autoencoder.eval().requires_grad_(False), tokenizer, vision)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers that depend on ``seed`` alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def text(lengths: list[int], seed: int = 0, vocabulary: int = 13, given: bool = True) -> TextSegment:
    """Right-padded rows of random words (ids from 5 up), as long as ``lengths`` says."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(5, vocabulary, (len(lengths), width), generator=generator)
    return TextSegment(tokens.where(mask, 0), mask, given)
