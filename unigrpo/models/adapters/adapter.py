"""What every strategy of slot ``adapter`` is: what is trained, what the reference is, what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from unigrpo.config import RunConfig
    from unigrpo.models.model import LoadedModel, Model
    from unigrpo.models.policy import Policy
    from unigrpo.noise import Key

#: Folder of a run with the trained model, which its slot ``model`` loads.
MODEL = "model"


class Adapter:
    """The base of a strategy of slot ``adapter``."""

    slot: ClassVar[str]
    name: ClassVar[str]

    @property
    def start(self) -> str:
        """Folder of a trained adapter that a run starts from; empty for none."""
        return ""

    @property
    def trains_all(self) -> bool:
        """Whether every weight that the model lets be trained is trained."""
        raise NotImplementedError

    def attach(self, loaded: LoadedModel, key: Key) -> LoadedModel:
        """The model as it is trained, whose ``policy.parameters_of`` gives what is trained and nothing else.

        Args:
            loaded: the model as it was loaded; its policy may be changed in place.
            key: of all draws.

        Raises:
            ConfigError: the model has no place for it.
        """
        raise NotImplementedError

    def state(self, policy: Policy) -> Mapping[str, Tensor]:
        """The weights by name that a checkpoint has to keep, given a policy of :meth:`attach`."""
        raise NotImplementedError

    def restore(self, policy: Policy, tensors: Mapping[str, Tensor]) -> None:
        """Take over the weights of :meth:`state`."""
        raise NotImplementedError

    def follow(self, optimizer: Optimizer) -> None:
        """Hear of the optimiser before its first step, to keep in its state what follows from its steps."""

    def measured(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        """While evaluations and :meth:`save` have the policy: its weights may be others than those that are trained."""
        return nullcontext()

    def save(self, folder: Path, model: Model, loaded: LoadedModel) -> None:
        """Write what has been trained to a run's folder: always ``model/``, which ``model`` can load without this.

        Args:
            folder: of the run, which is there.
            model: the strategy that loaded the model.
            loaded: what :meth:`attach` returned.
        """
        raise NotImplementedError

    def digest(self) -> str:
        """Names the files that a run starts from besides the model's; empty without any.  Cheap: plans ask it.

        Raises:
            ConfigError: they cannot be read.
        """
        return ""

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Incompatibilities with the rest of the configuration, one sentence each."""
        yield from ()


def save_model(folder: Path, model: Model, loaded: LoadedModel) -> None:
    """Write the model to the folder ``model/`` of a run."""
    (folder / MODEL).mkdir(exist_ok=True)
    model.save(folder / MODEL, loaded)
