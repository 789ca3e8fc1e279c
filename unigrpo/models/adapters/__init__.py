"""Which weights of a model are trained (slot ``adapter``): all, or small ones that are added; or their average."""

from unigrpo.models.adapters.adapter import Adapter
from unigrpo.models.adapters.ema import Ema
from unigrpo.models.adapters.full import Full
from unigrpo.models.adapters.lora import Lora

__all__ = ["Adapter", "Ema", "Full", "Lora"]
