"""Several processes of one run, as torchrun would start them, on the CPU (gloo)."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from accelerate.state import AcceleratorState

#: Longer than anything here takes: processes that wait for each other in vain are a failure.
_PATIENCE = 300


def together(count: int, action: Callable[..., None], *args: Any) -> None:
    """Do ``action(*args)`` in ``count`` processes that know of each other; one is alone and knows nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = []
    for rank in range(count):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        ranked = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
        environment = shared | ranked if count > 1 else {}
        # Forked, since to import torch and transformers takes them longer than the run.
        worker = multiprocessing.get_context("fork").Process(target=_work, args=(count, environment, action, args))
        workers.append(worker)
        worker.start()
    try:
        for worker in workers:
            worker.join(_PATIENCE)
            assert worker.exitcode == 0, "a process failed, or waits for another in vain"
    finally:
        for worker in workers:
            worker.kill()


def _work(count: int, environment: dict[str, str], action: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests of this process may have set it
    action(*args)
    assert AcceleratorState().num_processes == count
    if count > 1:
        torch.distributed.destroy_process_group()
