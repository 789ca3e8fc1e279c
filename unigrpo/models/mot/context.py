"""What the mixture of transformers keeps of everything so far: keys and values, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class MoTContext:
    """Keys and values of everything covered so far; a :class:`~unigrpo.models.policy.Context`.

    Attributes:
        keys: per layer [B, kv_heads, T, head_dim], after norm and rotation.
        values: per layer [B, kv_heads, T, head_dim].
        valid: [B, T] bool, False where a row is padded.
        position: [B] int64, rotary position of the next token.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor
    position: Tensor

    @property
    def batch(self) -> int:
        """Rows."""
        return self.valid.shape[0]

    def repeat(self, times: int) -> MoTContext:
        """Every row ``times`` times, neighbours together (row-major groups)."""
        return MoTContext(
            tuple(k.repeat_interleave(times, 0) for k in self.keys),
            tuple(v.repeat_interleave(times, 0) for v in self.values),
            self.valid.repeat_interleave(times, 0),
            self.position.repeat_interleave(times, 0),
        )

    def rows(self, index: Tensor) -> MoTContext:
        """Some rows, [n] int64, each as often as it is named."""
        return MoTContext(
            tuple(k[index] for k in self.keys),
            tuple(v[index] for v in self.values),
            self.valid[index],
            self.position[index],
        )

    def followed_by(self, longer: MoTContext) -> MoTContext:
        """``longer``, of which this is the beginning; through what it has more no gradient flows."""
        start = self.valid.shape[1]
        keys, values = (
            tuple(torch.cat((a, b[:, :, start:].detach()), 2) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.keys, longer.keys), (self.values, longer.values))
        )
        return MoTContext(keys, values, longer.valid, longer.position)

    def detach(self) -> MoTContext:
        """The same context, through which no gradient flows."""
        return replace(self, keys=tuple(k.detach() for k in self.keys), values=tuple(v.detach() for v in self.values))
