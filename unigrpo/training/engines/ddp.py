"""Every process has the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unigrpo.registry import register
from unigrpo.training.engines.engine import Engine

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn


@register("engine", "ddp", source="synchronous data parallelism; torch DDP (arXiv 2006.15704)")
@dataclass(frozen=True)
class Ddp(Engine):
    """One process, or several that average their gradients after the backward pass.

    Not torch's wrapper, which averages during it: the lengths of texts differ between processes, and with them which
    parameters have a gradient.
    """

    def share_gradients(self, parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
        """Average them; where another process has a gradient, one without has one of 0."""
        import torch

        if accelerator.num_processes == 1:
            return
        there = torch.tensor([one.grad is not None for one in parameters], device=accelerator.device)
        for parameter, anywhere in zip(parameters, accelerator.reduce(there.float()).tolist(), strict=True):
            if anywhere:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = accelerator.reduce(gradient, "mean")

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """By the norm over all of ``parameters``."""
        import torch

        return torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
