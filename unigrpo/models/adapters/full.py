"""All weights are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from unigrpo.models.adapters.adapter import Adapter, save_model
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.models.model import LoadedModel, Model
    from unigrpo.models.policy import Policy
    from unigrpo.noise import Key


@register("adapter", "full", source="UniGRPO (arXiv 2603.23500)")
@dataclass(frozen=True)
class Full(Adapter):
    """Every weight that the model lets be trained; the reference is a copy."""

    trains_all: ClassVar[bool] = True

    def attach(self, loaded: LoadedModel, key: Key) -> LoadedModel:
        """The model itself."""
        return loaded

    def state(self, policy: Policy) -> Mapping[str, Tensor]:
        """The whole ``state_dict``."""
        return policy.state_dict()

    def restore(self, policy: Policy, tensors: Mapping[str, Tensor]) -> None:
        """Load it."""
        policy.load_state_dict(tensors)

    def save(self, folder: Path, model: Model, loaded: LoadedModel) -> None:
        """Write ``model/``."""
        save_model(folder, model, loaded)
