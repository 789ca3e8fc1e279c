"""What a run's processes tell each other besides tensors: facts as JSON, episodes as bytes; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import torch as safetensors

from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart, TextPart

if TYPE_CHECKING:
    from accelerate import Accelerator

    from unigrpo.data.prompt import Prompt

T = TypeVar("T")


def gather_bytes(accelerator: Accelerator, content: bytes) -> list[bytes]:
    """The ``content`` of every process, in their order, in all of them."""
    if accelerator.num_processes == 1:
        return [content]
    device = accelerator.device
    sizes = accelerator.gather(torch.tensor([len(content)], device=device)).tolist()
    padded = torch.zeros(1, max(sizes), dtype=torch.uint8)
    padded[0, : len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    rows = accelerator.gather(padded.to(device)).cpu()
    return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]


def gather_facts(accelerator: Accelerator, facts: T) -> list[T]:
    """The ``facts`` of every process, which JSON can hold."""
    return [json.loads(content) for content in gather_bytes(accelerator, json.dumps(facts).encode())]


def gather_episodes(
    accelerator: Accelerator, episodes: Sequence[DecodedEpisodes], prompts: Sequence[Sequence[Prompt]]
) -> list[DecodedEpisodes]:
    """The episodes of all processes, of which each has every N-th batch, in the order of the batches.

    Args:
        accelerator: of N processes.
        episodes: batches number k, k + N, ... of process k.
        prompts: of the rows of all batches.
    """
    count = accelerator.num_processes
    if count == 1:
        return list(episodes)
    mine = iter(episodes)
    found: list[DecodedEpisodes] = []
    for first in range(0, len(prompts), count):
        due = first + accelerator.process_index < len(prompts)
        everyones = gather_bytes(accelerator, _bytes_of(next(mine)) if due else b" ")
        found += [_from_bytes(one, rows) for one, rows in zip(everyones, prompts[first : first + count], strict=False)]
    return found


def _bytes_of(episodes: DecodedEpisodes) -> bytes:
    """In the layout of safetensors: pictures as tensors, all else in its metadata."""
    pictures, facts = {}, []
    for number, part in enumerate(episodes.parts):
        if isinstance(part, ImagePart):
            pictures[str(number)] = part.pixels
            facts.append({"alive": list(part.alive), "given": part.given, "turn": part.turn})
        else:
            facts.append(asdict(part))
    return safetensors.save(pictures, metadata={"parts": json.dumps(facts)})


def _from_bytes(content: bytes, prompts: Sequence[Prompt]) -> DecodedEpisodes:
    size = int.from_bytes(content[:8], "little")
    facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["parts"])
    pictures = safetensors.load(content)
    parts = (
        ImagePart(pixels=pictures[str(number)], **fact) if str(number) in pictures else TextPart(**fact)
        for number, fact in enumerate(facts)
    )
    return DecodedEpisodes(prompts, tuple(parts))
