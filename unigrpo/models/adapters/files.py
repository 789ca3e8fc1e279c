"""LoRA on disk as peft has it: adapter_config.json and adapter_model.safetensors for each part of a model.

A part is a module that its library saves by itself (transformers, diffusers): its folder has the part's name, and
``PeftModel.from_pretrained(part, folder)`` loads it.  What lies in no such part belongs to the folder itself and to the
policy as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from unigrpo.errors import ConfigError
from unigrpo.models import weights
from unigrpo.models.adapters.layers import layers_of, lora_config, pairs
from unigrpo.models.policy import Policy

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def write(folder: Path, policy: Policy, rank: int, alpha: int) -> None:
    """Write what is trained; the folder is made."""
    there = pairs(policy)
    for part, names in _parts(policy).items():
        place = folder / part
        place.mkdir(parents=True, exist_ok=True)
        lora_config([_inside(part, name) for name in names], rank, alpha).save_pretrained(str(place))
        tensors = {key: there[name][k] for key, (name, k) in _keys(part, names).items()}
        (place / WEIGHTS).write_bytes(weights.to_bytes(tensors))


def read(folder: Path, policy: Policy, rank: int, alpha: int) -> dict[str, tuple[Tensor, Tensor]]:
    """A [rank, in] and B [out, rank] by layer, for a policy whose layers have their matrices already.

    Raises:
        ConfigError: it is of another rank or scale, of other layers, or damaged.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for part, names in _parts(policy).items():
        tensors = _read_part(folder / part, {"r": rank, "lora_alpha": alpha})
        keys = _keys(part, names)
        if wrong := sorted(keys.keys() ^ tensors.keys()):
            raise ConfigError(
                f"adapter.start: {folder / part / WEIGHTS}: {'lacks' if wrong[0] in keys else 'has'} {wrong[0]}"
                f" ({len(wrong)} names differ); give the adapter.text_targets and adapter.image_targets of its training"
            )
        by_place = {place: tensors[key] for key, place in keys.items()}
        found |= {name: (by_place[name, 0], by_place[name, 1]) for name in names}
    for name, mine in pairs(policy).items():
        if [t.shape for t in found[name]] != [t.shape for t in mine]:
            raise ConfigError(
                f"adapter.start: {folder}: {name}: expected sizes {[tuple(t.shape) for t in mine]}, got"
                f" {[tuple(t.shape) for t in found[name]]}; it is of another model"
            )
    return found


def _read_part(folder: Path, expected: Mapping[str, int]) -> dict[str, Tensor]:
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = weights.read(folder / WEIGHTS)
    except Exception as error:  # safetensors raises an untyped error of its own for damaged files
        raise ConfigError(f"adapter.start: {folder} cannot be read ({error}); save it again") from error
    for key, value in expected.items():
        if told.get(key) != value:
            field = {"r": "rank", "lora_alpha": "alpha"}[key]
            raise ConfigError(
                f"adapter.{field}={value}: adapter.start has {told.get(key)} ({key} in {folder / CONFIG}); give that"
            )
    return tensors


def _keys(part: str, names: list[str]) -> dict[str, tuple[str, int]]:
    """Name of a tensor in a part's file -> its layer in the policy, and 0 for A or 1 for B."""
    return {f"{_PREFIX}{_inside(part, name)}.lora_{'AB'[k]}.weight": (name, k) for name in names for k in range(2)}


def _inside(part: str, name: str) -> str:
    """The name in a part of what the policy calls ``name``."""
    return name.removeprefix(f"{part}.") if part else name


def _parts(policy: Policy) -> dict[str, list[str]]:
    """Names of layers by the part that they are in, the outermost one; ``""`` for the policy as a whole."""
    owners = [
        name for name, part in cast("nn.Module", policy).named_modules() if name and hasattr(part, "save_pretrained")
    ]
    found: dict[str, list[str]] = {}
    for layer in layers_of(policy):
        inside = (owner for owner in owners if layer.startswith(f"{owner}."))
        found.setdefault(min(inside, key=len, default=""), []).append(layer)
    return found
