"""What surrounds a run changes no result: it is set, refused with the way out, or recorded."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from unigrpo import surroundings
from unigrpo.errors import ConfigError

COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29511"}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No launch variables, and torch and accelerate as they were."""
    for name in (*surroundings._LAUNCH, *surroundings._SIZES, *surroundings._REFUSED):
        monkeypatch.delenv(name, raising=False)
    fresh()
    yield
    fresh()
    surroundings.settle()


def fresh() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ACCELERATE_USE_FSDP", "true", "keeps the whole model"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "keeps the whole model"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "keeps the whole model"),
        ("ACCELERATE_TORCH_DEVICE", "meta", "cpu or cuda"),
        ("ACCELERATE_USE_CPU", "maybe", "a yes or a no"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "fewer bits"),
        ("DNNL_DEFAULT_FPMATH_MODE", "any", "fewer bits"),
        ("NVIDIA_TF32_OVERRIDE", "1", "fewer bits"),
    ],
)
def test_what_cannot_be_overridden_is_refused_with_the_way_out(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}='{value}': .*{said}"):
        surroundings.check()
    with pytest.raises(ConfigError, match=name):
        surroundings.accelerator()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_USE_FSDP", "false"), ("ACCELERATE_USE_CPU", "true"), ("ACCELERATE_TORCH_DEVICE", "cuda:1"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT"), ("NVIDIA_TF32_OVERRIDE", "0"), ("WORLD_SIZE", "1"),
        ("MASTER_ADDR", "somewhere"), ("RANK", "0"), ("SLURM_STEP_NUM_TASKS", "1"), ("MKL_CBWR", "AVX2"),
    ],
)  # fmt: skip
def test_what_changes_nothing_may_stay(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    surroundings.check()


@pytest.mark.parametrize(
    ("left_over", "said"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE='4', but no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: left over"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK='0', but no RANK, WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE='2', but no RANK"),
        (
            {"PMI_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "PMI_SIZE='2', but no RANK, WORLD_SIZE, LOCAL_RANK",
        ),
        ({"SLURM_STEP_NUM_TASKS": "3"}, "SLURM_STEP_NUM_TASKS='3', but no RANK"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='', but no RANK, WORLD_SIZE"),
        (COMPLETE | {"RANK": "2"}, "expected RANK and LOCAL_RANK below WORLD_SIZE, got RANK=2"),
        (COMPLETE | {"MASTER_PORT": "tcp"}, "expected numbers, got MASTER_PORT='tcp'"),
        (COMPLETE | {"LOCAL_RANK": "-1"}, "expected numbers, got LOCAL_RANK='-1'"),
    ],
)
def test_processes_that_cannot_meet_are_refused_before_they_wait_or_split(monkeypatch, left_over, said):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        surroundings.check()


def test_a_whole_launch_is_taken(monkeypatch):
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    surroundings.check()


def test_precision_and_accumulation_are_the_runs_own_whatever_accelerate_is_told(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    made = surroundings.accelerator()
    assert (made.mixed_precision, made.gradient_accumulation_steps, made.num_processes) == ("no", 1, 1)
    assert made.state.dynamo_plugin.backend == "NO"
    weight = torch.ones(1, requires_grad=True)
    made.backward(8 * weight.sum())
    assert weight.grad.tolist() == [8.0]


def test_an_accelerator_of_another_precision_in_this_process_is_refused():
    from accelerate import Accelerator

    Accelerator(mixed_precision="bf16", cpu=True)
    with pytest.raises(ConfigError, match="accelerate does not start"):
        surroundings.accelerator()


def test_a_variable_that_accelerate_cannot_read_is_no_traceback(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_FULLGRAPH", "maybe")
    with pytest.raises(ConfigError, match="environment variables: invalid truth value maybe"):
        surroundings.accelerator()


def test_torchs_defaults_are_set():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.set_autocast_enabled("cpu", True)
    surroundings.settle()
    assert torch.zeros(1).dtype == torch.float32
    assert torch.zeros(1).device.type == "cpu"
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.is_autocast_enabled("cpu")


def test_a_file_that_stands_in_for_a_standard_module_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "random", SimpleNamespace(__file__=str(tmp_path / "random.py")))
    with pytest.raises(ConfigError, match=r"random.py stands in for Python's own module random; rename it"):
        surroundings.check()


class TestKind:
    @pytest.fixture(autouse=True)
    def _as_if_nobody_picked_kernels(self, monkeypatch):
        for name in ("MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUBLAS_WORKSPACE_CONFIG"):
            monkeypatch.delenv(name, raising=False)

    def test_it_names_processor_kernels_threads_and_torch(self):
        found = surroundings.kind()
        assert torch.backends.cpu.get_cpu_capability() in found
        assert f"{torch.get_num_threads()} thread" in found
        assert "torch 2." in found
        assert "+" not in found
        assert found == surroundings.kind(torch.device("cpu"))

    @pytest.mark.parametrize(
        "name", ["MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUBLAS_WORKSPACE_CONFIG"]
    )
    def test_a_variable_that_picks_kernels_makes_another_kind(self, monkeypatch, name):
        plain = surroundings.kind()
        monkeypatch.setenv(name, "AVX2")
        assert surroundings.kind() == f"{plain}, {name}=AVX2"

    def test_what_picks_none_does_not(self, monkeypatch):
        plain = surroundings.kind()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        assert surroundings.kind() == plain


def test_what_libraries_read_is_recorded_and_no_secret(monkeypatch):
    for name in ("MKL_CBWR", "ACCELERATE_MIXED_PRECISION", "HF_HUB_OFFLINE", "WORLD_SIZE", "PYTHONHASHSEED", "TZ"):
        monkeypatch.setenv(name, "1")
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "NVIDIA_API_KEY", "MY_OWN"):
        monkeypatch.setenv(name, "sesame")
    found = surroundings.describe()["variables"]
    assert found.keys() >= {"MKL_CBWR", "ACCELERATE_MIXED_PRECISION", "HF_HUB_OFFLINE", "WORLD_SIZE", "TZ"}
    assert "sesame" not in found.values()
