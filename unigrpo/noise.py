"""Keyed randomness: every draw is a function of its key, never of a global stream.

A key is ``(run seed, purpose, update, prompt, sample, segment, denoising step)`` or a part of it.  Hence a resumed run
continues bit for bit, results do not depend on batch or world size, an arm that draws one number more shifts no other
draw, and arms are paired: same prompts, same initial noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Key = tuple[int | str, ...]


def seed_of(key: Key) -> int:
    """A 63-bit seed for ``key``; integers and strings of equal spelling differ."""
    spelled = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(spelled.encode(), digest_size=8).digest(), "big") >> 1


def generator(key: Key) -> torch.Generator:
    """A fresh CPU generator seeded by ``key`` (CPU, so that a draw is the same on every device)."""
    import torch

    return torch.Generator().manual_seed(seed_of(key))


def normal(keys: Iterable[Key], shape: Sequence[int]) -> Tensor:
    """Standard normal draws [B, *shape], fp32: one independent keyed draw per row."""
    import torch

    return torch.stack([torch.randn(tuple(shape), generator=generator(key)) for key in keys])


def uniform(keys: Iterable[Key], shape: Sequence[int]) -> Tensor:
    """Uniform draws in [0, 1), [B, *shape], fp32: one independent keyed draw per row."""
    import torch

    return torch.stack([torch.rand(tuple(shape), generator=generator(key)) for key in keys])


class Draw(Protocol):
    """Keyed draws for a batch of B episodes; ``what`` says what is drawn and is part of the key."""

    def uniform(self, what: Key, shape: Sequence[int]) -> Tensor:
        """Draws [B, *shape] in [0, 1)."""
        ...

    def normal(self, what: Key, shape: Sequence[int], *, shareable: bool = False) -> Tensor:
        """Standard normal draws [B, *shape]; the members of a group may have ``shareable`` ones in common."""
        ...


@dataclass(frozen=True)
class EpisodeDraws:
    """All draws of a batch of episodes.

    Args:
        key: what the draws belong to, such as (run seed, "rollout", update).
        prompts: the key of every prompt.
        group_size: rows per prompt; rows are prompt-major.
        shared_noise: whether the members of a group start their images from the same noise.
        first: number of the first member, for a part of a group.
    """

    key: Key
    prompts: Sequence[str]
    group_size: int
    shared_noise: bool = False
    first: int = 0

    def uniform(self, what: Key, shape: Sequence[int]) -> Tensor:
        """Draws [B, *shape] in [0, 1) for ``what``, such as (segment, "text")."""
        return uniform(self._rows(what, together=False), shape)

    def normal(self, what: Key, shape: Sequence[int], *, shareable: bool = False) -> Tensor:
        """Standard normal draws [B, *shape] for ``what``; ``shareable`` ones are the group's where that is wanted."""
        return normal(self._rows(what, together=self.shared_noise and shareable), shape)

    def _rows(self, what: Key, *, together: bool) -> list[Key]:
        return [
            (*self.key, prompt, *what) if together else (*self.key, prompt, member, *what)
            for prompt in self.prompts
            for member in range(self.first, self.first + self.group_size)
        ]
