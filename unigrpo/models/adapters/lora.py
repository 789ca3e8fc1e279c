"""Small matrices beside dense layers are trained, the model itself is not (LoRA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from unigrpo.checkpoints import digest_of_files
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.models.adapters.adapter import Adapter, save_model
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.models.model import LoadedModel, Model
    from unigrpo.models.policy import Policy
    from unigrpo.noise import Key

#: Folder of a run with what has been trained, as peft has it.
ADAPTER = "adapter"


@register("adapter", "lora", source="LoRA (arXiv 2106.09685) eq. 3")
@dataclass(frozen=True)
class Lora(Adapter):
    """h = W x + alpha / rank B A x with W frozen; the reference is the same model without B A. By peft."""

    trains_all: ClassVar[bool] = False

    rank: int = 8
    """Rows of A and columns of B."""
    alpha: int = 16
    """Scale of the product, before it is divided by the rank."""
    text_targets: tuple[str, ...] = ()
    """Ends of names of the dense layers of texts, whole parts between dots, with * in a part (``q_proj``, ``mlp.*``);
    all dense layers of texts if empty."""
    image_targets: tuple[str, ...] = ()
    """The same of images."""
    start: str = ""
    """Folder ``adapter/`` of a run, to go on from; B is 0 at the start without one."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ValueError(f"rank={self.rank} alpha={self.alpha}: expected values of at least 1")

    def attach(self, loaded: LoadedModel, key: Key) -> LoadedModel:
        """The model with A and B in its dense layers, whose own weights are frozen."""
        from torch import nn

        from unigrpo.models.adapters import files, layers, targets

        policy = loaded.policy
        if not isinstance(policy, nn.Module):
            raise ConfigError(f"adapter=lora: {type(policy).__name__}: expected a torch.nn.Module, or use adapter=full")
        chosen = targets.choose(policy, self.text_targets, self.image_targets)
        layers.attach(policy, chosen, self.rank, self.alpha, key)
        if self.start:
            tensors = files.read(self.folder, loaded.policy, self.rank, self.alpha)
            layers.start_from(policy, tensors, self.rank, self.alpha)
        return layers.Adapted(policy, loaded.processor, loaded)

    def state(self, policy: Policy) -> Mapping[str, Tensor]:
        """A and B alone."""
        from unigrpo.models.adapters import layers

        return layers.trained(policy)

    def restore(self, policy: Policy, tensors: Mapping[str, Tensor]) -> None:
        """Copy them into their places."""
        from unigrpo.models.adapters import layers

        for name, weight in layers.trained(policy).items():
            weight.data.copy_(tensors[name])

    def save(self, folder: Path, model: Model, loaded: LoadedModel) -> None:
        """Write ``adapter/``, which peft loads, and ``model/``, the model with B A added to its weights."""
        from unigrpo.models.adapters import files, layers

        assert isinstance(loaded, layers.Adapted)
        files.write(folder / ADAPTER, loaded.policy, self.rank, self.alpha)
        with layers.merged(loaded.policy):
            save_model(folder, model, loaded.base)

    @property
    def folder(self) -> Path:
        """Where a run starts from, with the home folder for ``~``."""
        return Path(home_expanded("adapter.start", self.start))

    def digest(self) -> str:
        """Of the files of ``start``."""
        return digest_of_files(sorted(self.folder.rglob("adapter_*"))) if self.start else ""

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say whether peft is missing, or the adapter that it is to start from."""
        if find_spec("peft") is None:
            yield "the package peft is not installed; pip install 'unigrpo[lora]', or use adapter=full"
        if self.start and not any(self.folder.rglob("adapter_config.json")):
            yield f"start={self.start}: expected the folder adapter/ of a run, but no adapter_config.json is in it"
