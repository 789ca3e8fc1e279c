"""A pipeline of diffusers as a policy: its transformer makes the images, a language model the texts, if there is one.

What conditions an image is a text: the pipeline's own encoders read it.  They are not trained, but for one that is the
language model itself.  A pipeline that edits reads, besides, the image before that text: its transformer reads the
latents behind the noise, and its encoders see the picture where they have eyes.  The language model sees none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

import torch
from torch import Tensor, nn

from unigrpo.errors import ConfigError
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.libraries import Arguments, Foreign
from unigrpo.models.linear import exact_linears
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.pipelines.family import Conditions, Family, Pipeline
from unigrpo.models.pipelines.pictures import pictures_in
from unigrpo.models.policy import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

#: Tokens [B, L] and their mask: a block as it came.
Block = tuple[Tensor, Tensor]


class Reading(Protocol):
    """What makes the texts that condition images out of the blocks of an episode."""

    def __call__(self, blocks: tuple[Block, ...], rows: int) -> list[str]:
        """One text for each of ``rows`` episodes."""
        ...


@dataclass(frozen=True)
class Source:
    """The images that are edited, those read last.

    Attributes:
        latents: [B, C, h, w].
        there: [B] bool, which rows have one; on the CPU, as each step asks.
        features: [B, H, 3 W], their pixels, where encoders see them.
    """

    latents: Tensor
    there: Tensor
    features: Tensor | None = None

    def rows(self, index: Tensor) -> Source | None:
        """Some rows; None if none of them has an image."""
        there, index = self.there[index.cpu()], index.to(self.latents.device)
        features = None if self.features is None else self.features[index]
        return Source(self.latents[index], there, features) if there.any() else None


@dataclass(frozen=True)
class PipelineContext:
    """The texts since the last image, and that image; a :class:`~unigrpo.models.policy.Context`.

    Attributes:
        batch: B.
        blocks: as they came; a row has no token in those before its image.
        text: of the language model, all of it; None without one.
        source: None where no image was read.
        encoded: what the encoders make of it, kept when it is first asked for, with and without a gradient.
        live: whether gradients may flow from an image through the encoders, where these are trained.
    """

    batch: int
    blocks: tuple[Block, ...]
    text: MoTContext | None
    source: Source | None = None
    encoded: dict[bool, Conditions] = field(default_factory=dict, repr=False, compare=False)
    live: bool = True

    def repeat(self, times: int) -> PipelineContext:
        """Every row ``times`` times, neighbours together."""
        return self.rows(torch.arange(self.batch).repeat_interleave(times))

    def rows(self, index: Tensor) -> PipelineContext:
        """Some rows, [n] int64, each as often as it is named."""
        blocks = tuple((tokens[index.to(tokens.device)], mask[index.to(mask.device)]) for tokens, mask in self.blocks)
        text = None if self.text is None else self.text.rows(index.to(self.text.valid.device))
        source = None if self.source is None else self.source.rows(index)
        return replace(self, batch=len(index), blocks=blocks, text=text, source=source, encoded={})

    def detach(self) -> PipelineContext:
        """The same, through which no gradient flows; the encoders' work is shared."""
        return replace(self, text=None if self.text is None else self.text.detach(), live=False)

    def followed_by(self, longer: PipelineContext) -> PipelineContext:
        """``longer``, of which this is the beginning."""
        if self.text is None or longer.text is None:
            return longer
        return replace(longer, text=self.text.followed_by(longer.text))


class PipelinePolicy(nn.Module):
    """Implements :class:`~unigrpo.models.policy.VisionPolicy`, and refuses images where its pipeline edits none.

    Args:
        pipe: a pipeline of diffusers; of its modules the transformer alone is the policy's, made exact.
        family: its row.
        reading: what conditions images.
        language: what writes, perhaps the pipeline's own text encoder; None for a policy of images alone.
        options: what ``encode_prompt`` is told besides.
        embedded_guidance: for transformers that are told a guidance scale (FLUX.1 dev).
    """

    def __init__(
        self,
        pipe: Pipeline,
        family: Family,
        reading: Reading,
        language: CausalLM | None = None,
        *,
        options: Arguments | None = None,
        embedded_guidance: float = 3.5,
    ):
        super().__init__()
        self.pipe, self.family, self.reading = pipe, family, reading
        self.options, self.embedded_guidance = options or {}, embedded_guidance
        self.transformer: Foreign = exact_linears(pipe.transformer)
        self.language = language

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.transformer.parameters()).device

    def to(self, device: torch.device) -> Self:  # type: ignore[override]  # of a policy a run moves no dtype
        """Move it, and the pipeline's encoders and autoencoder."""
        self.pipe.to(device)
        return super().to(device)

    def __deepcopy__(self, memo: dict[int, object]) -> PipelinePolicy:
        """Another policy with weights of its own, and the same encoders and autoencoder, which are there once."""
        memo[id(self.pipe)] = self.pipe
        other = memo[id(self)] = type(self).__new__(type(self))
        other.__dict__ = copy.deepcopy(self.__dict__, memo)
        if self.encodes and other.language is not None:
            other.pipe = copy.copy(self.pipe)
            other.pipe.__dict__["text_encoder"] = other.language.model
        return other

    @property
    def encodes(self) -> bool:
        """Whether the language model is the pipeline's text encoder, too."""
        return self.language is not None and self.language.model is getattr(self.pipe, "text_encoder", None)

    def start(self, batch: int) -> PipelineContext:
        """The empty context of ``batch`` rows."""
        return PipelineContext(batch, (), None if self.language is None else self.language.start(batch))

    def extend_text(
        self, context: PipelineContext, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, PipelineContext]:
        """Append tokens [B, L] where ``mask`` holds; logits [B, L, V], or [B, 0, V], and the longer context.

        Raises:
            ConfigError: logits are asked for, and there is no language model.
        """
        blocks = (*context.blocks, (tokens, mask))
        if self.language is None:
            if logits:
                _refuse("writes no texts", "model.language_model=FOLDER, or episode.thinking=false")
            nothing = tokens.new_zeros(len(tokens), 0, 0, dtype=torch.float32)
            return nothing, replace(context, blocks=blocks, encoded={})
        assert context.text is not None
        scores, text = self.language.extend_text(context.text, tokens, mask, logits=logits)
        return scores, replace(context, blocks=blocks, text=text, encoded={})

    def extend_image(self, context: PipelineContext, latents: Tensor, alive: Tensor) -> PipelineContext:
        """Edit this image [B, C, h, w] from now on, by the texts that follow it, in the rows where ``alive`` holds.

        Raises:
            ConfigError: the pipeline edits no images.
        """
        if self.family.refer is None:
            _refuse("reads no images", "episode=single_round")
        there, old = alive.cpu(), context.source
        if not there.any():
            return context
        if old is not None:
            latents, there = latents.where(alive[:, None, None, None], old.latents), there | old.there
        ended = () if alive.all() else tuple((tokens, mask & ~alive[:, None]) for tokens, mask in context.blocks)
        source = Source(latents, there, None if old is None else old.features)
        return replace(context, blocks=ended, source=source, encoded={})

    def extend_features(self, context: PipelineContext, features: Tensor, alive: Tensor) -> PipelineContext:
        """Let the encoders see the pixels [B, H, 3 W] of the image that is edited, where ``alive`` holds."""
        source = context.source
        if source is None or not alive.any():
            return context
        if source.features is not None:
            features = features.where(alive[:, None, None], source.features)
        return replace(context, source=replace(source, features=features), encoded={})

    def velocity(self, context: PipelineContext, x: Tensor, t: Tensor) -> Tensor:
        """Noise - data at ``x`` [B, C, h, w], ``t`` 0-d or [B]; in the dtype of ``x``."""
        source = context.source
        if source is not None and not source.there.all():
            return self._velocity_in_parts(context, source.there, x, t)
        family, size = self.family, (x.shape[2], x.shape[3])
        weight = next(self.transformer.parameters())
        sigma = t.to(x.device, torch.float32).expand(len(x))
        told = self._conditions(context).arguments
        arguments = told | family.call(self.pipe, x.to(weight.dtype), family.time(self.pipe, sigma), told)
        tokens = None
        if source is not None and family.refer is not None:
            tokens = arguments["hidden_states"].shape[1]
            arguments = family.refer(arguments, source.latents.to(weight.dtype))
        if self.transformer.config.get("guidance_embeds"):
            arguments["guidance"] = torch.full_like(sigma, self.embedded_guidance)
        output = self.transformer(**arguments, return_dict=False)[0]
        output = output if tokens is None else output[:, :tokens]
        return family.sign * family.unpack(output, size).to(x.dtype)

    def _velocity_in_parts(self, context: PipelineContext, there: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The rows that edit an image, and those that make one, which have fewer tokens."""
        found, times = torch.empty_like(x), t.expand(len(x))
        for part in (there, ~there):
            rows = part.nonzero()[:, 0].to(x.device)
            found[rows] = self.velocity(context.rows(rows), x[rows], times[rows.to(times.device)])
        return found

    def parameters_of(self, modality: Modality) -> Iterator[nn.Parameter]:
        """Trainable parameters of the language model, or of the transformer."""
        module = self.language if modality == "text" else self.transformer
        return (p for p in (module.parameters() if module is not None else ()) if p.requires_grad)

    def _conditions(self, context: PipelineContext) -> Conditions:
        """What the encoders make of a context's texts and pictures; each pair is read once, whatever rows have it."""
        # A context and its detached ones share what they keep: a graph must not reach those that have none.
        flows = torch.is_grad_enabled() and self.encodes and context.live
        if flows not in context.encoded:
            texts = self.reading(context.blocks, context.batch)
            pictures = self._pictures(context)
            pairs = list(zip(texts, [picture.tobytes() for picture in pictures] or [b""] * len(texts), strict=True))
            different = list(dict.fromkeys(pairs))
            rows = [pairs.index(pair) for pair in different]
            told = self.options | ({"image": [pictures[row] for row in rows]} if pictures else {})
            encode = self.family.encode if context.blocks else self.family.encode_negative or self.family.encode
            with torch.set_grad_enabled(flows):
                found = encode(self.pipe, [texts[row] for row in rows], **told)
            context.encoded[flows] = found.take([different.index(pair) for pair in pairs])
        return context.encoded[flows]

    def _pictures(self, context: PipelineContext) -> list[Image]:
        """One for each row, where the encoders see what is edited."""
        if not self.family.sees:
            return []
        if context.source is None or context.source.features is None:
            _refuse("edits a picture, and there is none", "episode=editing, and a guidance that keeps images")
        return pictures_in(context.source.features)


def _refuse(lacks: str, way_out: str) -> NoReturn:
    raise ConfigError(f"model=diffusers: {lacks}; use {way_out}")
