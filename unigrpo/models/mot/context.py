"""What the mixture of transformers keeps of everything so far: keys and values, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

#: Room that is made at least, in tokens.
_LEAST_ROOM = 32


class Past(NamedTuple):
    """One layer of a context while a pass appends to it.

    Attributes:
        keys: [B, kv_heads, T, head_dim].
        values: [B, kv_heads, T, head_dim].
        room: memory of both with places behind their T; None where the longer ones are copies.
    """

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, [B, kv_heads, T + L, head_dim] each, the given ones of L tokens behind."""
        if self.room is None:
            return torch.cat((self.keys, keys), 2), torch.cat((self.values, values), 2)
        start = self.keys.shape[2]
        end = start + keys.shape[2]
        for memory, new in zip(self.room, (keys, values), strict=True):
            memory[:, :, start:end] = new
        return self.room[0][:, :, :end], self.room[1][:, :, :end]


class Room:
    """Memory of keys and values with places behind them, which are filled in place.

    A place is filled once, so that no context changes that others hold: who lengthens one that does not end where the
    filled places do, gets memory of their own.

    Attributes:
        layers: memory of keys and of values, per layer [B, kv_heads, places, head_dim].
        filled: places.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]):
        self.filled = keys[0].shape[2]
        self.layers = [(self._of(k), self._of(v)) for k, v in zip(keys, values, strict=True)]

    def _of(self, held: Tensor) -> Tensor:
        batch, heads, length, width = held.shape
        memory = held.new_empty(batch, heads, length + max(_LEAST_ROOM, length // 4), width)
        memory[:, :, :length] = held
        return memory

    def fits(self, length: int) -> bool:
        """Whether a context of ``length`` places may fill the next one."""
        return self.filled == length < self.layers[0][0].shape[2]


@dataclass(frozen=True)
class MoTContext:
    """Keys and values of everything covered so far; a :class:`~unigrpo.models.policy.Context`.

    Attributes:
        keys: per layer [B, kv_heads, T, head_dim], after norm and rotation.
        values: per layer [B, kv_heads, T, head_dim].
        valid: [B, T] bool, False where a row is padded.
        position: [B] int64, rotary position of the next token.
        room: where they lie, if tokens came one by one.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor
    position: Tensor
    room: Room | None = field(default=None, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """Rows."""
        return self.valid.shape[0]

    def layers(self, tokens: int) -> tuple[list[Past], Room | None]:
        """The layers for a pass that appends so many tokens, and where the longer context will lie.

        One token without a graph is one of a text that is being sampled: it is appended in place, for copies of all
        keys and values at every token would add up to the square of its length.  What is scored comes as a block, and
        is copied whether there is a graph or not: attention finds the same strides in sampling and in replay.
        """
        room = None
        if tokens == 1 and not torch.is_grad_enabled():
            length = self.valid.shape[1]
            room = self.room if self.room and self.room.fits(length) else Room(self.keys, self.values)
            room.filled += 1
        pairs = zip(self.keys, self.values, room.layers if room else [None] * len(self.keys), strict=True)
        return [Past(*layer) for layer in pairs], room

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
