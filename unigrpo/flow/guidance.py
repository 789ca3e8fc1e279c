"""Classifier-free guidance during a rollout, or none.

``branches`` name the contexts whose velocities a guidance wants besides the conditional one, ``guides(t)`` says whether
a step needs them, ``combine`` uses them.  Replay asks the same, so the guided velocity is part of the policy that is
trained.  What is held near the reference may be the conditional velocity all the same (:func:`holds_conditional`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from unigrpo.checks import over_elements, per_row, same_shape
from unigrpo.registry import Configuration, register

if TYPE_CHECKING:
    from torch import Tensor


#: What a branch leaves out of the context: all texts, or all images.
Branch = Literal["text-free", "image-free"]


class Guidance(Protocol):
    """What a strategy of slot ``guidance`` offers; it may also say ``penalty``, as :class:`Cfg` does.

    Attributes:
        branches: contexts that it wants besides the conditional one.
    """

    branches: ClassVar[tuple[Branch, ...]]

    def guides(self, t: float) -> bool:
        """Whether the step at time t needs the branches' velocities."""
        ...

    def combine(self, v_cond: Tensor, *v_branches: Tensor) -> Tensor:
        """The velocity that is used, [B, ...] as its arguments, of which there is one for each branch."""
        ...


def holds_conditional(guidance: Guidance) -> bool:
    """Whether penalty and drift compare conditional velocities with the reference's, and not those that are used.

    A guidance that says nothing of its ``penalty`` holds what it uses.
    """
    return getattr(guidance, "penalty", "guided") == "conditional"


@register("guidance", "cfg_free", source="UniGRPO (2603.23500)")
@dataclass(frozen=True)
class CfgFree:
    """The conditional velocity as it is: one evaluation per step, one unbranched context per episode."""

    branches: ClassVar[tuple[Branch, ...]] = ()

    def guides(self, t: float) -> bool:
        """Never."""
        return False

    def combine(self, v_cond: Tensor, *v_branches: Tensor) -> Tensor:
        """``v_cond``."""
        return v_cond


@register("guidance", "cfg", source="classifier-free guidance (2207.12598); interval and renorm as BAGEL (2505.14683)")
@dataclass(frozen=True)
class Cfg:
    """Guided velocity ``v_u + scale (v_c - v_u)`` for ``low < t <= high``, the conditional one elsewhere.

    ``renorm`` scales the guided velocity of each image down to the norm of its conditional one, never up.
    ``penalty`` names the velocity that the regularizer and the logged drift compare with the reference's; ratios are
    always of the guided one.  A distance of guided velocities is about ``scale`` squared times that of the conditional
    ones, so that one weight holds ``guided`` tighter than ``cfg_free``; ``conditional`` holds both alike, and spares
    the reference its second evaluation.
    """

    branches: ClassVar[tuple[Branch, ...]] = ("text-free",)

    scale: float = 2.0
    low: float = 0.0
    high: float = 1.0
    renorm: bool = False
    penalty: Literal["guided", "conditional"] = "guided"

    def __post_init__(self) -> None:
        if self.scale < 0 or not 0 <= self.low < self.high <= 1:
            got = f"scale={self.scale}, low={self.low}, high={self.high}"
            raise ValueError(f"expected scale >= 0 and 0 <= low < high <= 1, got {got}")

    def guides(self, t: float) -> bool:
        """Inside the interval; at scale 1 nowhere: the same cost and the same bits as ``cfg_free``."""
        return self.scale != 1 and self.low < t <= self.high

    def combine(self, v_cond: Tensor, *v_branches: Tensor) -> Tensor:
        """The guided velocity, [B, ...] as its arguments.

        Raises:
            ShapeError: they differ in shape.
        """
        (v_uncond,) = v_branches
        same_shape(v_cond=v_cond, v_uncond=v_uncond)
        v = v_uncond + self.scale * (v_cond - v_uncond)
        if not self.renorm:
            return v
        target, norm = (over_elements(u.float().square(), "sum").sqrt() for u in (v_cond, v))
        return v * per_row((target / norm.clamp(min=1e-8)).clamp(max=1), v)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why there must be velocities to hold."""
        if self.penalty == "conditional" and not config.image_head.denoises and config.modalities.image:
            yield (
                f"penalty=conditional holds velocities, and image_head={config.image_head.name} has none;"
                " use guidance.penalty=guided"
            )
