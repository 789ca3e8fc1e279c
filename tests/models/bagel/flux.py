"""FLUX's autoencoder by its own names, in plain convolutions: the independent side of the parity test."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Flux:
    """The autoencoder of four levels with the weights ``w``, as they stand in ``ae.safetensors``."""

    def __init__(self, w: dict[str, Tensor]):
        self.w = {name: tensor.double() for name, tensor in w.items()}

    def encode(self, x: Tensor) -> Tensor:
        """The mean of the latents, scaled."""
        x = self._conv("encoder.conv_in", x)
        for level in range(4):
            for block in range(2):
                x = self._block(f"encoder.down.{level}.block.{block}", x)
            if level < 3:
                # One row and one column of zeros, at the bottom and at the right.
                x = self._conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
        x = self._conv("encoder.conv_out", self._swish(self._norm("encoder.norm_out", self._middle("encoder", x))))
        return 0.3611 * (x.chunk(2, 1)[0] - 0.1159)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures of scaled latents, in [-1, 1]."""
        x = self._middle("decoder", self._conv("decoder.conv_in", z / 0.3611 + 0.1159))
        for level in (3, 2, 1, 0):
            for block in range(3):
                x = self._block(f"decoder.up.{level}.block.{block}", x)
            if level > 0:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self._conv(f"decoder.up.{level}.upsample.conv", x)
        return self._conv("decoder.conv_out", self._swish(self._norm("decoder.norm_out", x))).clamp(-1, 1)

    def _middle(self, half: str, x: Tensor) -> Tensor:
        x = self._block(f"{half}.mid.block_1", x)
        at = f"{half}.mid.attn_1"
        normed = self._norm(f"{at}.norm", x)
        q, k, v = (self._conv(f"{at}.{name}", normed, padding=0).flatten(2) for name in "qkv")
        seen = torch.einsum("bcq,bck->bqk", q, k).div(q.shape[1] ** 0.5).softmax(-1)
        out = torch.einsum("bqk,bck->bcq", seen, v).view_as(x)
        return self._block(f"{half}.mid.block_2", x + self._conv(f"{at}.proj_out", out, padding=0))

    def _block(self, at: str, x: Tensor) -> Tensor:
        change = self._conv(f"{at}.conv1", self._swish(self._norm(f"{at}.norm1", x)))
        change = self._conv(f"{at}.conv2", self._swish(self._norm(f"{at}.norm2", change)))
        short = f"{at}.nin_shortcut"
        return change + (self._conv(short, x, padding=0) if f"{short}.weight" in self.w else x)

    def _conv(self, at: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.w[f"{at}.weight"], self.w[f"{at}.bias"], stride, padding)

    def _norm(self, at: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.w[f"{at}.weight"], self.w[f"{at}.bias"], 1e-6)

    def _swish(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()
