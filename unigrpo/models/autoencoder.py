"""The autoencoder slot: pictures to latents and back, frozen in every stage of training.

Latents have about zero mean and unit variance per channel, so that the flow's noise has the scale of its data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Autoencoder(Protocol):
    """Deterministic both ways: two evaluations of one picture must agree."""

    @property
    def factor(self) -> int:
        """Side of the square of pixels behind one latent pixel."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move it."""
        ...

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> pictures [B, 3, H, W] in [-1, 1]."""
        ...


class TinyAutoencoder(nn.Module):
    """Convolutional autoencoder that shrinks each side by 8, for pictures of a few dozen pixels."""

    FACTOR = 8

    def __init__(self, channels: int = 8, width: int = 64):
        super().__init__()
        self.channels, self.width = channels, width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @property
    def factor(self) -> int:
        """Pixels of a latent pixel, a side."""
        return self.FACTOR

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> latents [B, C, H/8, W/8]."""
        return (self.encoder(pictures) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> pictures [B, 3, 8h, 8w] in [-1, 1]."""
        return self.decoder(latents * self.std + self.mean).clamp(-1, 1)

    def fit_scale(self, pictures: Tensor) -> None:
        """Set mean and std so that latents of ``pictures`` are normalised per channel."""
        with torch.no_grad():
            raw = self.encoder(pictures)
            self.mean.copy_(raw.mean((0, 2, 3))[:, None, None])
            self.std.copy_(raw.std((0, 2, 3))[:, None, None])


class DiffusersAutoencoder(nn.Module):
    """An ``AutoencoderKL`` of diffusers; encodes to the mean, so that nothing is drawn.

    Args:
        source: the module, or a folder of one.
    """

    def __init__(self, source: AutoencoderKL | str | Path):
        super().__init__()
        from diffusers import AutoencoderKL

        self.model = AutoencoderKL.from_pretrained(source) if isinstance(source, str | Path) else source
        self.scale: float = self.model.config.scaling_factor
        self.shift: float = self.model.config.shift_factor or 0.0
        self.factor: int = 2 ** (len(self.model.config.block_out_channels) - 1)

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> scaled latents."""
        mean = one_by_one(lambda picture: self.model.encode(picture).latent_dist.mode(), pictures)
        return (mean - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents -> pictures in [-1, 1]."""
        raw = latents / self.scale + self.shift
        return one_by_one(lambda latent: self.model.decode(latent).sample, raw).clamp(-1, 1)


def one_by_one(translate: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """``translate`` of a batch [B, ...], one row at a time.

    A picture of megapixels takes gigabytes on its way, and a rollout has dozens; nor does it depend on its neighbours.
    """
    return torch.cat([translate(row) for row in batch.split(1)])


def reconstruction_loss(model: TinyAutoencoder, pictures: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error through noisy latents, with a pull of the latents to unit scale.

    The noise (its scale included) makes the decoder smooth around each code: a policy's latents are never exact.
    """
    raw = model.encoder(pictures)
    decoded = model.decoder(raw + noise)
    return F.mse_loss(decoded, pictures) + 1e-3 * raw.square().mean()
