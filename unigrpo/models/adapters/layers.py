"""LoRA in the dense layers of a policy, by peft: put there, switched off for the reference, added to the weights."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Guidance
from unigrpo.models.libraries import Foreign
from unigrpo.models.linear import exact_linears
from unigrpo.models.model import LoadedModel
from unigrpo.models.policy import Modality, Policy
from unigrpo.noise import Key, generator

#: What peft calls the matrices that are trained, and those of the start, which the reference computes with.
TRAINED, START = "default", "start"


@dataclass(frozen=True)
class Adapted(LoadedModel):
    """A model with matrices beside its dense layers.

    Attributes:
        base: the model as it was loaded; its policy is the same one.
    """

    base: LoadedModel

    def reference(self) -> Policy:
        """The policy without its matrices, or with those that it started from; no weight is there twice."""
        layers = layers_of(self.policy).values()
        return cast("Policy", Switched(self.policy, layers, [START] if _has_start(layers) else []))

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Those of the model as it was loaded, whose policy has the matrices."""
        return self.base.modules

    def time_points(self, steps: int, shift: float, height: int = 0, width: int = 0) -> Tensor:
        """Those of the model as it was loaded."""
        return self.base.time_points(steps, shift, height, width)

    def guidance(self, asked: Guidance) -> Guidance:
        """As the model does it that was loaded."""
        return self.base.guidance(asked)


class Switched:
    """A policy with other matrices in use than those that are trained, while it is asked for something.

    It answers what a rollout asks.  What would change the policy itself (its mode, its weights, its device) is not
    there.

    Args:
        policy: with ``layers`` inside.
        layers: of peft.
        active: names of the matrices in use; none computes what the model computed before they were put there.
    """

    training = False

    def __init__(self, policy: Policy, layers: Iterable[Foreign], active: list[str]):
        self._policy, self._layers, self._active = policy, tuple(layers), active

    def __getattr__(self, name: str) -> Foreign:
        private = name.startswith("_") or hasattr(nn.Module, name)
        if private or isinstance(found := getattr(self._policy, name), nn.Module):
            raise AttributeError(f"{name}: a reference only computes; ask the policy, whose weights it has")
        # Whatever can be called: a compiled method is none any more.
        return self._switched(found) if callable(found) else found

    def _switched(self, method: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(method)
        def call(*args: object, **kwargs: object) -> object:
            # Not by peft's own switch, which lets all matrices want gradients again, those of a frozen modality too.
            before = [layer._active_adapter for layer in self._layers]
            try:
                for layer in self._layers:
                    layer._active_adapter = self._active
                return method(*args, **kwargs)
            finally:
                for layer, active in zip(self._layers, before, strict=True):
                    layer._active_adapter = active

        return call


def lora_config(names: Iterable[str], rank: int, alpha: int) -> LoraConfig:
    """The configuration of exactly these layers, by a pattern: peft's lists of names match ends of names too."""
    chosen = "|".join(map(re.escape, names))
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=chosen)


def layers_of(policy: Policy) -> dict[str, Foreign]:
    """The layers of peft with matrices beside them, by the names that they had without."""
    return {name: part for name, part in _module(policy).named_modules() if isinstance(part, LoraLayer)}


def attach(policy: nn.Module, chosen: Mapping[Modality, list[str]], rank: int, alpha: int, key: Key) -> None:
    """Freeze the policy and put matrices beside the chosen layers: A by peft's rule from ``key``, B zero.

    Matrices are fp32, or of the weights' dtype if that is wider: steps of optimisers are lost in bf16.

    Raises:
        ConfigError: the policy's ``parameters_of`` does not sort them as it sorts the layers.
    """
    names = [*chain.from_iterable(chosen.values())]
    if not names:
        raise ConfigError("adapter=lora: the model has no dense layer that is trained; use adapter=full")
    policy.requires_grad_(False)
    _inject(policy, names, rank, alpha, TRAINED)
    for name, layer in layers_of(cast("Policy", policy)).items():
        first, second = _pair(layer, TRAINED)
        drawn = torch.empty(first.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator((*key, "adapter", name)))
        _set(layer, TRAINED, drawn, torch.zeros(second.shape))
    _check_sorted(policy, chosen)


def _check_sorted(policy: nn.Module, chosen: Mapping[Modality, list[str]]) -> None:
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    for modality, layers in chosen.items():
        wanted = {id(weight) for name in layers for weight in _pair(policy.get_submodule(name), TRAINED)}
        found = {id(parameter) for parameter in cast("Policy", policy).parameters_of(modality)}
        if wrong := sorted(names.get(one, "a weight that is not the policy's") for one in wanted ^ found):
            raise ConfigError(
                f"adapter=lora: {type(policy).__name__}.parameters_of({modality!r}): expected the parameters inside the"
                f" modules of {modality}s that want gradients, and nothing else; wrong about {wrong[0]}"
                f" and {len(wrong) - 1} more"
            )


def start_from(policy: nn.Module, tensors: Mapping[str, tuple[Tensor, Tensor]], rank: int, alpha: int) -> None:
    """Set A and B of each layer, and keep them once more for the reference."""
    _inject(policy, tensors, rank, alpha, START)
    for name, layer in layers_of(cast("Policy", policy)).items():
        _set(layer, TRAINED, *tensors[name])
        _set(layer, START, *tensors[name])
        layer.set_adapter(TRAINED)  # in use, and the one that wants gradients


def trained(policy: Policy) -> dict[str, nn.Parameter]:
    """The matrices that are trained, by their names in the policy."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in layers_of(policy).items():
        first, second = _pair(layer, TRAINED)
        found |= {f"{name}.lora_A.{TRAINED}.weight": first, f"{name}.lora_B.{TRAINED}.weight": second}
    return found


def pairs(policy: Policy) -> dict[str, tuple[Tensor, Tensor]]:
    """A [rank, in] and B [out, rank] of each layer."""
    return {name: _pair(layer, TRAINED) for name, layer in layers_of(policy).items()}


@contextmanager
def merged(policy: Policy) -> Iterator[None]:
    """The policy as a model without matrices, W + alpha / rank B A in place of W, and as it was again.

    The sum is rounded to the dtype of W.  Its weights are there twice meanwhile.
    """
    module, layers = _module(policy), layers_of(policy)
    try:
        for name, layer in layers.items():
            module.set_submodule(name, _merged(layer))
        yield
    finally:
        for name, layer in layers.items():
            module.set_submodule(name, layer)


@torch.no_grad()
def _merged(layer: Foreign) -> nn.Module:
    base = layer.get_base_layer()
    plain = copy.deepcopy(base, {id(weight): weight for weight in base.parameters()})
    whole = base.weight + layer.get_delta_weight(TRAINED)
    plain.weight = nn.Parameter(whole.to(base.weight.dtype), requires_grad=False)
    return plain


def _inject(policy: nn.Module, names: Iterable[str], rank: int, alpha: int, called: str) -> None:
    with torch.random.fork_rng(devices=[]):  # peft draws from the global stream, for nothing here
        inject_adapter_in_model(lora_config(names, rank, alpha), policy, adapter_name=called)
    del policy.peft_config  # one of a second set beside it would be a warning


def _set(layer: Foreign, called: str, first: Tensor, second: Tensor) -> None:
    """Give a layer its A and B, in products that take one kernel."""
    weight = layer.get_base_layer().weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    for where, tensor in ((layer.lora_A, first), (layer.lora_B, second)):
        where[called].weight = nn.Parameter(tensor.to(weight.device, dtype, copy=True))
        exact_linears(where)


def _pair(layer: Foreign, called: str) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[called].weight, layer.lora_B[called].weight


def _has_start(layers: Iterable[Foreign]) -> bool:
    return any(START in layer.lora_A for layer in layers)


def _module(policy: Policy) -> nn.Module:
    return cast("nn.Module", policy)
