"""The words that a policy of the world ``shapes`` must know."""

from __future__ import annotations

from functools import cache

from unigrpo.data.dataset import SPLITS
from unigrpo.worlds.shapes.edits import Add, Count, Move, Recolour, Remove, Replace
from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES
from unigrpo.worlds.shapes.prompts import all_prompts
from unigrpo.worlds.shapes.reflection import FINE, SEE, WRONG
from unigrpo.worlds.shapes.sft_data import QUESTION
from unigrpo.worlds.shapes.stories import Story
from unigrpo.worlds.shapes.things import Thing
from unigrpo.worlds.shapes.thinking import STOP, VAGUE_COLOUR, VAGUE_SHAPE


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of prompts, instructions, questions, thinking texts and reflections, sorted."""
    texts = [prompt.prompt for split in SPLITS for prompt in all_prompts(split)]
    texts += [*PLACES, *COLOURS, *SHAPES, VAGUE_COLOUR, VAGUE_SHAPE, STOP, QUESTION, SEE, FINE, WRONG]
    shape, colour, place = SHAPES[0], next(iter(COLOURS)), next(iter(PLACES))
    edits = (Add(shape, colour), Remove(shape), Replace(shape, colour, shape), Move(shape, place), Count(shape, 1))
    texts.append(Story((Thing(shape, colour),), (Recolour(shape, colour), *edits[:1])).prompt)
    texts += map(str, edits)
    return tuple(sorted({word for text in texts for word in text.split()}))
