"""What the package ships, whatever strategies other tests have registered beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from unigrpo import registry
from unigrpo.checkpoints import CONFIG, INDEX, SHIPPED


def shipped(slot: str) -> dict[str, type]:
    """Name -> class of the strategies of ``slot`` that come with the library."""
    return {name: cls for name, cls in registry.strategies(slot).items() if cls.__module__.startswith("unigrpo.")}


def shallow(folder: Path) -> None:
    """Write the shipped checkpoints into ``folder``, under their names, with the first of their layers alone.

    Pipelines are there whole.
    """
    from unigrpo.models.mot import checkpoint
    from unigrpo.models.mot.checkpoint import MoTModel
    from unigrpo.models.mot.configuration import MoTConfig
    from unigrpo.models.mot.policy import MoTPolicy

    for path in SHIPPED.glob(f"*/{CONFIG}"):
        whole = checkpoint.load(path.parent.name)
        policy = MoTPolicy(MoTConfig.from_dict(whole.policy.config.to_dict() | {"num_hidden_layers": 1}))
        weights = whole.policy.state_dict()
        policy.load_state_dict({name: weights[name] for name in policy.state_dict()})
        checkpoint.save(folder / path.parent.name, MoTModel.of(policy, whole.autoencoder, whole.tokenizer))
        shutil.copy(path.with_name("recipe.json"), folder / path.parent.name)
    for path in SHIPPED.glob(f"*/{INDEX}"):
        shutil.copytree(path.parent, folder / path.parent.name)
