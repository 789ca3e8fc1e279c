"""A run from start to end in one folder: updates, logs, checkpoints, the final evaluation.

All randomness is keyed, so that a resumed run ends in the bytes of an uninterrupted one; what depends on the machine
(seconds, memory) goes to files of its own.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from unigrpo import identity, surroundings
from unigrpo.config import RunConfig
from unigrpo.errors import CheckpointError, Stopped
from unigrpo.io import JsonObject, append_row, read_json, truncate_rows, write_json
from unigrpo.training import artifacts
from unigrpo.training.exchange import gather_facts
from unigrpo.training.state import Share, read_latest
from unigrpo.training.state import write as write_checkpoint
from unigrpo.training.trainer import Trainer

#: Updates between checkpoints: what a kill can lose.
CHECKPOINT_EVERY = 10


def is_checkpointed(update: int, updates: int) -> bool:
    """Whether a run of ``updates`` updates writes a checkpoint after its update ``update``, counted from 0.

    The first one shows early whether there is room for it, and that a run which is killed again and again gets on; the
    last one keeps the training, whatever befalls the evaluation.
    """
    done = update + 1
    return done in (1, updates) or done % CHECKPOINT_EVERY == 0


def run(
    config: RunConfig,
    folder: Path,
    *,
    progress: Callable[[JsonObject], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> JsonObject:
    """Train ``config`` in ``folder``, or go on where its checkpoint stands, then evaluate; a finished run is read.

    Args:
        config: of the run.
        folder: made if missing; holds config.json, content.json, env.json, metrics.jsonl, timing.jsonl and checkpoint/,
            at the end evaluation.json, per_prompt.jsonl, samples/, model/, cost.json and result.json.
        progress: called after every update with ``update``, ``updates`` and ``metrics``.
        stop: polled after every update; when true, the run is checkpointed and :class:`Stopped` raised.

    Returns:
        The content of result.json, which depends on the configuration alone.

    Raises:
        ConfigError: the configuration cannot run.
        Stopped: as asked.
        NonFiniteLoss: training diverged.
        RatioGuardError: sampling and replay disagree.
        RewardError: the reward could not be had.
        CheckpointError: checkpoints exist, but none is whole, or the folder is that of another configuration, of other
            prompts or weights, or of another source of what is a user's own.
    """
    done = finished(config.check(), folder)
    return _Run(config, folder).go(progress, stop) if done is None else done


def finished(config: RunConfig, folder: Path) -> JsonObject | None:
    """The result that the folder holds already, None if it holds none.

    Raises:
        CheckpointError: it is the result of another run.
    """
    result: JsonObject | None = read_json(folder / "result.json")
    if result is None:
        return None
    _check_same(f"{folder} holds the result", identity.read(folder), identity.identity_of(config))
    artifacts.drop_checkpoints(folder)  # which a kill may have kept the first time
    return result


def _check_same(what: str, stored: JsonObject, wanted: JsonObject) -> None:
    if found := identity.differences(stored, wanted):
        raise CheckpointError(f"{what} of another configuration ({found}); give this run another folder, folder=...")


class _Run:
    """A trainer and its folder; only the main process writes, but for parts of checkpoints."""

    def __init__(self, config: RunConfig, folder: Path):
        self.config, self.folder = config, folder
        self.started, self.cpu = time.perf_counter(), time.process_time()
        # Of the start: a file that is edited while the run goes on is not what it runs with.
        self.identity = identity.identity_of(config)
        self.accelerator = surroundings.accelerator()
        self.main = self.accelerator.is_main_process
        # Every process keeps its own part of a model in parts.
        together = (self.accelerator.process_index, self.accelerator.num_processes)
        self.share = Share(*together) if config.engine.shards else Share()
        saved = read_latest(folder / "checkpoint", self.share)
        if saved:
            _check_same(f"{folder} holds a checkpoint", saved.facts["identity"], self.identity)
        self.trainer = Trainer(config)
        self.done = self.trainer.restore(saved) if saved else 0
        self._check_together()
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            identity.write(folder, config, self.identity)
            self.write_surroundings()
            for name in ("metrics.jsonl", "timing.jsonl"):
                truncate_rows(folder / name, self.done)

    def _check_together(self) -> None:
        """Wait for all processes; they must go on from the same update."""
        if len({*gather_facts(self.accelerator, self.done)}) > 1:
            raise CheckpointError(
                f"{self.folder / 'checkpoint'}: a part of the newest checkpoint is damaged, and the processes would go"
                " on from different updates; delete the newest folder there"
            )

    def write_surroundings(self) -> None:
        """On what the run is made; what whoever started it has written down stays."""
        path = self.folder / "env.json"
        found = surroundings.place() | surroundings.describe(self.accelerator.device)
        remarks = {"remarks": told} if (told := self.config.model.remarks()) else {}
        write_json(path, (read_json(path) or {}) | found | remarks | {"kind": ", then ".join(self.trainer.kinds)})

    def go(self, progress: Callable[[JsonObject], None] | None, stop: Callable[[], bool] | None) -> JsonObject:
        """Train what is left, evaluate, write the result."""
        trainer, updates = self.trainer, self.config.optim.updates
        for update in range(self.done, updates):
            metrics = self.step(update)
            if progress:
                progress({"update": update + 1, "updates": updates, "metrics": metrics})
            stopping = trainer.any_rank(stop is not None and stop())
            if stopping or is_checkpointed(update, updates):
                self.flush_timer()
                if self.main or self.share.count > 1:
                    self.write_checkpoint(update + 1)
            if stopping:
                raise Stopped(f"checkpointed after update {update + 1} of {updates}")
        result = self.finish()
        self.accelerator.wait_for_everyone()
        return result

    def step(self, update: int) -> dict[str, float]:
        """One update and its rows in the logs."""
        trainer, every = self.trainer, self.config.evaluation.every
        before = dict(trainer.seconds)
        if every and update % every == 0:
            with trainer.clock("evaluation"):
                found = trainer.evaluate_in_loop()
            if self.main:
                append_row(self.folder / "metrics.jsonl", {"step": update, **found})
        metrics = trainer.update(update)
        trainer.reduce_counters()
        if self.main:
            counts = {f"cost/{name}": value for name, value in trainer.cost.items()}
            append_row(self.folder / "metrics.jsonl", {"step": update, **metrics, **counts})
            spent = {f"time/{name}": value - before.get(name, 0.0) for name, value in trainer.seconds.items()}
            append_row(self.folder / "timing.jsonl", {"step": update, **spent})
        return metrics

    def write_checkpoint(self, update: int) -> None:
        """Keep where the run stands after ``update`` updates, and what it is a run of."""
        state = self.trainer.state()
        state = dataclasses.replace(state, facts={**state.facts, "identity": self.identity})
        write_checkpoint(self.folder / "checkpoint", update, state, self.share, self.gathered)
        if self.share.count > 1:
            self.accelerator.wait_for_everyone()  # until the facts are there

    def gathered(self, digest: str) -> list[str]:
        """Those of all processes that keep a part."""
        return gather_facts(self.accelerator, digest) if self.share.count > 1 else [digest]

    def flush_timer(self) -> None:
        """Add the seconds since the last time to the totals, which survive a kill."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.trainer.add_time("wall", wall - self.started)
        self.trainer.add_time("cpu", cpu - self.cpu)
        self.started, self.cpu = wall, cpu

    def finish(self) -> JsonObject:
        """Evaluate and write the final files, result.json last; only the main process has the result."""
        result = artifacts.write_final(self.trainer, self.folder)
        self.flush_timer()
        if not self.main:
            return {}
        seconds = {f"cost/{name}_s": value for name, value in self.trainer.seconds.items()}
        write_json(self.folder / "cost.json", seconds | {"cost/peak_mb": peak_megabytes()})
        write_json(self.folder / "result.json", result)
        artifacts.drop_checkpoints(self.folder)
        return result


def peak_megabytes() -> float:
    """Largest memory so far: the GPU's if there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
