"""What every image head has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from unigrpo.checkpoints import settings_of
from unigrpo.errors import ConfigError

_WAYS = {True: "by denoising", False: "token by token"}


class ImageHead:
    """Base of the strategies: ``generate_image``, ``score`` and ``encode`` move a rollout over a picture."""

    denoises: ClassVar[bool]
    """Whether its actions are denoising steps, the business of dynamics, window, image ratio and regularizer."""
    deferred: ClassVar[bool]
    """Whether a picture is not in the context yet when it is finished."""

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say which kind of pictures the checkpoint has learnt to paint."""
        checkpoint = config.model.checkpoint
        try:
            denoises = not settings_of(checkpoint).get("code_levels")
        except ConfigError as error:
            yield str(error)
            return
        if denoises != self.denoises:
            yield (
                f"paints {_WAYS[self.denoises]}, but model.checkpoint={checkpoint} paints {_WAYS[denoises]};"
                " use image_head=" + ("flow" if denoises else "tokens") + " or another checkpoint"
            )
