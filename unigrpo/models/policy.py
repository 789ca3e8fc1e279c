"""The policy protocol: all that the rollout asks of a unified model.

An adapter for another model implements five methods and one property.  A *context* is whatever the model keeps of the
segments so far (for a transformer, keys and values); it is built once per segment and never changed in place, so that
all denoising steps, and all members of a group, share it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

Modality = Literal["text", "image"]


@dataclass(frozen=True)
class Context:
    """Keys and values of everything covered so far.

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

    def repeat(self, times: int) -> Context:
        """Every row ``times`` times, neighbours together (row-major groups)."""
        return Context(
            tuple(k.repeat_interleave(times, 0) for k in self.keys),
            tuple(v.repeat_interleave(times, 0) for v in self.values),
            self.valid.repeat_interleave(times, 0),
            self.position.repeat_interleave(times, 0),
        )

    def rows(self, index: Tensor) -> Context:
        """Some rows, [n] int64, each as often as it is named."""
        return Context(
            tuple(k[index] for k in self.keys),
            tuple(v[index] for v in self.values),
            self.valid[index],
            self.position[index],
        )

    def followed_by(self, longer: Context) -> Context:
        """``longer``, of which this is the beginning; through what it has more no gradient flows."""
        start = self.valid.shape[1]
        keys, values = (
            tuple(torch.cat((a, b[:, :, start:].detach()), 2) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.keys, longer.keys), (self.values, longer.values))
        )
        return Context(keys, values, longer.valid, longer.position)

    def detach(self) -> Context:
        """The same context, through which no gradient flows."""
        return replace(self, keys=tuple(k.detach() for k in self.keys), values=tuple(v.detach() for v in self.values))


class Policy(Protocol):
    """A unified model as the rollout sees it.

    Texts are token blocks [B, L] with a bool mask, right-padded; latents are maps [B, C, H, W]; time t is 1 at noise.
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a painted picture."""
        ...

    def start(self, batch: int) -> Context:
        """The empty context of ``batch`` rows."""
        ...

    def extend_text(self, context: Context, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Context]:
        """Append tokens [B, L]; returns next-token logits [B, L, V] at each of them and the longer context."""
        ...

    def extend_image(self, context: Context, latents: Tensor, alive: Tensor) -> Context:
        """Append a clean picture [B, C, H, W], given or the policy's own, in the rows where ``alive`` [B] is True."""
        ...

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt = noise - data at ``x`` [B, C, H, W] and ``t`` (0-d or [B]); does not change the context."""
        ...

    def parameters_of(self, modality: Modality) -> Iterable[torch.nn.Parameter]:
        """The trainable parameters of one expert; the two sets are disjoint and cover the model."""
        ...


class CodePolicy(Protocol):
    """What image_head=tokens asks of a unified model besides: pictures are N codes of K, and need no velocity."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a painted picture; N = H * W."""
        ...

    @property
    def num_image_codes(self) -> int:
        """K, which is itself the token that begins a picture."""
        ...

    def extend_codes(self, context: Context, tokens: Tensor, alive: Tensor, first: int = 0) -> tuple[Tensor, Context]:
        """Append some of a picture's N + 1 tokens, the ``first`` being in the context; next-code logits [B, L, K]."""
        ...

    def codes_of(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] -> codes [B, N] int64."""
        ...

    def latents_of(self, codes: Tensor) -> Tensor:
        """Codes [B, N] -> latents [B, C, H, W]."""
        ...
