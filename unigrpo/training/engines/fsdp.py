"""Every process has a part of each weight."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from unigrpo.errors import ConfigError
from unigrpo.models.libraries import Foreign
from unigrpo.registry import register
from unigrpo.training.engines.engine import Engine

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.distributed.fsdp import FSDPModule

    from unigrpo.models.policy import Policy

#: The methods of a policy that compute with its weights (``unigrpo.models.policy``).
_FORWARD = ("extend_text", "extend_image", "extend_features", "extend_codes", "velocity")


@register("engine", "fsdp", source="ZeRO-3 (arXiv 1910.02054); torch FSDP2 (arXiv 2304.11277)")
@dataclass(frozen=True)
class Fsdp(Engine):
    """Weights, gradients and the optimiser's state in parts, by torch's ``fully_shard``, layer by layer.

    A layer's weights are gathered when it computes.  Processes that wait for each other have to do the same passes: a
    text goes on, masked, until it has ended everywhere.
    """

    shards: ClassVar[bool] = True

    gather_once: bool = True
    """Whether a rollout keeps the layers that it has gathered, which takes the memory of the whole model meanwhile."""

    def place(self, policy: Policy, accelerator: Accelerator, *, bf16: bool) -> None:
        """Part its weights, layer by layer, the rest together.

        With ``bf16`` layers are gathered in it, and their gradients averaged in fp32; times and latents stay as they
        are, and so does the rest, which the residual stream begins with.

        Raises:
            ConfigError: there is one process.
        """
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        from unigrpo.training.engines.layers import drop_caches, layers_of, return_caches

        if accelerator.num_processes == 1:
            raise ConfigError("engine=fsdp: one process has nothing to share; start several by torchrun, or use ddp")
        super().place(policy, accelerator, bf16=bf16)
        # Nothing here writes into what a policy returns.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", append=True)
        module = cast("nn.Module", policy)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for layer in layers_of(policy):
            # Its weights are gathered again before gradients reach it, be it through keys and values alone.
            return_caches(layer)
            fully_shard(layer, mesh=mesh, mp_policy=precision)
            drop_caches(layer)
        # The rest is gathered when the policy is asked, and stays until the backward pass has ended: contexts, which
        # no hook looks into, may lead there.
        fully_shard(module, mesh=mesh)
        for method in _FORWARD:
            if hasattr(module, method):
                register_fsdp_forward_method(module, method)

    @contextmanager
    def sampling(self, policy: Policy) -> Iterator[None]:
        """Gather each layer once, if that is wanted, and part all again at the end: weights may change then."""
        from unigrpo.training.engines.layers import layers_of

        layers = [cast("FSDPModule", layer) for layer in layers_of(policy)]
        try:
            for layer in layers:
                layer.set_reshard_after_forward(not self.gather_once, recurse=False)
            yield
        finally:
            for layer in layers:
                layer.set_reshard_after_forward(True, recurse=False)
                layer.reshard()
            cast("FSDPModule", policy).reshard()

    def anywhere(self, flags: Tensor, accelerator: Accelerator) -> bool:
        """Whether a flag is set in any of the processes."""
        return bool(accelerator.reduce(flags.any().float()) > 0)

    def share_gradients(self, parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
        """Nothing is left to do: a backward pass leaves a process its part of the mean."""

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """By the norm over all parts of ``parameters``."""
        import torch
        from torch.distributed.tensor import DTensor

        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def own(self, tensor: Tensor) -> Tensor:
        """This process's part."""
        from torch.distributed.tensor import DTensor

        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def put_back(self, kept: Tensor, like: Tensor) -> Tensor:
        """A part that lies where ``like`` has its own."""
        from torch.distributed.tensor import DTensor

        if not isinstance(like, DTensor):
            return kept
        local = kept.to(like.device)
        return DTensor.from_local(local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())

    @contextmanager
    def whole(self, policy: Policy, accelerator: Accelerator) -> Iterator[None]:
        """Gather all weights for the main process, on the CPU, tensor by tensor, and part them again."""
        from torch import nn
        from torch.distributed.tensor import DTensor

        module = cast("nn.Module", policy)
        cast("FSDPModule", policy).reshard()
        parted: list[tuple[nn.Module, str, Foreign]] = []
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                if isinstance(weight, DTensor):
                    parted.append((part, name, weight))
        gathered: dict[int, nn.Parameter] = {}  # a weight that two modules share stays one
        try:
            for part, name, weight in parted:
                if id(weight) not in gathered:
                    full = weight.full_tensor().cpu()
                    if not accelerator.is_main_process:
                        full = full[:0]
                    gathered[id(weight)] = nn.Parameter(full, requires_grad=weight.requires_grad)
                part.register_parameter(name, gathered[id(weight)])
            yield
        finally:
            for part, name, weight in parted:
                part.register_parameter(name, weight)
