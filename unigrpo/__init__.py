"""UniGRPO: reinforcement learning for unified text-and-image models, one switch per choice.

``compose`` makes a configuration, ``train`` a run of it, ``load_model`` loads a policy with its processor, ``register``
adds a strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.io import JsonObject
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.models.model import LoadedModel

__version__ = "0.1.0"
__all__ = ["RunConfig", "compose", "load_model", "register", "train"]


def train(
    config: RunConfig,
    folder: str | Path,
    *,
    progress: Callable[[JsonObject], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> JsonObject:
    """Train in ``folder``, or go on where it was left, and evaluate; a finished run is read.

    Args:
        config: of the run.
        folder: made if missing.
        progress: called after every update with ``update``, ``updates`` and ``metrics``.
        stop: polled after every update; when true, the run is checkpointed and ``Stopped`` raised.

    Returns:
        ``metrics`` and ``cost`` by name, and the number of ``updates``.

    Raises:
        ConfigError: the configuration cannot run.
    """
    from unigrpo.training.runner import run

    return run(config.check(), Path(folder), progress=progress, stop=stop)


def load_model(name: str = "mot", device: str = "cpu", **settings: object) -> LoadedModel:
    """A policy and its processor, such as ``load_model(checkpoint="runs/train/mine/model")``.

    Args:
        name: of a strategy of slot ``model``.
        device: where it goes.
        settings: of the strategy.

    Raises:
        ConfigError: no such strategy or setting, or it cannot be loaded.
    """
    import torch

    config = RunConfig.from_dict({"model": {"name": name, **settings}})
    return config.model.load(torch.device(device))
