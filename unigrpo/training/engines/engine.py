"""What every strategy of slot ``engine`` is: where a model's weights lie, and in which parts a minibatch is trained.

An engine changes what a run takes, not what it computes: results are those of one process and whole minibatches, but
for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.registry import name_of

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from unigrpo.config import RunConfig
    from unigrpo.models.policy import Policy


@dataclass(frozen=True)
class Engine:
    """The base of a strategy of slot ``engine``.

    Attributes:
        shards: whether a process holds a part of the weights only, so that all have to compute in step.
    """

    slot: ClassVar[str]
    name: ClassVar[str]
    shards: ClassVar[bool] = False

    rollout_batch: int = 0
    """Episodes that are sampled at a time, in whole groups; 0 for a whole minibatch."""
    micro_batch: int = 0
    """Episodes in one forward and backward pass of training; 0 for a whole minibatch.  Their log-probabilities before
    the update are computed anew in this size, so that ratios begin at 1."""
    micro_steps: int = 0
    """Denoising steps of an image in one such pass; 0 for all of them."""
    checkpoint_activations: bool = False
    """Whether the layers' activations are computed again in the backward pass instead of kept."""

    def __post_init__(self) -> None:
        for field in ("rollout_batch", "micro_batch", "micro_steps"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)}: expected 0 or more")

    def place(self, policy: Policy, accelerator: Accelerator, *, bf16: bool) -> None:
        """Lay out a policy's weights, before its optimiser is made.

        Args:
            policy: on the device of the process.
            accelerator: of the run.
            bf16: whether it computes in that precision, by autocast.
        """
        if self.checkpoint_activations:
            from unigrpo.training.engines.layers import checkpoint_activations

            checkpoint_activations(policy)

    @contextmanager
    def sampling(self, policy: Policy) -> Iterator[None]:
        """Around the passes of a rollout, which need no gradients."""
        yield

    def anywhere(self, flags: Tensor, accelerator: Accelerator) -> bool:
        """Whether a flag [B] is set: where all have to compute in step, in any of the processes."""
        return bool(flags.any())

    def share_gradients(self, parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
        """Average gradients over processes, after the last backward pass of a step."""
        raise NotImplementedError

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a norm of at most ``max_norm``; their norm before."""
        raise NotImplementedError

    def own(self, tensor: Tensor) -> Tensor:
        """What this process has to keep of a weight, or of an optimiser's state."""
        return tensor

    def put_back(self, kept: Tensor, like: Tensor) -> Tensor:
        """Undo :meth:`own` for a tensor that is as ``like``."""
        return kept

    @contextmanager
    def whole(self, policy: Policy, accelerator: Accelerator) -> Iterator[None]:
        """Around the saving of a trained policy, by the main process: there it has all of its weights."""
        yield

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Incompatibilities with the rest of the configuration, one sentence each."""
        size, group = self.micro_batch, config.rollout.group_size
        if self.rollout_batch % group:
            yield f"rollout_batch={self.rollout_batch}: expected a multiple of rollout.group_size={group}, whole groups"
        if size and size % group and group % size:
            yield (
                f"micro_batch={size}: expected whole groups or equal parts of one, a multiple or a divisor of"
                f" rollout.group_size={group}"
            )
        if self.micro_steps and not (config.image_head.denoises and config.algorithm.splits_steps):
            yield (
                f"micro_steps={self.micro_steps}: image_head={config.image_head.name} with"
                f" algorithm={config.algorithm.name} has no recorded denoising steps; use micro_batch alone"
            )
        if self.micro_steps and config.aggregation.joint:
            yield (
                f"micro_steps={self.micro_steps}: aggregation={name_of(config.aggregation)} takes one mean over texts"
                " and steps; use micro_batch alone, or aggregation=sequence_mean"
            )
