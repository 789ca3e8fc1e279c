"""The policy protocol: all that a run asks of a unified model.

A *context* is whatever the model keeps of the segments so far (for a transformer, keys and values).  It is opaque: only
the model looks inside.  It is built once per segment and never changed in place, so that all denoising steps, and all
members of a group, share it.  ``conformance/`` checks an adapter against what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

Modality = Literal["text", "image"]


class Context(Protocol):
    """What a model keeps of B rows of segments; every method makes a new one."""

    @property
    def batch(self) -> int:
        """B."""
        ...

    def repeat(self, times: int) -> Self:
        """Every row ``times`` times, neighbours together: [a, b] -> [a, a, b, b]."""
        ...

    def rows(self, index: Tensor) -> Self:
        """Some rows, [n] int64, each as often as it is named."""
        ...

    def detach(self) -> Self:
        """The same, through which no gradient flows."""
        ...

    def followed_by(self, longer: Self) -> Self:
        """``longer``, of which this is the beginning: gradients flow through the beginning alone."""
        ...


#: An adapter names its own context, ``Policy[MyContext]``; a run takes any.
C = TypeVar("C", bound=Context, default=Any)


class Policy(Protocol[C]):
    """A unified model as a run sees it.

    Texts are token blocks [B, L] with a bool mask, right-padded; latents are maps [B, C, H, W]; time t is 1 at noise.
    What is not about texts and images is as in :class:`torch.nn.Module`, from which an adapter takes it; the model may
    be several modules.
    """

    training: bool

    @property
    def device(self) -> torch.device:
        """Where it is, and its contexts."""
        ...

    def start(self, batch: int) -> C:
        """The empty context of ``batch`` rows."""
        ...

    def extend_text(self, context: C, tokens: Tensor, mask: Tensor, *, logits: bool = True) -> tuple[Tensor, C]:
        """Append tokens [B, L] int64 where ``mask`` [B, L] holds; a row may have none.

        Returns:
            Next-token logits [B, L, V] at each of them, or [B, 0, V] without ``logits``; and the longer context.
        """
        ...

    def extend_image(self, context: C, latents: Tensor, alive: Tensor) -> C:
        """Append a clean image [B, C, H, W], given or the policy's own, in the rows where ``alive`` [B] is True."""
        ...

    def velocity(self, context: C, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt = noise - data at ``x`` [B, C, H, W] and ``t`` (0-d or [B]), in the dtype of ``x``."""
        ...

    def parameters_of(self, modality: Modality) -> Iterable[nn.Parameter]:
        """The trainable parameters of one modality; the two sets are disjoint and cover what is trained."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters with unique names."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or thaw all parameters."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move it."""
        ...

    def train(self, mode: bool = True) -> Self:
        """Enter training mode, which must not change what is computed: no dropout."""
        ...

    def eval(self) -> Self:
        """Leave training mode."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All weights by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Take over the weights of :meth:`state_dict`."""
        ...


@runtime_checkable
class VisionPolicy(Protocol[C]):
    """What a processor with a vision encoder asks of a unified model besides: it reads features of images."""

    def extend_features(self, context: C, features: Tensor, alive: Tensor) -> C:
        """Append features [B, N, D] of the image that ends ``context``, in the rows where ``alive`` [B] is True.

        They come directly after :meth:`Policy.extend_image`, or after the last code; the text policy reads them as it
        reads a given text, and its loss trains what reads them.
        """
        ...


class CodePolicy(Protocol[C]):
    """What image_head=tokens asks of a unified model besides: images are N codes of K, and need no velocity."""

    @property
    def num_image_codes(self) -> int:
        """K, which is itself the token that begins an image."""
        ...

    def extend_codes(self, context: C, tokens: Tensor, alive: Tensor, first: int = 0) -> tuple[Tensor, C]:
        """Append some of an image's N + 1 tokens, the ``first`` being in the context; next-code logits [B, L, K]."""
        ...

    def codes_of(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] -> codes [B, N] int64, N = H * W."""
        ...

    def latents_of(self, codes: Tensor) -> Tensor:
        """Codes [B, N] -> latents [B, C, H, W]."""
        ...
