"""Chains of edits that make sense one after another, in three disjoint splits: source image and instructions.

The splits share no edit of a scene with the same objects, at no turn of any chain: see ``in_split``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import TypeVar

from unigrpo.data.dataset import Split
from unigrpo.data.prompt import key_of
from unigrpo.worlds.shapes.edits import EDITS, MOST, Edit, apply_edit
from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES, Scene, random_item

#: Edits of a prompt: an editing episode has up to so many turns.
TURNS = 3
#: Prompts of each type and split.
PROMPTS: Mapping[Split, int] = {"train": 1000, "validation": 200, "test": 200}
#: Draws of an edit before a scene is given up.
_TRIES = 16

_Drawn = TypeVar("_Drawn")


def in_split(scene: Scene, edit: Edit, split: Split) -> bool:
    """Whether an edit of what a scene holds (places apart) belongs to ``split``.

    A quarter is held out: one half of it for the test, the other for validation.
    """
    looks = sorted(f"{item.colour} {item.shape}" for item in scene.items)
    digest = hashlib.blake2b(f"{looks} {edit}".encode(), digest_size=8).digest()
    return {0: "test", 4: "validation"}.get(digest[0] % 8, "train") == split


def random_scene(rng: random.Random, count: int, alike: bool = False) -> Scene:
    """``count`` random objects, of distinct shapes or all alike."""
    shapes, colours = rng.sample(SHAPES, count), rng.choices(tuple(COLOURS), k=count)
    if alike:
        shapes, colours = shapes[:1] * count, colours[:1] * count
    places = rng.sample(tuple(PLACES), count)
    return Scene(tuple(random_item(rng, *each) for each in zip(places, shapes, colours, strict=True)))


def distinct(split: Split, name: str, draw: Callable[[random.Random], _Drawn]) -> tuple[_Drawn, ...]:
    """As many prompts as ``split`` has of a kind, no two alike, the same whenever it is asked."""
    if split not in PROMPTS:
        raise ValueError(f"split: expected one of {', '.join(PROMPTS)}, got {split!r}")
    rng = random.Random(f"{name} {split}")
    drawn: dict[_Drawn, None] = {}
    while len(drawn) < PROMPTS[split]:
        drawn[draw(rng)] = None
    return tuple(drawn)


def random_edit(split: Split, kind: str | None, scene: Scene, rng: random.Random) -> Edit | None:
    """An edit of ``kind`` (None: any) of ``split`` that makes sense in ``scene``; None if none is found."""
    for _ in range(_TRIES):
        edit = EDITS[kind or rng.choice(tuple(EDITS))].propose(scene, rng)
        if edit is not None and in_split(scene, edit, split):
            return edit
    return None


def random_chain(
    split: Split, kinds: Sequence[str | None], counts: Sequence[int], rng: random.Random
) -> tuple[tuple[Edit, ...], tuple[Scene, ...]]:
    """Edits that make sense one after another, and the scenes before and after each.

    Args:
        split: to which each edit in its scene belongs.
        kinds: type of each edit, None for any.
        counts: from which the number of objects at the start is drawn.
        rng: source of all randomness.
    """
    while True:
        scenes = [random_scene(rng, rng.choice(counts), alike=kinds[0] == "count" or rng.random() < 1 / len(EDITS))]
        edits: list[Edit] = []
        for kind in kinds:
            edit = random_edit(split, kind, scenes[-1], rng)
            if edit is None:
                break
            edits.append(edit)
            scenes.append(apply_edit(edit, scenes[-1], rng))
        else:
            return tuple(edits), tuple(scenes)


@dataclass(frozen=True)
class EditPrompt:
    """An image and what to do with it, turn by turn."""

    source: Scene
    edits: tuple[Edit, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """Type of each edit."""
        return tuple(edit.kind for edit in self.edits)

    @property
    def tag(self) -> str:
        """Type of the first edit."""
        return self.types[0]

    @property
    def prompt(self) -> str:
        """The first instruction."""
        return self.instructions[0]

    @property
    def instructions(self) -> tuple[str, ...]:
        """One for each turn."""
        return tuple(map(str, self.edits))

    @property
    def key(self) -> str:
        """A name for files and records, stable under any change of the other prompts."""
        return key_of(self.tag, f"{self.source} {self.instructions}")

    def to_json(self) -> str:
        """A line of a prompt file."""
        source = [asdict(item) for item in self.source.items]
        return json.dumps({"tag": self.tag, "source": source, "instructions": self.instructions, "prompt": self.prompt})


def random_edit_prompt(split: Split, kind: str, rng: random.Random) -> EditPrompt:
    """A chain that begins with an edit of type ``kind``."""
    edits, scenes = random_chain(split, (kind, *(None,) * (TURNS - 1)), range(1, MOST + 1), rng)
    return EditPrompt(scenes[0], edits)


@cache
def edits_by_type(split: Split) -> Mapping[str, tuple[EditPrompt, ...]]:
    """Type -> its prompts in ``split``, fixed once and for all."""
    return {kind: distinct(split, f"edits {kind}", partial(random_edit_prompt, split, kind)) for kind in EDITS}
