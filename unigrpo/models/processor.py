"""Between prompts, words and pixels on one side, and a policy's tokens and latents on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch

from unigrpo.data.prompt import ImageSource, Prompt
from unigrpo.errors import ConfigError
from unigrpo.models.autoencoder import Autoencoder
from unigrpo.models.template import ChatTemplate
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.models.vision import VisionEncoder
from unigrpo.rollout.decoded import DecodedEpisodes, End, ImagePart, TextPart
from unigrpo.rollout.trajectory import ImageSegment, Segment, TextSegment, Trajectory


@dataclass(frozen=True)
class SpecialIds:
    """The token ids that a rollout knows by their role.

    Attributes:
        bos: begins a text block.
        eos: ends a text block.
        pad: fills ragged blocks.
        image: ends a text block by asking for an image.
        prompt: begins a given text block, where that is another than ``bos``.
        system: of a text block that every context begins with, without what begins it; empty for none.
        stops: what ends a text block of the policy's own besides ``eos``.
    """

    bos: int
    eos: int
    pad: int
    image: int
    prompt: int | None = None
    system: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()


class Processor(Protocol):
    """What a run asks for besides the policy: tokens and latents of prompts, texts and images of trajectories."""

    @property
    def ids(self) -> SpecialIds:
        """The special tokens."""
        ...

    def image_size(self, height: int = 0, width: int = 0) -> tuple[int, int]:
        """(H, W) in pixels of an image that is asked for in that size; 0 and 0 ask for the model's own.

        Raises:
            ConfigError: the model has no images of that size.
        """
        ...

    def latent_shape(self, height: int = 0, width: int = 0) -> tuple[int, int, int]:
        """(C, h, w) of the latents of such an image."""
        ...

    def encode(self, prompts: Sequence[Prompt], height: int = 0, width: int = 0) -> tuple[Segment, ...]:
        """What the prompts give, one row each, in the order in which it is due; images in the size asked for.

        With a vision encoder the images have features of their own pixels.
        """
        ...

    @property
    def see(self) -> Callable[[ImageSegment], torch.Tensor] | None:
        """What makes features [B, N, D] of generated images, from their decoded latents; None without an encoder."""
        ...

    def decode(self, trajectory: Trajectory) -> DecodedEpisodes:
        """What was said and shown, one row per episode; pixels on the CPU."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move what it computes with, and what it makes."""
        ...


@dataclass(frozen=True)
class LatentGrid:
    """The latents that a policy can make.

    Attributes:
        channels: of a latent pixel.
        height: of the model's own images, in latent pixels.
        width: likewise.
        patch: side of the square of latent pixels behind one image token.
        largest: the longest side, in latent pixels; 0 if there is none.
    """

    channels: int
    height: int
    width: int
    patch: int = 1
    largest: int = 0


class StandardProcessor:
    """Translates by a tokenizer, an autoencoder and, if a model wants them, a chat template and a vision encoder.

    A text block is framed by the tokenizer's bos and eos.  With a template a request is framed by that instead: it
    begins with the template's first token, and the template's last token is what a reply begins with.  Where nothing
    is replied (``answered`` is false) a request keeps that token.

    Args:
        tokenizer: of texts.
        autoencoder: of images.
        grid: of the policy's latents.
        template: of requests.
        vision: of images that the policy reads.
        system_prompt: a text block of its own before all else, guidance's contexts included; empty for none.
        answered: whether a text of the policy's own follows a request.
        stops: tokens besides eos that end such a text.

    Raises:
        ConfigError: the template gives no two tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        autoencoder: Autoencoder,
        grid: LatentGrid,
        template: ChatTemplate | None = None,
        vision: VisionEncoder | None = None,
        system_prompt: str = "",
        *,
        answered: bool = True,
        stops: tuple[int, ...] = (),
    ):
        self.tokenizer, self.autoencoder, self.grid, self.template = tokenizer, autoencoder, grid, template
        self.vision, self.answered = vision, answered
        self.device = torch.device("cpu")
        self._ids = SpecialIds(tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.start_of_image, stops=stops)
        if template is not None:
            (frame,) = tokenizer.ids_of([template.render("")])
            if len(frame) < 2:
                raise ConfigError(f"the chat template: expected two tokens or more around a request, got {len(frame)}")
            self._ids = replace(self._ids, prompt=frame[0], bos=frame[-1])
        if system_prompt:
            (said,) = tokenizer.ids_of([system_prompt])
            self._ids = replace(self._ids, system=(*said, tokenizer.eos))

    @property
    def ids(self) -> SpecialIds:
        """The special tokens."""
        return self._ids

    def to(self, device: torch.device) -> Self:
        """Move the autoencoder and the vision encoder, and what is made."""
        self.autoencoder = self.autoencoder.to(device)
        self.vision = None if self.vision is None else self.vision.to(device)
        self.device = device
        return self

    def image_size(self, height: int = 0, width: int = 0) -> tuple[int, int]:
        """(H, W) in pixels; 0 and 0 are the model's own."""
        factor, grid = self.autoencoder.factor, self.grid
        step, largest = factor * grid.patch, factor * grid.largest
        wrong = [n for n in (height, width) if n % step or (largest and n > largest)]
        if wrong or bool(height) != bool(width):
            limit = f" up to {largest}" if largest else ""
            raise ConfigError(
                f"sampler.height={height}, sampler.width={width}: expected multiples of {step} pixels{limit}, or 0 and"
                " 0 for the model's own size"
            )
        return (height, width) if height else (grid.height * factor, grid.width * factor)

    def latent_shape(self, height: int = 0, width: int = 0) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image of :meth:`image_size`."""
        pixels = self.image_size(height, width)
        return (self.grid.channels, pixels[0] // self.autoencoder.factor, pixels[1] // self.autoencoder.factor)

    def encode(self, prompts: Sequence[Prompt], height: int = 0, width: int = 0) -> tuple[Segment, ...]:
        """What the prompts give, one row each: their images, if they have any, and their texts in order.

        Args:
            prompts: of the batch.
            height: of the images, as of :meth:`image_size`; those of another size are fitted (:func:`fitted`).
            width: likewise.

        Raises:
            ConfigError: not all prompts of the batch have equally many images and texts.
        """
        keys = [prompt.key for prompt in prompts]
        images, texts = [prompt.images for prompt in prompts], [prompt.texts for prompt in prompts]
        _check_alike("the number of their images", keys, list(map(len, images)))
        _check_alike("the number of their texts", keys, list(map(len, texts)))
        size = self.image_size(height, width)
        given = (self._image(column, size) for column in zip(*images, strict=True))
        return (*given, *map(self._text, zip(*texts, strict=True)))

    def _text(self, texts: Sequence[str]) -> TextSegment:
        tokens, mask = self.tokenizer.encode(texts) if self.template is None else self._requests(self.template, texts)
        return TextSegment(tokens.to(self.device), mask.to(self.device), given=True)

    def _requests(self, template: ChatTemplate, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Requests without their first token, which the rollout puts there, and their last if it begins a reply."""
        rows = self.tokenizer.ids_of([template.render(text) for text in texts])
        frame = (self._ids.prompt, self._ids.bos)
        for text, row in zip(texts, rows, strict=True):
            if (row[0], row[-1]) != frame:
                raise ConfigError(
                    f"the chat template: expected every request to begin with token {frame[0]} and to end with"
                    f" {frame[1]}, got {row[0]} and {row[-1]} for {text!r:.80}"
                )
        return self.tokenizer.padded([row[1 : len(row) - self.answered] for row in rows])

    def _image(self, images: Sequence[ImageSource], size: tuple[int, int]) -> ImageSegment:
        latents, features = self.encode_images(images, size)
        alive = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
        return ImageSegment((), latents, alive, given=True, features=features)

    @torch.no_grad()
    def encode_images(
        self, images: Sequence[ImageSource], size: tuple[int, int], *, followed: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents [B, C, h, w] of images fitted to (H, W), and features [B, N, D] of the same pixels.

        No features without a vision encoder, nor if nothing follows the images (``followed``): nobody would read them.
        """
        pixels = torch.stack([fitted(torch.from_numpy(image.pixels()), size) for image in images]).to(self.device)
        features = self.vision(pixels) if followed and self.vision is not None else None
        return self.autoencoder.encode(pixels), features

    @property
    def see(self) -> Callable[[ImageSegment], torch.Tensor] | None:
        """What makes features of generated images; None without a vision encoder."""
        vision = self.vision
        if vision is None:
            return None

        @torch.no_grad()
        def features_of(image: ImageSegment) -> torch.Tensor:
            latents = image.latents.where(image.alive[:, None, None, None], 0.0)
            return vision(self.autoencoder.decode(latents).float())

        return features_of

    @torch.no_grad()
    def decode(self, trajectory: Trajectory) -> DecodedEpisodes:
        """What was said and shown, one row per episode."""
        prompts = trajectory.row_prompts
        parts: list[TextPart | ImagePart] = []
        for segment in trajectory.segments:
            part = self._words(segment) if isinstance(segment, TextSegment) else self._pictures(segment)
            parts.append(_repeated(part, len(prompts) // segment.rows))
        return DecodedEpisodes(prompts, tuple(parts))

    def _words(self, segment: TextSegment) -> TextPart:
        tokenizer = self.tokenizer
        lengths = segment.mask.sum(1)
        last = segment.tokens.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        names: dict[int, End] = {tokenizer.start_of_image: "image"}
        names |= dict.fromkeys((tokenizer.eos, *self.ids.stops), "stop")
        ends = [
            names.get(token, "cut") if said else None
            for token, said in zip(last.tolist(), segment.alive.tolist(), strict=True)
        ]
        kept = segment.mask.clone()
        for row, (end, length) in enumerate(zip(ends, lengths.tolist(), strict=True)):
            if end in ("stop", "image"):
                kept[row, length - 1] = False
        return TextPart(tokenizer.decode(segment.tokens, kept), ends, lengths.tolist(), segment.given, segment.turn)

    def _pictures(self, segment: ImageSegment) -> ImagePart:
        pixels = self.autoencoder.decode(segment.latents).float().cpu()
        return ImagePart(pixels, segment.alive.tolist(), segment.given, segment.turn)


def fitted(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """An image [3, H, W] in [-1, 1] in another ``size``: scaled until it covers it, and cut evenly at its sides.

    Scaled by antialiased bicubic interpolation; an image of that size already stays as it is.
    """
    old, new = pixels.shape[1:], size
    if tuple(old) == tuple(new):
        return pixels
    scale = max(new[0] / old[0], new[1] / old[1])
    height, width = (max(side, round(length * scale)) for side, length in zip(new, old, strict=True))
    scaled = torch.nn.functional.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)[0]
    top, left = (height - new[0]) // 2, (width - new[1]) // 2
    return scaled[:, top : top + new[0], left : left + new[1]].clamp(-1, 1)


def _check_alike(what: str, keys: Sequence[str], found: Sequence[int]) -> None:
    """All rows of a batch go through the same segments: what only some prompts give would be paired with others."""
    odd = next((row for row, value in enumerate(found) if value != found[0]), None)
    if odd is not None:
        raise ConfigError(
            f"prompts of one batch: {keys[0]!r} and {keys[odd]!r} differ in {what}; expected all {len(keys)} alike,"
            " train and evaluate on each kind in a run of its own"
        )


def _repeated(part: TextPart | ImagePart, times: int) -> TextPart | ImagePart:
    if times == 1:
        return part
    if isinstance(part, ImagePart):
        alive = [alive for alive in part.alive for _ in range(times)]
        return replace(part, pixels=part.pixels.repeat_interleave(times, 0), alive=alive)
    rows = [row for row in range(len(part.texts)) for _ in range(times)]
    texts, ends, lengths = part.texts, part.ends, part.lengths
    return replace(
        part,
        texts=[texts[row] for row in rows],
        ends=[ends[row] for row in rows],
        lengths=[lengths[row] for row in rows],
    )
