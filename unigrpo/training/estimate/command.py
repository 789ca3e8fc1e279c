"""Say what a run needs before anything is loaded: ``unigrpo estimate recipe=unigrpo [gpu_gb=80] [key=value ...]``.

Parameters, memory by part and by phase of an update, images, tokens and velocity evaluations; and whether it fits on
the GPUs that are here, or on one of ``gpu_gb`` GiB.  No weights are read, and no memory is taken for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unigrpo import console
from unigrpo.compose import compose
from unigrpo.errors import ConfigError

if TYPE_CHECKING:
    from unigrpo.training.estimate.needs import Estimate

#: The part of a GPU that is left to CUDA, to what kernels take for themselves, and to fragments.
RESERVE = 0.1
_GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU by its name and its bytes of memory."""

    name: str
    memory: int

    def told(self, peak: int) -> str:
        """Whether a run whose peak is so many bytes fits."""
        room = self.memory * (1 - RESERVE)
        verdict = "fits on" if peak <= room else "does not fit on"
        return f"{verdict} {self.name}: {size(peak)} of {size(self.memory)}, {RESERVE:.0%} of which are kept free"


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        ConfigError: a mistake in it, or a configuration that cannot run.
    """
    console.prepare()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    sizes = [word.partition("=")[2] for word in arguments if word.startswith("gpu_gb=")]
    asked = [_asked(text) for text in sizes[-1:]]
    config = compose([word for word in arguments if not word.startswith("gpu_gb=")])
    from unigrpo.training.estimate.needs import estimate

    found = estimate(config)
    print("\n".join((*lines(found), *(gpu.told(found.peak) for gpu in asked or gpus_here()))))
    return 0


def _asked(text: str) -> Gpu:
    try:
        gibibytes = float(text)
    except ValueError:
        gibibytes = 0.0
    if not gibibytes > 0:
        raise ConfigError(f"gpu_gb={text}: expected the GiB of a GPU's memory, such as gpu_gb=80")
    return Gpu(f"a GPU of {gibibytes:g} GiB", int(gibibytes * _GIB))


def gpus_here() -> list[Gpu]:
    """The GPUs of this machine."""
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [Gpu(one.name, one.total_memory) for one in found]


def lines(found: Estimate) -> Iterator[str]:
    """An estimate for the terminal."""
    yield "parameters"
    yield from (f"  {name:<23}{count:>17,}" for name, count in found.parameters.items())
    yield "memory that stays from update to update"
    yield from (f"  {name:<23}{size(count):>17}" for name, count in found.parts.items())
    yield f"  {'together':<23}{size(found.fixed):>17}"
    yield "most memory in an update, by phase"
    yield from (f"  {name:<23}{size(count):>17}" for name, count in found.peaks.items())
    yield f"  contexts (cached keys and values) of a minibatch: {size(found.contexts)}"
    yield f"  activations of the largest backward pass: {size(found.activations)}"
    yield "an update"
    yield f"  {found.images} images, at most {found.tokens} tokens of generated texts"
    yield "  velocity evaluations: " + ", ".join(f"{count} {name}" for name, count in found.velocities.items())


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / _GIB:,.2f} GiB" if count >= _GIB else f"{count / 2**20:,.1f} MiB"
