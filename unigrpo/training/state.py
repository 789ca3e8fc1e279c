"""Checkpoints of a run in progress: atomic, verified, bit-exact to resume from."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.errors import CheckpointError
from unigrpo.io import JsonObject, write_atomic, write_json
from unigrpo.models import weights

_STATE = "state.json"
#: The one before the newest is kept, in case the newest is damaged.
_KEPT = 2


@dataclass(frozen=True)
class State:
    """What a run needs to go on: tensors by name, and plain facts."""

    tensors: Mapping[str, Tensor]
    facts: JsonObject


@dataclass(frozen=True)
class Share:
    """What a process keeps of a checkpoint: all of it, or its part number ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    @property
    def file(self) -> str:
        """With its tensors."""
        return f"state-{self.index + 1}-of-{self.count}.safetensors" if self.count > 1 else "state.safetensors"


#: All of a checkpoint.
_WHOLE = Share()


def write(
    folder: Path,
    update: int,
    state: State,
    share: Share = _WHOLE,
    gathered: Callable[[str], list[str]] = lambda digest: [digest],
) -> None:
    """Save after ``update`` updates; a kill in the middle leaves the earlier checkpoints whole.

    Args:
        folder: of all checkpoints.
        update: updates done.
        state: of this process.
        share: which part it is.
        gathered: of this process's digest makes those of all of them, when all have come as far.
    """
    place = folder / f"{update:08d}"
    place.mkdir(parents=True, exist_ok=True)
    content = weights.to_bytes(state.tensors)
    write_atomic(place / share.file, content)
    digests = gathered(hashlib.sha256(content).hexdigest())
    if share.index:
        return
    # The facts hold the digests and come last: a folder without them is not a checkpoint.
    write_json(place / _STATE, {**state.facts, "update": update, "sha256": digests if share.count > 1 else digests[0]})
    for old in _all(folder)[:-_KEPT]:
        shutil.rmtree(old)


def read_latest(folder: Path, share: Share = _WHOLE) -> State | None:
    """The newest whole checkpoint, this process's part of it; None if none was ever written.

    Raises:
        CheckpointError: there are checkpoints, but none is whole, or they are of another number of processes.
    """
    faults = []
    for place in reversed(_all(folder)):
        try:
            facts = json.loads((place / _STATE).read_text(encoding="utf-8"))
            digests = facts["sha256"] if isinstance(facts["sha256"], list) else [facts["sha256"]]
            if len(digests) != share.count:
                raise CheckpointError(
                    f"{place} has {len(digests)} parts, for as many processes, and {share.count} are to read it; start"
                    " as many with the same engine, or delete that folder's parent to start this run afresh"
                )
            content = (place / share.file).read_bytes()
            if hashlib.sha256(content).hexdigest() != digests[share.index]:
                raise ValueError("content does not match its digest")
            return State(weights.from_bytes(content), facts)
        except (OSError, ValueError, KeyError) as error:
            faults.append(f"{place / share.file}: {error}")
            warnings.warn(f"skipping a damaged checkpoint: {faults[-1]}", stacklevel=2)
    if faults:
        raise CheckpointError(
            f"no whole checkpoint in {folder} ({'; '.join(faults)}); delete that folder to start this run afresh"
        )
    return None


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if (path / _STATE).is_file())


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors; ``names`` maps ``id(parameter)`` to its name."""
    return {
        f"optimizer.{key}.{names[id(parameter)]}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, Tensor],
    put_back: Callable[[Tensor, Tensor], Tensor] = lambda kept, like: kept,
) -> None:
    """Undo :func:`optimizer_tensors`; ``put_back`` makes of what a process kept what belongs to a parameter."""
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            key, _, parameter = rest.partition(".")
            owner = parameters[parameter]
            # The step counter stays on the CPU, where the optimiser keeps it.
            optimizer.state[owner][key] = tensor if key == "step" else put_back(tensor, owner).to(owner)
