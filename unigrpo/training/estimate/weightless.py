"""Modules without weights: parameters and buffers with shape, dtype and device, and no memory behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def tensors_of(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """All parameters and buffers of modules; what several of them share comes once for each."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def without_weights(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Put fake tensors of ``device`` in the place of all parameters and buffers; what was shared stays shared.

    The modules compute on with fake tensors and real ones alike; each result that a weight enters is fake.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}
    kept: list[Tensor] = []  # whose ids must not be given to others meanwhile
    for module in modules:
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:
                        kept.append(tensor)
                        made[id(tensor)] = _fake(tensor, device, mode)
                    tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def _fake(tensor: Tensor, device: torch.device, mode: FakeTensorMode) -> Tensor:
    with mode:
        found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found
