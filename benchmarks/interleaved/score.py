"""Judge a model's stories as shapes-interleaved: ``python -m benchmarks.interleaved.score ANSWERS``.

The file of answers names stories of the world ``shapes`` (test split) by their keys; each block of an answer is a text
with the picture that follows it, and the last one, which has no picture, ends the story.  Writes judgements beside the
answers (or to ``--output``) and prints their summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.answers import Answer, Block, prompts_of
from benchmarks.command import judge_answers
from benchmarks.interleaved.judgements import read_judgements, summarise
from benchmarks.pictures import read_picture
from unigrpo.metrics import Row
from unigrpo.rollout.decoded import DecodedEpisodes, End, ImagePart, TextPart
from unigrpo.worlds.shapes.grammar import PICTURE
from unigrpo.worlds.shapes.metrics.stories import story_rows


def score(answers: Sequence[Answer], folder: Path) -> list[Row]:
    """A row for every answer, as an evaluation of a policy writes it.

    Args:
        answers: to stories of the test split.
        folder: of their pictures.

    Raises:
        ValueError: an id that is no key of a story, no answer, or a picture of another size than the world's.
        OSError: a picture is not there.
    """
    stories = prompts_of(answers, "stories")
    told = [tuple(_told(answer)) for answer in answers]
    turns = range(max(map(len, told)))
    parts = [part for turn in turns for part in _turn(turn, told, folder)]
    return list(story_rows(DecodedEpisodes(stories, tuple(parts)), per_prompt=1))


def _told(answer: Answer) -> Iterator[Block]:
    """The blocks up to the first without a picture, with which a story is over."""
    for block in answer.blocks:
        yield block
        if not block.image:
            return


def _turn(turn: int, told: Sequence[Sequence[Block]], folder: Path) -> tuple[TextPart, ImagePart]:
    import torch

    blocks = [blocks[turn] if turn < len(blocks) else None for blocks in told]
    texts = [block.text or "" if block else "" for block in blocks]
    images = [block.image if block else None for block in blocks]
    ends: list[End] = [None if block is None else "image" if block.image else "stop" for block in blocks]
    nothing = np.zeros((3, PICTURE, PICTURE), dtype=np.float32)
    pixels = np.stack([read_picture(folder / image, PICTURE) if image else nothing for image in images])
    return (
        TextPart(texts, ends, [len(text.split()) for text in texts], given=False, turn=turn),
        ImagePart(torch.from_numpy(pixels), [bool(image) for image in images], given=False, turn=turn),
    )


def main() -> None:
    """Score, write and print."""
    judge_answers(
        "shapes-interleaved", __doc__, score, lambda file: str(summarise(read_judgements(file))), "judgements"
    )


if __name__ == "__main__":
    main()
