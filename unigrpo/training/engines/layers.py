"""The layers of a model that others wrote: what is alike and runs one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unigrpo.models.libraries import Foreign
from unigrpo.models.policy import Policy


def layers_of(policy: Policy) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules: decoder layers, transformer blocks.

    Libraries mark such layers under names of their own, some not at all; all keep them in lists.
    """
    yield from _members(cast("nn.Module", policy))


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (member for member in child if any(True for _ in member.parameters()))
        else:
            yield from _members(child)


def checkpoint_activations(policy: Policy) -> None:
    """Let every layer keep its arguments alone, and compute its activations again in the backward pass."""
    for layer in layers_of(policy):
        layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable[..., Foreign]) -> Callable[..., Foreign]:
    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> Foreign:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Nothing is drawn in a layer: there is no state of generators to keep.
        return checkpoint(functools.partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False)

    return call


def return_caches(layer: nn.Module) -> None:
    """Let a layer return what it puts into a cache of transformers besides its output.

    Gradients come back through keys and values, too: whoever has to act before a layer's backward pass looks for them
    in what it returns.
    """
    forward = layer.forward

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> tuple[Foreign, list[Tensor]]:
        before = {id(tensor) for tensor in _cached(args, kwargs)}
        output = forward(*args, **kwargs)
        return output, [tensor for tensor in _cached(args, kwargs) if id(tensor) not in before]

    layer.forward = call


def drop_caches(layer: nn.Module) -> None:
    """Undo :func:`return_caches` for the layer's callers; hooks from before have seen them."""
    layer.register_forward_hook(lambda module, args, output: output[0])


def _cached(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()):
        for held in getattr(value, "layers", ()):
            yield from (held.keys, held.values)
