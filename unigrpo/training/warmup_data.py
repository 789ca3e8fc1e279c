"""The warm-up's training set: episodes of words and scenes as a policy's tokens and latents."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.rollout.trajectory import ImageSegment, Segment, TextSegment
from unigrpo.worlds.shapes import warmup_episodes
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.warmup_episodes import Faults

#: One kind's training set: segments of n rows, ragged ones masked.
Episodes = tuple[Segment, ...]


def rows_of(episodes: Episodes, rows: Tensor) -> Episodes:
    """Some rows, cut to the longest text and the last segment that any of them has."""
    kept: list[Segment] = []
    for segment in episodes:
        if isinstance(segment, TextSegment):
            mask = segment.mask[rows]
            length = max(1, int(mask.sum(1).max()))
            cut: Segment = dataclasses.replace(segment, tokens=segment.tokens[rows, :length], mask=mask[:, :length])
        else:
            cut = dataclasses.replace(segment, latents=segment.latents[rows], alive=segment.alive[rows])
        if not cut.alive.any():
            break
        kept.append(cut)
    return tuple(kept)


def draw_episodes(kind: str, count: int, seed: int, faults: Faults, model: UnifiedModel) -> Episodes:
    """The training set of one kind: ``count`` episodes."""
    drawn = warmup_episodes.episodes(kind, random.Random(f"{seed} {kind}"), count, faults)
    segments: list[Segment] = []
    for index in range(max(map(len, drawn))):
        column: list[Any] = [episode[index] if index < len(episode) else None for episode in drawn]
        first = next(event for event in column if event is not None)
        if isinstance(first, warmup_episodes.Picture):
            alive = torch.tensor([event is not None for event in column])
            # A row without the picture holds any other one: what it holds means nothing.
            latents = _encode([(event or first).scene for event in column], model)
            segments.append(ImageSegment((), latents, alive, first.given, first.turn))
        else:
            segments.append(TextSegment(*_tokens(column, model.tokenizer), first.given, first.turn))
    return tuple(segments)


def _encode(scenes: Sequence[Any], model: UnifiedModel) -> Tensor:
    with torch.no_grad():
        pixels = [torch.from_numpy(render(scenes[k : k + 2048])) for k in range(0, len(scenes), 2048)]
        return torch.cat([model.autoencoder.encode(part) for part in pixels])


def _tokens(column: Sequence[Any], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    texts = ["" if event is None else event.words for event in column]
    tokens, mask = tokenizer.encode(texts)
    last = mask.sum(1) - 1
    for row, event in enumerate(column):
        if event is None:
            mask[row] = False
        elif event.end == "paint":
            tokens[row, last[row]] = tokenizer.start_of_image
    return tokens, mask
