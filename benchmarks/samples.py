"""Which samples of which prompts a file of verdicts is about.

A row is told by ``prompt``, by ``image`` (number of the sample of the prompt, from 0) and by ``turn`` (number of the
edit in a chain, from 1); the two numbers have their first value where they are missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.records import Once, Record, read_records


def read_verdicts(path: Path) -> Iterator[Record]:
    """The rows of a file of verdicts: each once, no turn left out, and of every prompt as many samples.

    Raises:
        ValueError: a malformed row, one that comes twice, or one that is absent and would leave the means.
    """
    records = list(read_records(path))
    _check(path, records)
    yield from records


def _check(path: Path, records: Iterable[Record]) -> None:
    once = Once("prompt", "row per prompt, image and turn (the id of the item may stand for the prompt)")
    turns: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        prompt, image, turn = record.get("prompt", str), record.ordinal("image", 0), record.ordinal("turn", 1)
        once.add((prompt, image, turn), record.where)
        turns[prompt][image].add(turn)
    most = max(turns, key=lambda prompt: len(turns[prompt]), default="")
    for prompt, images in turns.items():
        if len(images) < len(turns[most]):
            raise ValueError(
                f"{path}: prompt {prompt!r:.80}: expected {len(turns[most])} images, as {most!r:.80} has, "
                f"got {len(images)}; what is absent would leave the means"
            )
        for image, found in images.items():
            if absent := set(range(1, max(found) + 1)) - found:
                raise ValueError(f"{path}: prompt {prompt!r:.80}, image {image}: expected turn {min(absent)} too")
