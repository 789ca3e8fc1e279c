"""Worlds: sources of prompts with an exact judge (slot ``world``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unigrpo.registry import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from unigrpo.worlds.shapes.examples import Example
    from unigrpo.worlds.shapes.grammar import Scene
    from unigrpo.worlds.shapes.judge import Verdict
    from unigrpo.worlds.shapes.prompts import Prompt, Split


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
        """Every word of prompts and thinking texts, sorted."""
        from unigrpo.worlds.shapes.vocabulary import vocabulary

        return list(vocabulary())

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """All prompts of a split, task by task: deterministic, the splits disjoint (see ``shapes.prompts``)."""
        from unigrpo.worlds.shapes.prompts import all_prompts

        return all_prompts(split)

    def prompts_by_task(self, split: Split) -> dict[str, tuple[Prompt, ...]]:
        """Task -> its prompts; the first n of a task are spread evenly over its meanings."""
        from unigrpo.worlds.shapes.prompts import by_task

        return dict(by_task(split))

    def select_prompts(self, split: Split, counts: Sequence[int]) -> list[Prompt]:
        """The first ``counts[i]`` prompts of the i-th task, spread evenly over meanings."""
        from unigrpo.worlds.shapes.prompts import select

        return select(split, counts)

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say why the test split cannot give the prompts that an evaluation asks for."""
        counts = config.evaluation.prompts_per_task
        try:
            if not self.select_prompts("test", counts):
                yield "evaluation.prompts_per_task: expected at least one prompt"
        except ValueError as error:
            yield f"evaluation.prompts_per_task: {error}"

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
