"""What a rollout computes, operation by operation, as the kernels see it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unigrpo.rollout.rollout import RolloutSpec, replay
from unigrpo.rollout.trajectory import Trajectory

#: They share storage, shape and strides with what they are given and compute nothing; autograd alone asks for them.
BOOKKEEPING = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}

Operation = tuple[Any, ...]


@dataclass
class Recorder(TorchDispatchMode):
    """Notes each ATen operation with the dtype, shape, strides and alignment of its tensors and all its numbers."""

    operations: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in BOOKKEEPING:
            self.operations.append((func, *seen(args), *seen(kwargs or {})))
        return func(*args, **kwargs or {})


def seen(argument: Any) -> Any:
    """What a kernel may be chosen by; of a tensor neither its values nor whether it wants a gradient."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.shape, argument.stride(), argument.data_ptr() % 64
    if isinstance(argument, list | tuple):
        return tuple(map(seen, argument))
    if isinstance(argument, dict):
        return tuple((name, seen(value)) for name, value in argument.items())
    return str(argument)  # 1, 1.0 and True are equal, and no number is equal to itself if it is none


class Calls:
    """A policy that notes its calls: the name of each, and what ``recorder`` recorded meanwhile."""

    METHODS = ("extend_text", "extend_image", "velocity", "extend_codes", "extend_features")

    def __init__(self, policy: Any, recorder: Recorder):
        self._policy, self._operations = policy, recorder.operations
        self.alive: list[tuple[str, list[Operation]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._policy, name)
        return self._recorded(name, found) if name in self.METHODS else found

    def _recorded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = len(self._operations)
            result = method(*args, **kwargs)
            self.alive.append((name, self._operations[start:]))
            return result

        return call


def variants(policy: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, bool]]:
    """{policy, deep copy} x {weights with, without gradient} x {grad mode on, off}; the policy is left as it was."""
    wanted = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for name, candidate in (("policy", policy), ("copy", copy.deepcopy(policy))):
        own = wanted if candidate is policy else [p for p in candidate.parameters() if p.requires_grad]
        for trained in (True, False):
            for parameter in own:
                parameter.requires_grad_(trained)
            for grad in (True, False):
                yield f"{name}, weights {trained=}, {grad=}", candidate, grad
    for parameter in wanted:
        parameter.requires_grad_(True)


def assert_same_kernels(policy: Any, spec: RolloutSpec, sample: Callable[[Any], Trajectory]) -> None:
    """Demand that every replay of what ``sample`` makes with ``policy`` computes what sampling computed.

    Which kernel a processor takes is a matter of operation, shapes, strides and dtypes: where these agree, bits agree
    on every processor, not only on the one that runs the test.

    Raises:
        AssertionError: naming the first operation that differs, between two replays or between replay and sampling.
    """
    with Recorder() as recorder:
        sampling = Calls(policy, recorder)
        trajectory = sample(sampling)
    first: list[Operation] | None = None
    for name, candidate, grad in variants(policy):
        with torch.set_grad_enabled(grad), Recorder() as recorder:
            calls = Calls(candidate, recorder)
            replay(calls, spec, trajectory)
        if first is None:
            first = recorder.operations
        assert_equal(recorder.operations, first, name)
        # Sampling does more: it tries words and takes steps that nobody scores.
        rest = iter(sampling.alive)
        for k, call in enumerate(calls.alive):
            assert call in rest, f"{name}: call {k} of replay, {call[0]}, is none of sampling with the same operations"


def assert_equal(mine: list[Operation], theirs: list[Operation], name: str) -> None:
    """Demand the same operations in the same order."""
    for k, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        assert a == b, f"{name}: operation {k} is {a}, expected {b}"
    assert len(mine) == len(theirs), f"{name}: {len(mine)} operations, expected {len(theirs)}"
