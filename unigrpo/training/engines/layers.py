"""The layers of a model that others wrote: what is alike and runs one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import nn
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
