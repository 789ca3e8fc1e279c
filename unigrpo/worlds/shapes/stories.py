"""Stories: a prompt that asks for a sequence of images, each an edit of the one before."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial

from unigrpo.data.dataset import Split
from unigrpo.data.prompt import key_of
from unigrpo.worlds.shapes.edit_prompts import distinct, random_chain
from unigrpo.worlds.shapes.edits import Edit
from unigrpo.worlds.shapes.grammar import PLURALS, Scene
from unigrpo.worlds.shapes.prompts import COUNT_WORDS
from unigrpo.worlds.shapes.things import Thing

#: Images that a story may ask for.
STEPS = (2, 3)


@dataclass(frozen=True)
class Story:
    """What the first image is to show (places free), and what is to change from each image to the next."""

    start: tuple[Thing, ...]
    edits: tuple[Edit, ...]

    @property
    def steps(self) -> int:
        """Images asked for."""
        return len(self.edits) + 1

    @property
    def tag(self) -> str:
        """``steps-2`` or ``steps-3``."""
        return f"steps-{self.steps}"

    @property
    def requests(self) -> tuple[str, ...]:
        """What each step is to show, in words."""
        one, *more = self.start
        if one in more:
            start = f"{COUNT_WORDS[len(self.start)]} {one.colour} {PLURALS[str(one.shape)]}"
        else:
            start = " and ".join(f"a {thing.colour} {thing.shape}" for thing in self.start)
        return (start, *map(str, self.edits))

    @property
    def prompt(self) -> str:
        """The whole story, in words."""
        return f"tell in {COUNT_WORDS[self.steps]} pictures {' then '.join(self.requests)}"

    @property
    def key(self) -> str:
        """A name for files and records, stable under any change of the other stories."""
        return key_of(self.tag, self.prompt)

    @cached_property
    def wanted(self) -> tuple[tuple[Thing, ...], ...]:
        """What each image is to show.

        An edit of a story never has to choose among objects that differ, so that any of its targets will do.
        """
        steps = [self.start]
        for edit in self.edits:
            steps.append(tuple(aim.thing for aim in edit.targets(steps[-1])[0].aims))
        return tuple(steps)

    def to_json(self) -> str:
        """A line of a prompt file."""
        return json.dumps({"tag": self.tag, "steps": self.steps, "prompt": self.prompt})


def random_story(split: Split, steps: int, rng: random.Random) -> tuple[Story, tuple[Scene, ...]]:
    """A story of ``steps`` images, and scenes that tell it."""
    edits, scenes = random_chain(split, (None,) * (steps - 1), (1, 2), rng)
    return Story(tuple(Thing(item.shape, item.colour) for item in scenes[0].items), edits), scenes


@cache
def stories_by_length(split: Split) -> Mapping[str, tuple[Story, ...]]:
    """Tag -> its stories in ``split``, fixed once and for all."""
    return {f"steps-{steps}": distinct(split, f"stories {steps}", partial(_story, split, steps)) for steps in STEPS}


def _story(split: Split, steps: int, rng: random.Random) -> Story:
    return random_story(split, steps, rng)[0]
