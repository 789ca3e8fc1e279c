"""The words that a policy of the world ``shapes`` must know."""

from __future__ import annotations

from functools import cache

from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES
from unigrpo.worlds.shapes.prompts import all_prompts
from unigrpo.worlds.shapes.thinking import STOP, VAGUE_COLOUR, VAGUE_SHAPE


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of prompts and thinking texts, sorted."""
    texts = [prompt.prompt for split in ("train", "test") for prompt in all_prompts(split)]
    texts += [*PLACES, *COLOURS, *SHAPES, VAGUE_COLOUR, VAGUE_SHAPE, STOP]
    return tuple(sorted({word for text in texts for word in text.split()}))
