"""The prompts of the world: single images, stories, chains of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from unigrpo.data.dataset import Prompts, Split
from unigrpo.data.prompt import Prompt
from unigrpo.registry import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from unigrpo.worlds.shapes.edit_prompts import EditPrompt
    from unigrpo.worlds.shapes.grammar import Scene
    from unigrpo.worlds.shapes.prompts import GenEvalPrompt
    from unigrpo.worlds.shapes.stories import Story

#: What is asked of the policy.
Task = Literal["images", "stories", "edits"]
#: Task -> what its prompts have, and the metrics that fit.
_OFFERS: Mapping[Task, frozenset[str]] = {
    "images": frozenset({"include", "exclude"}),
    "stories": frozenset({"story", "requests"}),
    "edits": frozenset({"images", "turns", "edits"}),
}
_METRICS: Mapping[Task, str] = {"images": "geneval_mini", "stories": "shapes_interleaved", "edits": "shapes_edit"}


@register("dataset", "shapes", source="GenEval (arXiv 2310.11513), its six tasks in miniature")
@dataclass(frozen=True)
class Shapes:
    """Drawn images of one to four coloured shapes, with exact judges."""

    task: Task = "images"
    """Single images (GenEval's six tasks), stories of several, or chains of edits."""

    @property
    def offers(self) -> frozenset[str]:
        """What its prompts have besides a text."""
        return _OFFERS[self.task]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Its exact judge, and diversity."""
        return (_METRICS[self.task], "diversity")

    @property
    def turns(self) -> int:
        """Turns of a chain of edits."""
        from unigrpo.worlds.shapes.edit_prompts import TURNS

        return TURNS if self.task == "edits" else 0

    def prompts(self, split: Split) -> Prompts:
        """Task of GenEval, or number of images of a story, or type of the first edit -> its prompts.

        The splits share no meaning, but for ``single_object``, which has only five: its splits share no form.

        Raises:
            ConfigError: another split.
        """
        return _prompts(self.task, split)

    def digest(self) -> str:
        """The prompts are made by this package: its version is what changes them."""
        return "shapes-3"

    def words(self) -> Sequence[str]:
        """Every word of prompts, instructions and texts of the policy, sorted."""
        from unigrpo.worlds.shapes.vocabulary import vocabulary

        return vocabulary()


@dataclass(frozen=True)
class Drawn:
    """The image of a scene."""

    scene: Scene

    def pixels(self) -> NDArray[np.float32]:
        """[3, 32, 32] in [-1, 1]."""
        from unigrpo.worlds.shapes.render import render

        picture: NDArray[np.float32] = render([self.scene])[0]
        return picture

    def digest(self) -> str:
        """The scene itself."""
        return repr(self.scene)


@cache
def _prompts(task: Task, split: Split) -> Prompts:
    if task == "images":
        from unigrpo.worlds.shapes.prompts import by_task

        return {tag: tuple(map(image_prompt, found)) for tag, found in by_task(split).items()}
    if task == "stories":
        from unigrpo.worlds.shapes.stories import stories_by_length

        return {tag: tuple(map(story_prompt, found)) for tag, found in stories_by_length(split).items()}
    from unigrpo.worlds.shapes.edit_prompts import edits_by_type

    return {tag: tuple(map(edit_prompt, found)) for tag, found in edits_by_type(split).items()}


def image_prompt(question: GenEvalPrompt) -> Prompt:
    """A prompt of GenEval's; ``meta`` is its metadata."""
    known = {"include": list(question.include), "exclude": list(question.exclude)}
    return Prompt(question.key, question.prompt, question.tag, question.meaning, meta=known)


def story_prompt(story: Story) -> Prompt:
    """A prompt that asks for several images; ``meta`` has the story and what each image is to show, in words."""
    known = {"story": story, "requests": story.requests}
    return Prompt(story.key, story.prompt, story.tag, story.prompt, meta=known)


def edit_prompt(chain: EditPrompt) -> Prompt:
    """A prompt with a source image and an instruction for each turn; ``meta`` has the edits."""
    return Prompt(
        key=chain.key,
        text=chain.prompt,
        tag=chain.tag,
        meaning=repr(chain),
        images=(Drawn(chain.source),),
        turns=chain.instructions,
        meta={"edits": chain.edits},
    )
