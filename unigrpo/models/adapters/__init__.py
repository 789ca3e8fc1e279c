"""Which weights of a model are trained (slot ``adapter``): all of them, or small ones that are added."""

from unigrpo.models.adapters.adapter import Adapter
from unigrpo.models.adapters.full import Full
from unigrpo.models.adapters.lora import Lora

__all__ = ["Adapter", "Full", "Lora"]
