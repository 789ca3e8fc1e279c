"""Worlds: sources of prompts with an exact judge (slot ``world``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from unigrpo.registry import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from unigrpo.rollout.decoded import DecodedEpisodes, End
    from unigrpo.rollout.episodes.episode import Family
    from unigrpo.worlds.shapes.edit_judge import EditVerdict
    from unigrpo.worlds.shapes.examples import Example
    from unigrpo.worlds.shapes.grammar import Scene
    from unigrpo.worlds.shapes.judge import Sight, Verdict
    from unigrpo.worlds.shapes.prompts import Prompt, Split
    from unigrpo.worlds.shapes.reflection import ReflectionVerdict
    from unigrpo.worlds.shapes.story_judge import StoryVerdict


@register("world", "shapes", source="GenEval (arXiv 2310.11513), its six tasks in miniature")
@dataclass(frozen=True)
class Shapes:
    """Pictures of one to four coloured shapes, prompts of GenEval's six tasks, an exact judge."""

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        from unigrpo.worlds.shapes.grammar import PICTURE

        return PICTURE

    def vocabulary(self) -> list[str]:
        """Every word of prompts, instructions and texts of the policy, sorted."""
        from unigrpo.worlds.shapes.vocabulary import vocabulary

        return list(vocabulary())

    @property
    def edit_turns(self) -> int:
        """Instructions of a prompt of the family ``edits``."""
        from unigrpo.worlds.shapes.edit_prompts import TURNS

        return TURNS

    def prompts_by_task(self, split: Split, family: Family = "images") -> Mapping[str, Sequence[Any]]:
        """Task -> its prompts: GenEval's six tasks, or numbers of pictures of a story, or types of the first edit.

        Deterministic, the splits disjoint in meaning; the first n of a task are a fair sample of them.

        Raises:
            ValueError: another split or family.
        """
        if family == "images":
            from unigrpo.worlds.shapes.prompts import by_task

            return by_task(split)
        if family == "stories":
            from unigrpo.worlds.shapes.stories import stories_by_length

            return stories_by_length(split)
        if family == "edits":
            from unigrpo.worlds.shapes.edit_prompts import edits_by_type

            return edits_by_type(split)
        raise ValueError(f"family: expected 'images', 'stories' or 'edits', got {family!r}")

    def prompts(self, split: Split, family: Family = "images") -> Sequence[Any]:
        """All prompts of a split, task by task."""
        return list(chain.from_iterable(self.prompts_by_task(split, family).values()))

    def select_prompts(self, split: Split, counts: Sequence[int], family: Family = "images") -> list[Any]:
        """The first ``counts[i]`` prompts of the i-th task.

        Raises:
            ValueError: not one count per task, or more than a task has.
        """
        from unigrpo.worlds.shapes.prompts import first_of

        return first_of(self.prompts_by_task(split, family), counts)

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say why the test split cannot give the prompts that an evaluation asks for."""
        asked = [("prompts_per_task", config.episode.family)]
        if config.evaluation.retention_prompts_per_task:
            asked.append(("retention_prompts_per_task", "images"))
        for name, family in asked:
            try:
                if not self.select_prompts("test", getattr(config.evaluation, name), family):
                    yield f"evaluation.{name}: expected at least one prompt"
            except ValueError as error:
                yield f"evaluation.{name}: {error}"

    def render(self, scene: Scene) -> NDArray[np.float32]:
        """The picture [3, 32, 32] in [-1, 1] of ``scene``."""
        from unigrpo.worlds.shapes.render import render

        picture: NDArray[np.float32] = render([scene])[0]
        return picture

    def warmup_examples(
        self, rng: np.random.Generator, n: int, plan_corruption: float = 0.4, misdrawn: float = 0.2
    ) -> list[Example]:
        """``n`` triples of prompt, thinking and picture for supervised training, wrong in the given proportions."""
        from unigrpo.worlds.shapes.examples import warmup_examples

        return warmup_examples(rng, n, plan_corruption, misdrawn)

    def plan_satisfies(self, thinking: str, prompt: Prompt) -> bool:
        """Whether the plan stated by ``thinking`` meets ``prompt`` strictly; a malformed one does not."""
        from unigrpo.worlds.shapes.rules import plan_satisfies
        from unigrpo.worlds.shapes.thinking import parse_thinking

        return plan_satisfies(parse_thinking(thinking), prompt)

    def judge(self, pictures: Tensor | NDArray[np.float32], prompts: Sequence[Prompt]) -> list[Verdict]:
        """One verdict per picture of [B, 3, 32, 32] in [-1, 1]."""
        from unigrpo.worlds.shapes.judge import judge

        return judge(pictures, prompts)

    def see(self, pictures: Tensor | NDArray[np.float32]) -> list[Sight]:
        """What is seen of each picture of [B, 3, 32, 32] in [-1, 1]."""
        from unigrpo.worlds.shapes.judge import see

        return see(pictures)

    def judge_stories(self, decoded: DecodedEpisodes) -> list[StoryVerdict]:
        """One verdict per episode of stories."""
        from unigrpo.worlds.shapes.story_judge import judge_stories

        return judge_stories(decoded)

    def judge_edits(self, decoded: DecodedEpisodes) -> list[list[EditVerdict]]:
        """Verdicts on the pictures of each turn, one per episode of edits."""
        from unigrpo.worlds.shapes.edit_judge import judge_edits

        return judge_edits(decoded)

    def judge_reflection(self, prompt: Prompt, text: str, end: End, sight: Sight) -> ReflectionVerdict:
        """Judge what is said of a picture against what is seen of it."""
        from unigrpo.worlds.shapes.reflection import judge_reflection

        return judge_reflection(prompt, text, end, sight)
