"""Bytes of the tensors that are alive, counted from operation to operation, at the peak too.

Tensors may be fake (``torch._subclasses.FakeTensor``): sizes, dtypes and lifetimes are those of real ones, autograd
keeps what it would keep, and no memory is taken.  What a kernel takes for itself while it runs is not a tensor and is
not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from unigrpo.models.libraries import Arguments, Foreign

_ITEM, _INDEX = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.index.Tensor


class LiveBytes(TorchDispatchMode):
    """Counts storages on one kind of device, each once, from when an operation first returns it until it is freed.

    It answers for fake tensors what only values could tell: a number is 0, and a mask takes every element, so that the
    results are as large as they can be.

    Attributes:
        now: bytes alive.
        peaks: by the names of :meth:`phase`, the most that were alive meanwhile.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.now = 0
        self.peaks: dict[str, int] = {}
        self._phase = ""
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Keep the peak under this name; of several times the highest."""
        before, self._phase = self._phase, name
        self._note()
        yield
        self._phase = before

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that are there already; how many bytes that adds."""
        before = self.now
        for tensor in tensors:
            self._count(tensor)
        return self.now - before

    def _count(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device.type:
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._held:
            self._held[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self._note()

    def _drop(self, key: int, size: int) -> None:
        del self._held[key]
        self.now -= size

    def _note(self) -> None:
        self.peaks[self._phase] = max(self.now, self.peaks.get(self._phase, 0))

    def __torch_dispatch__(
        self, func: Callable[..., Foreign], types: object, args: Foreign = (), kwargs: Arguments | None = None
    ) -> Foreign:
        """Let the operation run, and count what it returns."""
        if func is _ITEM and isinstance(args[0], FakeTensor):
            return 0.0 if args[0].is_floating_point() else 0
        if func is _INDEX:
            args = (args[0], _as_places(args[1]))
        found = func(*args, **(kwargs or {}))
        for value in tree_iter(found):
            if isinstance(value, Tensor):
                self._count(value)
        return found


def _as_places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks as int64 places: those that hold, or of a mask without values all."""
    places: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype is not torch.bool:
            places.append(index)
            continue
        known = torch.ones(index.shape, dtype=torch.bool) if isinstance(index, FakeTensor) else index
        places += known.nonzero(as_tuple=True)
    return places
