"""What every image head has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from unigrpo.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.models.model import Painting
    from unigrpo.models.policy import Context, Policy
    from unigrpo.rollout.rollout import RolloutSpec, SegmentNoise
    from unigrpo.rollout.trajectory import Cost, ImageScore, ImageSegment

#: Way to generate an image -> its name in messages, and the head that takes it.
_WAYS: dict[Painting, str] = {"denoising": "by denoising", "tokens": "token by token"}
_HEADS: dict[Painting, str] = {"denoising": "flow", "tokens": "tokens"}


class ImageHead:
    """The base of a strategy of slot ``image_head``.

    A head is given the contexts before an image, the conditional one first and then one for each branch of the
    guidance, and returns them as they are after it.  It changes none of them and keeps nothing.
    """

    denoises: ClassVar[bool]
    """Whether its actions are denoising steps, the business of dynamics, window, image ratio and regularizer."""
    deferred: ClassVar[bool]
    """Whether an image is not in the contexts yet when it is finished."""

    def generate_image(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], noise: SegmentNoise, alive: Tensor
    ) -> tuple[ImageSegment, ImageScore, Sequence[Context], Cost]:
        """Let the policy generate an image in the rows where ``alive`` [B] holds, and score it."""
        raise NotImplementedError

    def score(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[ImageScore, Sequence[Context], Cost]:
        """Score a recorded image: what :meth:`generate_image` computed, bit for bit."""
        raise NotImplementedError

    def encode(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[Sequence[Context], Cost]:
        """Let a finished image, given or generated, enter the contexts."""
        raise NotImplementedError

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say how the model makes images."""
        try:
            paints = config.model.paints
        except ConfigError:  # which the model itself tells
            return
        mine: Painting = "denoising" if self.denoises else "tokens"
        if mine not in paints:
            ways = " or ".join(_WAYS[way] for way in sorted(paints)) or "no images"
            heads = " or ".join(f"image_head={_HEADS[way]}" for way in sorted(paints))
            way_out = f"use {heads} or another model" if heads else "choose another model"
            yield f"generates images {_WAYS[mine]}, but model={config.model.name} generates {ways}; {way_out}"
