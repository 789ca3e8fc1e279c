"""Judge a model's edits as shapes-edit: ``python -m benchmarks.editing.score ANSWERS``.

The file of answers names edit prompts of the world ``shapes`` (test split) by their keys; the blocks of an answer are
the turns of its chain, each with the edited picture (texts are not judged), as many in every answer.  Writes ratings
beside the answers (or to ``--output``) and prints their summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.answers import Answer, prompts_of
from benchmarks.command import judge_answers
from benchmarks.editing.ratings import read_ratings, report
from benchmarks.pictures import read_picture
from unigrpo.metrics import Row
from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart
from unigrpo.worlds.shapes.grammar import PICTURE
from unigrpo.worlds.shapes.metrics.edits import edit_rows


def score(answers: Sequence[Answer], folder: Path) -> list[Row]:
    """A row for every turn of every answer, as an evaluation of a policy writes it.

    Args:
        answers: to edit prompts of the test split, each with one turn at least.
        folder: of their pictures.

    Raises:
        ValueError: an id that is no key of an edit prompt, more turns than it has, fewer than another answer, a turn
            without a picture, or a picture of another size than the world's.
        OSError: a picture is not there.
    """
    import torch

    prompts = prompts_of(answers, "edits")
    turns = max(len(answer.blocks) for answer in answers)
    for answer, prompt in zip(answers, prompts, strict=True):
        count = len(answer.blocks)
        if not 1 <= count <= len(prompt.turns) or not all(block.image for block in answer.blocks):
            raise ValueError(f"{answer.id}: expected 1 to {len(prompt.turns)} blocks with a picture each")
        if count < turns:
            raise ValueError(
                f"{answer.id}: expected {turns} turns, as another answer has, got {count}; "
                "those that are absent would leave the means"
            )
    shown = [[prompt.images[0].pixels() for prompt in prompts]]
    shown += [
        [read_picture(folder / str(answer.blocks[turn].image), PICTURE) for answer in answers] for turn in range(turns)
    ]
    alive = [True] * len(answers)
    parts = [
        ImagePart(torch.from_numpy(np.stack(pictures)), alive, given=number == 0, turn=max(number - 1, 0))
        for number, pictures in enumerate(shown)
    ]
    return list(edit_rows(DecodedEpisodes(prompts, tuple(parts)), per_prompt=1))


def main() -> None:
    """Score, write and print."""
    judge_answers("shapes-edit", __doc__, score, lambda file: report(read_ratings(file)), "ratings")


if __name__ == "__main__":
    main()
