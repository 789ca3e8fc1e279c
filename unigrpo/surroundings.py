"""What surrounds a run: variables and defaults that its configuration, hence its identity, does not know.

Whatever could change a result is set here, whatever was there before, or refused with the way out.  The rest picks
kernels, threads or places: it changes a result by rounding at most, as another kind of machine does, and is recorded.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

_OFF = "|0|n|no|f|false|off"
_SHARDS = "a run keeps the whole model in each process; unset it (accelerate launch: without that plugin)"
_BITS = "fp32 would be computed in fewer bits; unset it (optim.precision=bf16 asks for bf16 where it is safe)"
#: Variable -> the values that may stay (none at all always may), and why no other.
_REFUSED: dict[str, tuple[str, str]] = {
    "ACCELERATE_USE_DEEPSPEED": (_OFF, _SHARDS),
    "ACCELERATE_USE_FSDP": (_OFF, _SHARDS),
    "ACCELERATE_USE_MEGATRON_LM": (_OFF, _SHARDS),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (_OFF, _SHARDS),
    "ACCELERATE_USE_SAGEMAKER": (_OFF, _SHARDS),
    "ACCELERATE_USE_CPU": (f"{_OFF}|1|y|yes|t|true|on", "it is a yes or a no"),
    "ACCELERATE_TORCH_DEVICE": (r"cpu|cuda(:\d+)?", "a run is for cpu or cuda"),
    "ONEDNN_DEFAULT_FPMATH_MODE": ("|strict", _BITS),
    "DNNL_DEFAULT_FPMATH_MODE": ("|strict", _BITS),
    "NVIDIA_TF32_OVERRIDE": ("|0", _BITS),
}

#: Set by torchrun and accelerate launch, all of them.
_LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
#: By which other launchers, whose processes know nothing of each other here, say how many they started.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")

#: They pick kernels on a CPU or GPU, so that the kind of machine is another one with them.
_KERNELS = re.compile(
    "ATEN_CPU_CAPABILITY|MKL_(CBWR|ENABLE_INSTRUCTIONS|DEBUG_CPU_TYPE|DISABLE_FAST_MM|NUM_STRIPES)"
    "|(ONEDNN|DNNL)_(MAX_CPU_ISA|CPU_ISA_HINTS)|OPENBLAS_CORETYPE|NPY_DISABLE_CPU_FEATURES|KMP_DETERMINISTIC_REDUCTION"
    "|TORCH_(MKLDNN|LINEAR|BLAS|LINALG|CUDNN)_.*|CUBLAS_.*|CUDNN_.*"
)
_RECORDED = re.compile(
    "(ACCELERATE|FSDP|PARALLELISM_CONFIG|ATEN|MKL|ONEDNN|DNNL|OMP|GOMP|KMP|OPENBLAS|NPY|TORCH|PYTORCH|CUDA|CUBLAS|CUDNN|NVIDIA|NCCL"
    "|GLOO|OMPI|PMI|MV2)_.*|PYTHON(HASHSEED|OPTIMIZE|PATH|UTF8|IOENCODING|SAFEPATH)|HF_(HOME|HUB_CACHE|HUB_OFFLINE)"
    "|TRANSFORMERS_(OFFLINE|CACHE)|LANG|LC_(ALL|CTYPE|NUMERIC)|TZ|LD_PRELOAD|LD_LIBRARY_PATH|"
    + "|".join((*_LAUNCH, *_SIZES))
)
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY")

_PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "numpy", "scipy", "safetensors")
#: Of the standard library, what a result hangs on; a file of such a name beside the run would take its place.
_STANDARD = ("random", "hashlib", "json", "math", "statistics", "itertools", "functools", "struct")


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse surroundings that would change a result, or hang or split a run; loads nothing heavy.

    Args:
        environment: that a run would have.

    Raises:
        ConfigError: names each variable, its value, what was expected and the way out.
    """
    faults = [*_faulty_variables(environment), *_faulty_launch(environment), *_shadowed()]
    if faults:
        raise ConfigError("; ".join(faults))


def _faulty_variables(variables: Mapping[str, str]) -> Iterator[str]:
    for name, (allowed, why) in _REFUSED.items():
        value = variables.get(name)
        if value is not None and not re.fullmatch(allowed, value.strip(), re.IGNORECASE):
            yield f"environment variable {name}={value!r}: {why}"


def _faulty_launch(variables: Mapping[str, str]) -> Iterator[str]:
    """Which variables claim several processes without saying how they meet."""
    sizes = {name: variables[name] for name in _SIZES if variables.get(name, "1").strip() != "1"}
    ranked = {name: variables[name] for name in ("LOCAL_RANK",) if name in variables}
    if not sizes and not ranked:
        return
    missing = [name for name in _LAUNCH if not variables.get(name, "").strip()]
    came = ", ".join(f"{name}={value!r}" for name, value in (ranked | sizes).items())
    if missing:
        yield (
            f"environment: {came}, but no {', '.join(missing)}: left over, or from a launcher that tells processes"
            " nothing of each other; for one process unset it, for several start torchrun or accelerate launch"
        )
        return
    numbers = {name: variables[name].strip() for name in _LAUNCH if name != "MASTER_ADDR"}
    if odd := {name: value for name, value in numbers.items() if not re.fullmatch(r"\d+", value)}:
        yield "environment: expected numbers, got " + ", ".join(f"{name}={value!r}" for name, value in odd.items())
    elif not max(int(numbers["RANK"]), int(numbers["LOCAL_RANK"])) < int(numbers["WORLD_SIZE"]):
        yield (
            f"environment: expected RANK and LOCAL_RANK below WORLD_SIZE, got RANK={numbers['RANK']},"
            f" LOCAL_RANK={numbers['LOCAL_RANK']}, WORLD_SIZE={numbers['WORLD_SIZE']}; start all by one torchrun"
        )


def _shadowed() -> Iterator[str]:
    """Modules that took the place of the standard library's."""
    homes = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    for name in _STANDARD:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not any(Path(file).resolve().is_relative_to(home) for home in homes):
            yield f"{file} stands in for Python's own module {name}; rename it, or run elsewhere"


def accelerator() -> Accelerator:
    """An accelerator as a run needs it: nothing of it is left to variables; torch's defaults are set first.

    Raises:
        ConfigError: it came out otherwise.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    check()
    settle()
    several = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if several > 1:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        print(f"process {os.environ['RANK']} of {several}, which meet at {where}", file=sys.stderr, flush=True)
    try:
        made = Accelerator(
            mixed_precision="no",
            # Else accelerate takes processes without a GPU for runs of their own, all in one folder.
            cpu=not torch.accelerator.is_available(),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(f"accelerate does not start with these environment variables: {error}") from error
    wanted = {"processes": several, "precision": "no", "accumulated gradients": 1}
    came = {
        "processes": made.num_processes,
        "precision": made.mixed_precision,
        "accumulated gradients": made.gradient_accumulation_steps,
    }
    if came != wanted or made.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ConfigError(
            f"accelerate: expected {wanted}, got {came} and {made.distributed_type}; unset its environment variables,"
            " or start the run in a process of its own"
        )
    if made.device.type == "cuda" and (made.device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"accelerate chose {made.device}, and torch sees {torch.cuda.device_count()} GPUs")
    return made


def settle() -> None:
    """Set torch's defaults that decide results, in this process, whatever its site has made of them."""
    import torch

    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    # fp32 is fp32: no TF32 and no bf16 inside of products and convolutions.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for operator in ("matmul", "conv"):
        getattr(torch.backends.mkldnn, operator).fp32_precision = "ieee"
    # The same kernel every time, not the one that was fastest just now.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)


def variables() -> dict[str, str]:
    """The variables that libraries read, as they are; secrets are left out."""
    names = sorted(name for name in os.environ if _RECORDED.fullmatch(name) and not _SECRET.search(name))
    return {name: os.environ[name] for name in names}


def kind(device: torch.device | None = None) -> str:
    """The kind of machine on which a run's bytes repeat, ``GenuineIntel 6-106, AVX512, 1 thread, torch 2.13.0``.

    Args:
        device: that the run is on; a GPU's name and CUDA version belong to the kind.
    """
    import torch

    threads = torch.get_num_threads()
    parts = [_cpu(), torch.backends.cpu.get_cpu_capability(), f"{threads} thread{'s' * (threads > 1)}"]
    parts.append(f"torch {torch.__version__.partition('+')[0]}")
    if device is not None and device.type == "cuda":
        parts.append(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda or torch.version.hip}")
    if torch.are_deterministic_algorithms_enabled():
        parts.append("deterministic algorithms")
    parts += [f"{name}={value}" for name, value in sorted(os.environ.items()) if _KERNELS.fullmatch(name) and value]
    return ", ".join(parts)


def _cpu() -> str:
    """Vendor, family and model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "vendor_id" in told and "model" in told:
        return f"{told['vendor_id']} {told.get('cpu family', '?')}-{told['model']}"
    if "CPU implementer" in told:
        return f"{platform.machine()} {told['CPU implementer']}-{told.get('CPU part', '?')}"
    return " ".join(dict.fromkeys(filter(None, (platform.machine(), platform.processor()))))


def describe(device: torch.device | None = None) -> JsonObject:
    """What is recorded of a run's surroundings besides :func:`place`: ``kind`` and ``variables``."""
    return {"kind": kind(device), "variables": variables()}


def place() -> JsonObject:
    """Where a run is made and with which packages; loads nothing heavy."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
