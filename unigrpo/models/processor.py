"""Between prompts, words and pixels on one side, and a policy's tokens and latents on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from unigrpo.errors import ConfigError
from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.rollout.decoded import DecodedEpisodes, End, ImagePart, TextPart
from unigrpo.rollout.trajectory import ImageSegment, Segment, TextSegment, Trajectory


class Processor:
    """Translates for one model and one world."""

    def __init__(self, model: UnifiedModel, world: Any):
        self.model, self.world = model, world

    def encode(self, prompts: Sequence[Any]) -> tuple[Segment, ...]:
        """What the prompts give, one row each: source pictures, if they have them, and their texts in order.

        Raises:
            ConfigError: some prompts of the batch have a source picture and some do not, or not equally many texts.
        """
        sources = [getattr(prompt, "source", None) for prompt in prompts]
        texts = [getattr(prompt, "instructions", (prompt.prompt,)) for prompt in prompts]
        _check_alike(
            "having a source picture", [prompt.key for prompt in prompts], [one is not None for one in sources]
        )
        _check_alike("the number of their texts", [prompt.key for prompt in prompts], list(map(len, texts)))
        pictures = (self._picture(sources),) if sources[0] is not None else ()
        return (*pictures, *map(self._text, zip(*texts, strict=True)))

    def _text(self, texts: Sequence[str]) -> TextSegment:
        tokens, mask = self.model.tokenizer.encode(texts)
        return TextSegment(tokens.to(self.model.device), mask.to(self.model.device), given=True)

    @torch.no_grad()
    def _picture(self, scenes: Sequence[Any]) -> ImageSegment:
        pixels = torch.stack([torch.from_numpy(self.world.render(scene)) for scene in scenes])
        latents = self.model.autoencoder.encode(pixels.to(self.model.device))
        alive = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
        return ImageSegment((), latents, alive, given=True)

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
        tokenizer = self.model.tokenizer
        lengths = segment.mask.sum(1)
        last = segment.tokens.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        names: dict[int, End] = {tokenizer.eos: "stop", tokenizer.start_of_image: "paint"}
        ends = [
            names.get(token, "cut") if said else None
            for token, said in zip(last.tolist(), segment.alive.tolist(), strict=True)
        ]
        kept = segment.mask.clone()
        for row, (end, length) in enumerate(zip(ends, lengths.tolist(), strict=True)):
            if end in ("stop", "paint"):
                kept[row, length - 1] = False
        return TextPart(tokenizer.decode(segment.tokens, kept), ends, lengths.tolist(), segment.given, segment.turn)

    def _pictures(self, segment: ImageSegment) -> ImagePart:
        pixels = self.model.autoencoder.decode(segment.latents).float().cpu()
        return ImagePart(pixels, segment.alive.tolist(), segment.given, segment.turn)


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
