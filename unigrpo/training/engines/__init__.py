"""How a run's processes share the work and the model (slot ``engine``)."""

from unigrpo.training.engines.ddp import Ddp
from unigrpo.training.engines.engine import Engine
from unigrpo.training.engines.fsdp import Fsdp

__all__ = ["Ddp", "Engine", "Fsdp"]
