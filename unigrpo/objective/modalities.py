"""Which of the two policies is trained, and how much each counts: ``J = text J_text + image J_image``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unigrpo.registry import register


@register("modalities", "joint", source="UniGRPO (2603.23500) eq. 7")
@dataclass(frozen=True)
class Joint:
    """Both, with a weight each; weight 0 leaves a modality out altogether."""

    text: float = 1.0
    image: float = 1.0

    def __post_init__(self) -> None:
        if min(self.text, self.image) < 0 or self.text == self.image == 0:
            raise ValueError(f"expected weights of 0 or more, not both 0, got text={self.text}, image={self.image}")


@register("modalities", "text_only", source="UniGRPO (2603.23500) table 1, baseline")
@dataclass(frozen=True)
class TextOnly:
    """The text policy alone."""

    text: ClassVar[float] = 1.0
    image: ClassVar[float] = 0.0


@register("modalities", "image_only", source="UniGRPO (2603.23500) table 1, baseline")
@dataclass(frozen=True)
class ImageOnly:
    """The image policy alone."""

    text: ClassVar[float] = 0.0
    image: ClassVar[float] = 1.0
