"""The longest episode that a configuration allows, sampled with as few forward passes as take the memory of all.

No row ends early: every text has its limit of tokens, and every image that can be asked for is.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from unigrpo.models.policy import CodePolicy, Context, Policy
from unigrpo.noise import Draw
from unigrpo.rollout.rollout import Rollout
from unigrpo.rollout.trajectory import ImageSegment, TextSegment

#: Codes of an image that are asked for one by one: a context may have room for as many without a copy.
_FEW = 32


class LongestRollout(Rollout):
    """A rollout in which texts are not sampled token by token: all but the last token enter as one block."""

    def generate_image(self, draw: Draw) -> ImageSegment:
        """All steps; the policy is asked for the stochastic ones, or the first, of which the others are the like."""
        policy, spec = self.policy, self.spec
        times = {float(spec.points[k]) for k in spec.stochastic or (0,)}
        self.policy = cast("Policy", _Sparing(policy, times, math.prod(spec.latent_shape[1:])))
        segment = super().generate_image(draw)
        self.policy = policy
        return segment

    def _generate_text(self, limit: int, draw: Draw, ends: tuple[int, ...]) -> TextSegment:
        self._encode_pending_image()
        device = self.alive.device
        # The last token asks for an image where one can be asked for.
        tokens = torch.full((self.rows, limit), self.spec.pad, device=device)
        tokens[:, -1] = ends[-1]
        mask = torch.ones(self.rows, limit, dtype=torch.bool, device=device)
        context = self.contexts[0]
        if limit > 1:
            _, context = self.policy.extend_text(context, tokens[:, 1:], mask[:, 1:], logits=False)
        _, context = self.policy.extend_text(context, tokens[:, :1], mask[:, :1])
        segment = TextSegment(tokens, mask, turn=self.turn)
        del context
        self._advance(segment)
        return segment


class _Sparing:
    """A policy that answers without being asked what it would answer in the same memory as before.

    Args:
        policy: that is asked.
        times: of the velocities that it is asked for; the others are zeros.
        codes: of an image: if many, it is asked for the first and the last, and those between enter as one block.
    """

    def __init__(self, policy: Policy, times: set[float], codes: int):
        self.policy, self.times, self.codes = policy, times, codes
        self.logits: Tensor | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.policy, name)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        """Of the policy at ``times``, else zeros."""
        return self.policy.velocity(context, x, t) if float(t) in self.times else torch.zeros_like(x)

    def extend_codes(self, context: Context, tokens: Tensor, alive: Tensor, first: int = 0) -> tuple[Tensor, Context]:
        """Of the policy for whole images and for their first and last code, else the first one's logits."""
        painter = cast("CodePolicy", self.policy)
        if self.codes <= _FEW:
            return painter.extend_codes(context, tokens, alive, first)
        if tokens.shape[1] == 1 and 0 < first < self.codes - 1:
            return cast("Tensor", self.logits), context
        logits, longer = painter.extend_codes(context, tokens, alive, first)
        if tokens.shape[1] == 1 and first == 0 and self.codes > 2:
            self.logits = logits
            _, longer = painter.extend_codes(longer, tokens.new_zeros(len(tokens), self.codes - 2), alive, 1)
        return logits, longer
