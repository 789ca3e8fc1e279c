"""The exact judge in the place of a learned scorer of texts and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unigrpo.registry import register


@register("text_scorer", "exact", source="the world's judge")
@dataclass(frozen=True)
class ExactText:
    """Does the text state what its step asks, given the text before?"""

    exact: ClassVar[bool] = True


@register("image_scorer", "exact", source="the world's judge")
@dataclass(frozen=True)
class ExactImage:
    """Does the image show what its text says, and what the prompt asks?"""

    exact: ClassVar[bool] = True
