"""Tensors as the bytes of a safetensors file, in which memory that several names share is kept once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

#: Dtypes of weights, and their names in a safetensors file.
_KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of ``tensors``, wherever they are.

    Of names for one tensor, such as tied embeddings, the first is kept; the others go to the file's metadata as
    ``{other: first}``, as ``safetensors.torch.save_model`` has it.  Overlapping parts of one memory are kept apart.
    """
    kept: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    shared: dict[str, str] = {}
    for name, tensor in tensors.items():
        # Told here, not on the CPU: the copies of what is on a GPU share nothing.
        place = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            shared[name] = first[place]
        else:
            first[place] = name
            kept[name] = tensor.detach().cpu().contiguous()
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in kept.values())
    apart = {
        name: tensor.clone() if owners[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in kept.items()
    }
    return save(apart, shared or None)


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file of ``tensors``, wherever they are, written one by one: none is in memory twice."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        kind = _KINDS[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for tensor in tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """Undo :func:`to_bytes`: what was one tensor is one again."""
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return _shared(tensors, header.get("__metadata__"))


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, such as the ``model.safetensors`` that :meth:`~unigrpo.models.Model.save` writes."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _shared(tensors, file.metadata())


def _shared(tensors: dict[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, Tensor]:
    """With the names that the metadata has for tensors; what else stands there means nothing here."""
    others = {name: owner for name, owner in (metadata or {}).items() if owner in tensors and name not in tensors}
    return tensors | {name: tensors[owner] for name, owner in others.items()}
