"""Pictures as tokens: an autoencoder whose latents take finitely many values.

Finite scalar quantisation (FSQ, arXiv 2309.15505) bounds every channel of a latent pixel and rounds it to one of a few
levels; which level each channel takes is the *code* of the pixel, one image token.  The codebook is implied by the
levels: it has no parameters, no loss of its own and no entry that cannot be reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unigrpo.models.autoencoder import TinyAutoencoder


@dataclass(frozen=True)
class FiniteScalars:
    """The grid of values that a latent pixel can take.

    Attributes:
        levels: of every channel, 2 or more; the values of a channel are evenly spaced from -1 to 1.
    """

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels={self.levels}: expected 2 or more for each of one or more channels")

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def quantise(self, raw: Tensor) -> Tensor:
        """Any reals [B, C, h, w] -> values of the grid; the gradient passes the rounding as if it were not there.

        The bound is a sigmoid, which gives even and odd numbers of levels alike (the paper shifts a tanh).
        """
        steps = self._steps(raw)
        scaled = raw.sigmoid() * steps
        rounded = scaled + (scaled.round() - scaled).detach()
        return 2 * rounded / steps - 1

    def codes(self, latents: Tensor) -> Tensor:
        """Values of the grid [B, C, h, w] -> codes [B, h * w] int64, pixels row by row, the first channel fastest."""
        digits = ((latents + 1) / 2 * self._steps(latents)).round().long()
        return (digits * self._places(latents.device)).sum(1).flatten(1)

    def latents(self, codes: Tensor, height: int, width: int) -> Tensor:
        """The inverse of :meth:`codes`: [B, height * width] int64 -> [B, C, height, width] fp32."""
        grid = codes.unflatten(1, (1, height, width))
        digits = grid // self._places(codes.device) % torch.tensor(self.levels, device=codes.device)[:, None, None]
        return 2 * digits / self._steps(digits) - 1

    def _steps(self, like: Tensor) -> Tensor:
        """Steps from the lowest to the highest level, [C, 1, 1]."""
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return torch.tensor(self.levels, device=like.device, dtype=dtype)[:, None, None] - 1

    def _places(self, device: torch.device) -> Tensor:
        """What one step of each channel adds to the code, [C, 1, 1]."""
        return torch.tensor([math.prod(self.levels[:k]) for k in range(len(self.levels))], device=device)[:, None, None]


class QuantisedAutoencoder(TinyAutoencoder):
    """The tiny autoencoder with a rounded latent map; its latents are bounded and need no scale.

    A code depends on its own 8 x 8 pixels alone: were there convolutions before the rounding, every object would alter
    the codes around it, in ways that a policy can hardly learn to predict.  The decoder sees all codes.
    """

    def __init__(self, levels: Sequence[int], width: int = 64):
        super().__init__(len(levels), width)
        self.scalars = FiniteScalars(tuple(levels))
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(self.FACTOR),
            nn.Conv2d(3 * self.FACTOR**2, 4 * width, 1),
            nn.SiLU(),
            nn.Conv2d(4 * width, 4 * width, 1),
            nn.SiLU(),
            nn.Conv2d(4 * width, len(levels), 1),
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> values of the grid [B, C, H/8, W/8]."""
        return self.scalars.quantise(super().encode(pictures))

    def reconstruction_loss(self, pictures: Tensor) -> Tensor:
        """Mean of the errors' second and fourth powers: a few wrong pixels make another shape, faint noise does not."""
        error = self.decoder(self.encode(pictures)) - pictures
        return (error.square() + error.square().square()).mean()
