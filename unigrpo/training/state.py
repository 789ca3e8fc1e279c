"""Checkpoints of a run in progress: atomic, verified, bit-exact to resume from."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.errors import CheckpointError
from unigrpo.io import JsonObject, write_atomic, write_json
from unigrpo.models import weights

_TENSORS, _STATE = "state.safetensors", "state.json"
#: The one before the newest is kept, in case the newest is damaged.
_KEPT = 2


@dataclass(frozen=True)
class State:
    """What a run needs to go on: tensors by name, and plain facts."""

    tensors: Mapping[str, Tensor]
    facts: JsonObject


def write(folder: Path, update: int, state: State) -> None:
    """Save after ``update`` updates; a kill in the middle leaves the earlier checkpoints whole."""
    place = folder / f"{update:08d}"
    place.mkdir(parents=True, exist_ok=True)
    content = weights.to_bytes(state.tensors)
    write_atomic(place / _TENSORS, content)
    # The facts hold the digest and come last: a folder without them is not a checkpoint.
    write_json(place / _STATE, {**state.facts, "update": update, "sha256": hashlib.sha256(content).hexdigest()})
    for old in _all(folder)[:-_KEPT]:
        shutil.rmtree(old)


def read_latest(folder: Path) -> State | None:
    """The newest whole checkpoint, None if none was ever written.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
    """
    faults = []
    for place in reversed(_all(folder)):
        try:
            facts = json.loads((place / _STATE).read_text(encoding="utf-8"))
            content = (place / _TENSORS).read_bytes()
            if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                raise ValueError("content does not match its digest")
            return State(weights.from_bytes(content), facts)
        except (OSError, ValueError, KeyError) as error:
            faults.append(f"{place / _TENSORS}: {error}")
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
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Undo :func:`optimizer_tensors`."""
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            key, _, parameter = rest.partition(".")
            owner = parameters[parameter]
            # The step counter stays on the CPU, where the optimiser keeps it.
            optimizer.state[owner][key] = tensor if key == "step" else tensor.to(owner)
