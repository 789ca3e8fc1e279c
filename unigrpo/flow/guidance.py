"""Classifier-free guidance during a rollout, or none.

``branches`` name the contexts whose velocities a guidance wants besides the conditional one, ``guides(t)`` says whether
a step needs them, ``combine`` uses them.  Replay asks the same, so the guided velocity is part of the policy that is
trained.  What is held near the reference may be the conditional velocity all the same (:func:`holds_conditional`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from unigrpo.checks import ShapeError, over_elements, per_row, same_shape
from unigrpo.registry import Configuration, register

if TYPE_CHECKING:
    from torch import Tensor


#: What a branch has of the context: all but texts; all, with padding in the places of words; all but images; what there
#: was before the latest given text, or behind a later image; or given texts alone.
Branch = Literal["text-free", "text-padded", "image-free", "before-request", "requests"]
#: Whose norm is held at the conditional one: of all images of a batch together, of each image, or of each image token.
Norm = Literal["global", "image", "channel"]


class Guidance(Protocol):
    """What a strategy of slot ``guidance`` offers; it may also say ``penalty``, as :class:`Cfg` does."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Contexts that it wants besides the conditional one."""
        ...

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
        return renormed(v, v_cond, "image") if self.renorm else v

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why there must be velocities to hold."""
        yield from _nothing_to_hold(self.penalty, config)


@register("guidance", "text_image_cfg", source="BAGEL (arXiv 2505.14683), text and image guidance with its renorms")
@dataclass(frozen=True)
class TextImageCfg:
    """Guidance by the text and by the images of a request: two scales, the velocity's norm held at the conditional's.

    With v the conditional velocity, u that without the latest request and without what was thought of it, and m that
    without images and thoughts: ``g = u + text_scale (v - u)``, then ``m + image_scale (g - m)`` if ``image_scale`` is
    above 1, for ``low < t <= high`` and ``text_scale`` above 1; v elsewhere.  Where there are no images, m is v without
    the thoughts.

    ``renorm`` scales norms down to those of v, never up, and by no less than ``renorm_min``: ``image`` that of each
    image; ``global``, as the published code, that of all images of a batch together, so that what an image gets depends
    on its neighbours; ``channel`` that of each image token; ``text_channel`` that of each token of g, before the image
    guides.  ``global`` and ``image`` are one for a batch of one image.
    """

    text_scale: float = 4.0
    image_scale: float = 1.0
    low: float = 0.4
    high: float = 1.0
    renorm: Literal["none", "image", "global", "channel", "text_channel"] = "image"
    renorm_min: float = 0.0
    patch: int = 2
    """Side of the square of latent pixels behind one image token, for ``channel`` and ``text_channel``."""
    penalty: Literal["guided", "conditional"] = "guided"
    """As of ``cfg``."""

    def __post_init__(self) -> None:
        if min(self.text_scale, self.image_scale) < 0 or not 0 <= self.low < self.high <= 1:
            got = f"text_scale={self.text_scale}, image_scale={self.image_scale}, low={self.low}, high={self.high}"
            raise ValueError(f"expected scales >= 0 and 0 <= low < high <= 1, got {got}")
        if not 0 <= self.renorm_min <= 1 or self.patch < 1:
            got = f"renorm_min={self.renorm_min}, patch={self.patch}"
            raise ValueError(f"expected renorm_min from 0 to 1 and patch >= 1, got {got}")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """One for each scale above 1 that has an effect."""
        if self.text_scale <= 1:
            return ()
        return ("before-request", "requests") if self.image_scale > 1 else ("before-request",)

    def guides(self, t: float) -> bool:
        """Inside the interval; at a text scale of 1 or less nowhere, whatever the image scale."""
        return self.text_scale > 1 and self.low < t <= self.high

    def combine(self, v_cond: Tensor, *v_branches: Tensor) -> Tensor:
        """The guided velocity, [B, C, H, W] as its arguments.

        Raises:
            ShapeError: they differ in shape, or have no whole image tokens.
        """
        for branch in v_branches:
            same_shape(v_cond=v_cond, v_branch=branch)
        v = v_branches[0] + self.text_scale * (v_cond - v_branches[0])
        if self.renorm == "text_channel":
            v = renormed(v, v_cond, "channel", self.renorm_min, self.patch)
        if len(v_branches) > 1:
            v = v_branches[1] + self.image_scale * (v - v_branches[1])
        if self.renorm == "none" or self.renorm == "text_channel":
            return v
        return renormed(v, v_cond, self.renorm, self.renorm_min, self.patch)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why there must be velocities."""
        yield from _nothing_to_hold(self.penalty, config)
        if "channel" in self.renorm and not config.image_head.denoises:
            yield (
                f"renorm={self.renorm} is of image tokens' velocities, and image_head={config.image_head.name} has"
                " none; use guidance.renorm=image"
            )


def renormed(v: Tensor, v_cond: Tensor, norm: Norm, least: float = 0.0, patch: int = 1) -> Tensor:
    """``v clamp(|v_cond| / |v|, least, 1)``, the norms in fp32.

    Args:
        v: [B, ...]; [B, C, H, W] for ``channel``.
        v_cond: of the same shape.
        norm: whose norm it is.
        least: smallest factor.
        patch: side of the square of latent pixels behind one image token.

    Raises:
        ShapeError: ``channel`` of what is no map of whole image tokens.
    """
    target, found = (_norm(u, norm, patch) for u in (v_cond, v))
    factor = (target / found.clamp(min=1e-8)).clamp(least, 1)
    if norm != "channel":
        return v * per_row(factor, v)
    return v * factor.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None].to(v)


def _norm(v: Tensor, norm: Norm, patch: int) -> Tensor:
    """0-d, [B], or [B, H / patch, W / patch]."""
    squares = v.float().square()
    if norm == "global":
        return squares.sum().sqrt()
    if norm == "image":
        return over_elements(squares, "sum").sqrt()
    if v.dim() != 4 or v.shape[2] % patch or v.shape[3] % patch:
        raise ShapeError(f"expected [B, C, H, W] with H and W multiples of patch={patch}, got {list(v.shape)}")
    return squares.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).sum((1, 3, 5)).sqrt()


def _nothing_to_hold(penalty: str, config: Configuration) -> Iterator[str]:
    if penalty == "conditional" and not config.image_head.denoises and config.modalities.image:
        yield (
            f"penalty=conditional holds velocities, and image_head={config.image_head.name} has none;"
            " use guidance.penalty=guided"
        )
