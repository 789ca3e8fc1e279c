"""Decoded episodes made by hand: what some rows said and showed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unigrpo.rollout.decoded import End, ImagePart, TextPart
from unigrpo.worlds.shapes.grammar import Scene
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.thinking import plan_of, write_thinking

#: A text or a picture of a row whose episode was over.
OVER = None


def plan(scene: Scene) -> str:
    """The text that states ``scene``."""
    return write_thinking(plan_of(scene))


def said(*rows: tuple[str, End] | None, turn: int = 0, given: bool = False) -> TextPart:
    """A text with its end, or ``OVER``, of each row."""
    texts, ends = zip(*(row or ("", None) for row in rows), strict=True)
    lengths = [len(text.split()) + (end in ("stop", "image")) for text, end in zip(texts, ends, strict=True)]
    return TextPart(texts, ends, lengths, given, turn)


def shown(*rows: Scene | None, turn: int = 0, given: bool = False) -> ImagePart:
    """A clean picture of the scene, or ``OVER``, of each row; what an ended row holds is rubbish."""
    pixels = torch.full((len(rows), 3, 32, 32), 9.0)
    alive: Sequence[bool] = [row is not None for row in rows]
    pixels[torch.tensor(alive)] = torch.from_numpy(render([row for row in rows if row is not None]))
    return ImagePart(pixels, alive, given, turn)
