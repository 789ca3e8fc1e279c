"""What sets one pipeline of diffusers apart from the next: a row of a table, :class:`Family`.

In every family sigma runs from 1 to 0, ``x = (1 - sigma) data + sigma noise``, and what is wanted is
``noise - data``: sigma is the time of :mod:`unigrpo.flow`.  The rest differs, and stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unigrpo.models.libraries import Arguments, Foreign

if TYPE_CHECKING:
    from torch import Tensor

#: A pipeline of diffusers; each has parts of its own, so there is no type to name.
Pipeline = Foreign
#: (h, w) of a latent map.
Size = tuple[int, int]


@dataclass(frozen=True)
class Conditions:
    """What a pipeline's encoders make of B texts.

    Attributes:
        rows: argument of the transformer -> [B, ...], or B ragged tensors, or None.
        shared: argument -> what has no batch.
    """

    rows: Mapping[str, Tensor | Sequence[Tensor] | None]
    shared: Mapping[str, object] = field(default_factory=dict)

    def take(self, index: Sequence[int]) -> Conditions:
        """Those of some rows, each as often as it is named."""
        return Conditions({name: _taken(value, index) for name, value in self.rows.items()}, self.shared)

    @property
    def arguments(self) -> Arguments:
        """For the transformer."""
        return {**self.rows, **self.shared}


def _taken(value: Tensor | Sequence[Tensor] | None, index: Sequence[int]) -> Tensor | Sequence[Tensor] | None:
    import torch

    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value[torch.tensor(index, device=value.device)]
    return [value[i] for i in index]


def as_it_is(x: Tensor) -> Tensor:
    """A pipeline whose call takes maps."""
    return x


def map_of_call(pipe: Pipeline, latents: Tensor, size: Size) -> Tensor:
    """A pipeline whose call ends with what it was given: a map."""
    return latents


def as_asked(height: int, width: int) -> Arguments:
    """A pipeline that is told the size of its image in pixels."""
    return {"height": height, "width": width}


def one_for_all(picture: Foreign, rows: int) -> Arguments:
    """A pipeline that takes one picture for all of its prompts."""
    return {"image": picture}


def standard_scale(scale: float, rows: int, negative: str) -> Arguments:
    """A pipeline that is told the scale, 1 for none, and a negative text for each row."""
    return {"guidance_scale": scale, "negative_prompt": [negative] * rows}


def plain(pipe: Pipeline, sigma: Tensor) -> Tensor:
    """A model that is fed sigma."""
    return sigma


def thousandfold(pipe: Pipeline, sigma: Tensor) -> Tensor:
    """A model that is fed 1000 sigma."""
    return sigma * 1000


def reversed_time(pipe: Pipeline, sigma: Tensor) -> Tensor:
    """A model whose time is 1 at the data."""
    return 1 - sigma


def linspace(steps: int) -> list[float]:
    """1, ..., 1 / steps: what most pipelines hand to their scheduler."""
    import numpy as np

    return [float(sigma) for sigma in np.linspace(1.0, 1 / steps, steps)]


def interpolated_mu(pipe: Pipeline, tokens: int, steps: int, many: int = 4096) -> float:
    """The mu of dynamic shifting: linear in the number of image tokens, between two that the scheduler names."""
    config = pipe.scheduler.config
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", many)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return tokens * slope + low - slope * few


def tokens_of_patches(size: Size, channels: int) -> int:
    """Image tokens where four latent pixels make one."""
    return (size[0] // 2) * (size[1] // 2)


def scaled_and_shifted(pipe: Pipeline, latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] -> pictures [B, 3, H, W], for an autoencoder with a scale and perhaps a shift."""
    config = pipe.vae.config
    raw = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
    return pipe.vae.decode(raw, return_dict=False)[0]


def to_scaled_and_shifted(pipe: Pipeline, pictures: Tensor) -> Tensor:
    """The inverse: the mean of the encoder's distribution, so that nothing is drawn."""
    config, found = pipe.vae.config, pipe.vae.encode(pictures)
    raw = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
    return (raw - (config.get("shift_factor") or 0.0)) * config.scaling_factor


def standardised(pipe: Pipeline, latents: Tensor) -> Tensor:
    """Latents -> pictures, for an autoencoder of videos with a mean and a deviation for each channel."""
    mean, std = _moments(pipe, latents)
    return pipe.vae.decode((latents * std + mean)[:, :, None], return_dict=False)[0][:, :, 0]


def to_standardised(pipe: Pipeline, pictures: Tensor) -> Tensor:
    """The inverse, with one frame."""
    raw = pipe.vae.encode(pictures[:, :, None]).latent_dist.mode()[:, :, 0]
    mean, std = _moments(pipe, raw)
    return (raw - mean) / std


def _moments(pipe: Pipeline, like: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    config = pipe.vae.config
    mean, std = (torch.tensor(values).to(like)[:, None, None] for values in (config.latents_mean, config.latents_std))
    return mean, std


@dataclass(frozen=True)
class Family:
    """One row: how a pipeline encodes, is called, is timed, guides and decodes.

    Attributes:
        encode: pipeline, texts, and what its ``encode_prompt`` may be told besides -> conditions.
        call: pipeline, noisy map [B, C, h, w], the time that it is fed [B], and the conditions by name -> the arguments
            of the transformer besides those.
        channels: C of the map.
        unpack: the transformer's output and the map's size -> map.
        time: sigma 0-d or [B] fp32 -> what the model is fed.
        sign: -1 where the model's output is ``data - noise``.
        sigmas: number of steps -> what is handed to the scheduler; None for the scheduler's own grid.
        mu: pipeline, image tokens and steps -> mu, where the scheduler shifts dynamically.
        tokens: size and channels of a map -> the number of image tokens that mu depends on.
        guided: conditional and unconditional map and scale -> guided map, where it is not
            ``u + scale (c - u)``.
        decode: map -> pictures [B, 3, H, W] in [-1, 1].
        to_latents: pictures -> map.
        factor: pixels of a map's pixel, a side, as a multiple of the autoencoder's.
        patch: map pixels, a side, that a map's sides must be a multiple of.
        negative: the text that guidance takes for none.
        encode_negative: how that one is encoded, where not as the others.
        refer: the arguments of the transformer and a map [B, C, h, w] that is edited -> those with the map's tokens
            behind the noise's; None where images cannot be read.
        sees: whether the encoders see the picture that is edited, too, beside the text: ``encode`` is then told
            ``image``, one of Pillow's for each text, and its own call cannot do without.
        own_size: (H, W) of a picture -> that to which its own call scales it, where that is another.
        shown: picture and rows -> what that call is told for one that all rows edit.
        sized: (H, W) -> what it is told for an image of that size.
        told: guidance scale, 1 for none, rows and the text that guidance takes for none -> what the pipeline's own call
            is told for it.
        to_call: map -> latents as that call takes them.
        from_call: pipeline, latents as it ends with them, and the map's size -> map.
    """

    encode: Callable[..., Conditions]
    call: Callable[[Pipeline, Tensor, Tensor, Arguments], Arguments]
    channels: Callable[[Pipeline], int]
    unpack: Callable[[Foreign, Size], Tensor] = lambda output, size: output
    time: Callable[[Pipeline, Tensor], Tensor] = plain
    sign: int = 1
    sigmas: Callable[[int], list[float]] | None = linspace
    mu: Callable[[Pipeline, int, int], float] = interpolated_mu
    tokens: Callable[[Size, int], int] = tokens_of_patches
    guided: Callable[[Tensor, Tensor, float], Tensor] | None = None
    decode: Callable[[Pipeline, Tensor], Tensor] = scaled_and_shifted
    to_latents: Callable[[Pipeline, Tensor], Tensor] = to_scaled_and_shifted
    factor: int = 1
    patch: int = 1
    negative: str = ""
    encode_negative: Callable[..., Conditions] | None = None
    refer: Callable[[Arguments, Tensor], Arguments] | None = None
    sees: bool = False
    own_size: Callable[[int, int], Size] = lambda height, width: (height, width)
    shown: Callable[[Foreign, int], Arguments] = one_for_all
    sized: Callable[[int, int], Arguments] = as_asked
    told: Callable[[float, int, str], Arguments] = standard_scale
    to_call: Callable[[Tensor], Tensor] = as_it_is
    from_call: Callable[[Pipeline, Tensor, Size], Tensor] = map_of_call
