"""Reinforcement learning of a unified model: rollout, reward, advantage, update.

:class:`Trainer` holds what one run moves and makes one update at a time; ``runner.py`` makes a run of them.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from unigrpo import surroundings
from unigrpo.algorithms.algorithm import MinibatchLoss, Scoring
from unigrpo.config import RunConfig
from unigrpo.data.dataset import too_few
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError, NonFiniteLoss, RatioGuardError
from unigrpo.flow.guidance import CfgFree, holds_conditional
from unigrpo.models.model import LoadedModel
from unigrpo.models.policy import Modality, Policy
from unigrpo.noise import EpisodeDraws, seed_of
from unigrpo.registry import name_of
from unigrpo.rollout.points import AtPoints, Points
from unigrpo.rollout.rollout import Rollout, RolloutSpec, replay
from unigrpo.rollout.trajectory import Cost, Score, Trajectory
from unigrpo.training import micro, state
from unigrpo.training.advantages import gather_rewards, reward_metrics, step_rewards, train_metrics
from unigrpo.training.evaluation import Evaluator
from unigrpo.training.exchange import gather_facts
from unigrpo.training.gap import Gauge
from unigrpo.training.micro import MicroBatch
from unigrpo.training.state import State

if TYPE_CHECKING:
    from unigrpo.objective.slots import Modalities

MODALITIES: tuple[Modality, ...] = ("text", "image")
#: What is counted, under ``cost/``: velocity evaluations by purpose, images of rollouts, text tokens covered.
COUNTED = ("nfe_rollout", "nfe_train", "nfe_reference", "nfe_eval", "images", "tokens")
#: Updates between measurements of drift where no penalty needs the reference anyway.
DRIFT_EVERY = 10
#: The part of the clip band that |log-ratio| may take up before the first update.
GUARD = 0.1


class Trainer:
    """One run's moving parts: policy, reference, optimiser and the loop's steps."""

    def __init__(self, config: RunConfig):
        self.config = config.check()
        self.accelerator = surroundings.accelerator()
        if config.rollout.prompts % (config.rollout.minibatches * self.accelerator.num_processes):
            raise ConfigError(
                f"rollout.prompts={config.rollout.prompts}: must be a multiple of rollout.minibatches="
                f"{config.rollout.minibatches} times the {self.accelerator.num_processes} processes"
            )
        device, self.engine = self.accelerator.device, config.engine
        self.model = config.adapter.attach(self.load(), config.key)
        self.policy = self.model.policy
        self.reference = self._reference()
        # The reference of an adapter is the policy itself, seen otherwise.
        modules = [one for one in (self.policy, self.reference) if isinstance(one, torch.nn.Module)]
        for module in dict.fromkeys(modules):
            self.engine.place(cast("Policy", module), self.accelerator, bf16=config.optim.precision == "bf16")
        self.evaluator = Evaluator(config, self.model, self.accelerator)
        self.parameters = self._trained_parameters()
        self.optimizer = self._optimizer()
        config.adapter.follow(self.optimizer)
        sampler = config.sampler
        self.points = self.model.time_points(sampler.steps, sampler.shift, sampler.height, sampler.width)
        self.cost = Counter(dict.fromkeys(COUNTED, 0))
        self.seconds: dict[str, float] = {}
        self.kinds = [surroundings.kind(device)]
        self.guarded = False

    def load(self) -> LoadedModel:
        """The model that the run starts from, on the process's device."""
        return self.config.model.load_for(self.config, self.accelerator.device)

    def _reference(self) -> Policy | None:
        """The policy as it is now, for good; none where nobody asks for it, for it may take a copy."""
        if not (self.config.evaluation.drift or self.is_penalised):
            return None
        return self.model.reference() if self.config.optim.updates else self.policy

    def _trained_parameters(self) -> dict[Modality, list[torch.nn.Parameter]]:
        """Trained parameters by modality; those of a modality of weight 0 are frozen."""
        weights = {"text": self.config.modalities.text, "image": self.config.modalities.image}
        found = {modality: list(self.policy.parameters_of(modality)) for modality in MODALITIES}
        for modality, parameters in found.items():
            if self.config.optim.updates and weights[modality] > 0 and not parameters:
                raise ConfigError(
                    f"modalities={name_of(self.config.modalities)}: model={name_of(self.config.model)} has no trainable"
                    f" parameter of {modality}s, whose weight is {weights[modality]:g}; thaw some, or train the other"
                    f" modality alone (modalities={'image' if modality == 'text' else 'text'}_only)"
                )
            for parameter in parameters:
                parameter.requires_grad_(weights[modality] > 0)
        return {modality: parameters for modality, parameters in found.items() if weights[modality] > 0}

    def _optimizer(self) -> torch.optim.Optimizer:
        optim = self.config.optim
        rates = {"text": optim.text_lr, "image": optim.image_lr}
        groups = [{"params": found, "lr": rates[modality]} for modality, found in self.parameters.items()]
        return torch.optim.AdamW(groups, betas=optim.betas, weight_decay=optim.weight_decay)

    def autocast(self) -> torch.autocast:
        """Forward passes in the run's precision; accelerate's own allows one precision per process, not per run."""
        low = self.config.optim.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=low)

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Count the wall seconds of a phase."""
        started = time.perf_counter()
        yield
        self.add_time(phase, time.perf_counter() - started)

    def add_time(self, phase: str, seconds: float) -> None:
        """Add to the seconds of a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def rollout_spec(self, update: int) -> RolloutSpec:
        """What the rollouts of one update share, its stochastic steps among it."""
        config, processor = self.config, self.model.processor
        drawn = random.Random(seed_of((*config.key, "window", update)))
        trained = config.dynamics.stochastic and config.modalities.image > 0
        return RolloutSpec(
            points=self.points,
            dynamics=config.dynamics,
            stochastic=config.window(config.sampler.steps, update, drawn) if trained else (),
            guidance=self.model.guidance(config.guidance),
            temperature=config.sampler.temperature,
            head=config.image_head,
            latent_shape=processor.latent_shape(config.sampler.height, config.sampler.width),
            context_grad=config.optim.context_grad,
            update=update,
            see=processor.see,
            anywhere=self.anywhere,
            **dataclasses.asdict(processor.ids),
        )

    def prompts(self, update: int) -> list[Prompt]:
        """The update's train prompts, spread evenly over the tags; the same in every arm with this seed."""
        drawn = random.Random(seed_of((*self.config.key, "prompts", update)))
        by_tag = self._train_prompts()
        first = drawn.randrange(len(by_tag))
        turns = Counter((first + k) % len(by_tag) for k in range(self.config.rollout.prompts))
        chosen = [prompt for tag, count in sorted(turns.items()) for prompt in drawn.sample(by_tag[tag], count)]
        drawn.shuffle(chosen)
        return chosen

    def _train_prompts(self) -> list[Sequence[Prompt]]:
        """Tag by tag."""
        prompts = self.config.dataset.prompts("train")
        # Files have said so before; of a dataset that is made it may take a while to know.
        for fault in too_few(prompts, self.config.rollout.prompts, f"dataset={name_of(self.config.dataset)}"):
            raise ConfigError(fault)
        return list(prompts.values())

    @property
    def prompts_of_minibatch(self) -> int:
        """On how many prompts a process trains in one optimiser step."""
        return self.config.rollout.prompts // (self.config.rollout.minibatches * self.accelerator.num_processes)

    def rollout(self, update: int, spec: RolloutSpec) -> list[Trajectory]:
        """Sample this process's episodes: a trajectory for each minibatch, or several of fewer episodes."""
        ranks, own = self.accelerator.num_processes, self.accelerator.process_index
        prompts, size = self.prompts(update), self.prompts_of_minibatch
        minibatches = [prompts[start : start + size] for start in range(0, len(prompts), size)][own::ranks]
        return [self.sample(part, update, spec) for one in minibatches for part in self.sampled_together(one)]

    def sampled_together(self, prompts: list[Prompt]) -> list[list[Prompt]]:
        """The prompts of a minibatch, as many at a time as the engine samples."""
        size = self.engine.rollout_batch // self.config.rollout.group_size or len(prompts)
        return [prompts[start : start + size] for start in range(0, len(prompts), size)]

    def start(self, spec: RolloutSpec, batch: int) -> Rollout:
        """A rollout of ``batch`` prompts at its start."""
        return Rollout(self.policy, spec, batch)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], update: int, spec: RolloutSpec) -> Trajectory:
        """Sample one minibatch: a group of episodes for each of its prompts."""
        config = self.config
        rollout = self.start(spec, len(prompts))
        keys = [prompt.key for prompt in prompts]
        draw = EpisodeDraws(
            (*config.key, "rollout", update), keys, config.rollout.group_size, config.rollout.shared_noise
        )
        with self.autocast(), self.engine.sampling(self.policy):
            config.episode(rollout, self.evaluator.encode(prompts), config.rollout.group_size, draw)
        return Trajectory(
            tuple(prompts), config.rollout.group_size, tuple(rollout.segments), tuple(rollout.scores), rollout.cost
        )

    @torch.no_grad()
    def compute_advantages(self, trajectories: Sequence[Trajectory]) -> tuple[list[Tensor], dict[str, float]]:
        """Advantages [B, S] of every trajectory's segments, and what to log of the rewards."""
        decoded = [self.evaluator.processor.decode(trajectory) for trajectory in trajectories]
        reward = self.config.reward
        own = step_rewards([reward(episodes) for episodes in decoded], trajectories, reward)
        metrics = reward_metrics(own, reward) | train_metrics(
            self.config.measured_in_training, decoded, self.config.rollout.group_size
        )
        self.cost["images"] += sum(trajectory.generated_images for trajectory in trajectories)
        credit: Tensor = self.config.credit(gather_rewards(self.accelerator, own), self.config.advantage)
        first = self.accelerator.process_index * len(own.outcome)
        mine = credit[first : first + len(own.outcome)].flatten(0, 1)
        split = mine.split([len(t.row_prompts) for t in trajectories])
        return [part[:, : len(t.segments)] for part, t in zip(split, trajectories, strict=True)], metrics

    def evaluate_in_loop(self) -> dict[str, float]:
        """A small evaluation at guidance 1, between two updates, by all processes; the main one has what it found."""
        self.policy.eval()
        with self.config.adapter.measured(self.optimizer):
            found = self.evaluator(self.policy, 1.0, self.config.evaluation.loop_images_per_prompt)
        self.count("eval", found.cost)
        return {f"eval/{name}": value for name, value in found.metrics.items()}

    @property
    def is_penalised(self) -> bool:
        """Whether a penalty compares the policy with its reference."""
        return self.config.algorithm.needs_reference(self.config)

    def needs_reference(self, update: int) -> bool:
        """Whether a penalty, or the periodic look at drift, wants the reference's scores in this update."""
        return self.is_penalised or (self.config.evaluation.drift and update % DRIFT_EVERY == 0)

    def scoring(self, policy: Policy, purpose: str, spec: RolloutSpec, modalities: Modalities) -> Scoring:
        """``policy`` as algorithms see it; what its scores cost is counted under ``purpose``."""

        def score(trajectory: Trajectory, points: Points | None = None) -> tuple[Score, ...]:
            head = spec.head if points is None else AtPoints(spec.head, trajectory.segments, points)
            with self.autocast():
                rollout = replay(
                    policy,
                    replace(spec, head=head),
                    trajectory,
                    images=modalities.image > 0,
                    train_text=modalities.text > 0 or spec.context_grad,
                )
            self.count(purpose, rollout.cost)
            return tuple(rollout.scores)

        return score

    @torch.no_grad()
    def prepare(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[Tensor], update: int, spec: RolloutSpec
    ) -> list[MicroBatch]:
        """A minibatch in the parts that are trained, with what the algorithm keeps of each before any step is made."""
        config, engine = self.config, self.engine
        old = self.scoring(self.policy, "train", spec, config.modalities)
        fixed = self.reference if self.needs_reference(update) else None
        # Where the conditional velocity is held, the reference's guided one is compared with nothing.
        plain = replace(spec, guidance=CfgFree()) if holds_conditional(spec.guidance) else spec
        reference = None if fixed is None else self.scoring(fixed, "reference", plain, config.modalities)
        rows = sum(len(trajectory.row_prompts) for trajectory in trajectories)
        tokens = self._trained_tokens(trajectories) if config.aggregation.over_batch else 0.0
        found: list[MicroBatch] = []
        for trajectory, advantage in zip(trajectories, advantages, strict=True):
            parts = [*micro.slices(trajectory, engine.micro_batch)]
            for part in parts:
                # In another size than that of sampling the last bits of a score may differ.
                one = trajectory if len(parts) == 1 else replace(part.trajectory, scores=old(part.trajectory))
                keys = [prompt.key for prompt in one.prompts]
                draw = EpisodeDraws((*config.key, "algorithm", update), keys, one.group_size, first=part.member)
                batch = config.algorithm.prepare(config, one, draw, old, reference)
                share = len(one.row_prompts) / rows
                of_texts = micro.trained_tokens(one) / tokens if tokens else share
                weights = micro.shared(config.modalities, of_texts, share)
                whole = MicroBatch(batch, part.trajectory.scores, advantage[part.rows], share, of_texts, weights)
                found += micro.by_steps(whole, engine.micro_steps)
        return found

    def _trained_tokens(self, trajectories: Sequence[Trajectory]) -> float:
        """Of the texts in a minibatch's loss: their number in a process, the mean over all of them."""
        own = torch.tensor(float(sum(map(micro.trained_tokens, trajectories))), device=self.accelerator.device)
        return float(self.accelerator.reduce(own, "mean"))

    def train_step(self, parts: Sequence[MicroBatch], spec: RolloutSpec, *, first: bool = False) -> dict[str, float]:
        """One optimiser step on one minibatch; what to log of it, on the ``first`` after a rollout their gap too."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(part, spec, measured=first) for part in parts]
        self.guarded = True
        metrics = micro.mean_metrics(losses, parts)
        for modality, parameters in self.parameters.items():
            self.engine.share_gradients(parameters, self.accelerator)
            # Clipped apart, so that one modality's gradients never change the other's.
            metrics[f"grad/{modality}"] = self.engine.clip(parameters, self.config.optim.max_grad_norm)
        self._check_finite(metrics | {"loss": sum(found.loss.item() for found in losses)})
        self.optimizer.step()
        return metrics

    def _backward(self, part: MicroBatch, spec: RolloutSpec, *, measured: bool) -> MinibatchLoss:
        """Add the gradients of a part of a minibatch."""
        config, device = replace(self.config, modalities=part.modalities), self.accelerator.device
        policy = self.scoring(self.policy, "train", spec, part.modalities)
        gauge = Gauge(policy, part.sampled)
        found = config.algorithm.loss(config, part.batch, part.advantage.to(device), gauge if measured else policy)
        found.metrics |= gauge.found
        self._guard(found)
        self.accelerator.backward(found.loss)
        return replace(found, loss=found.loss.detach())

    def _guard(self, found: MinibatchLoss) -> None:
        """Before the first update the policy is the one that sampled: its ratios must be 1."""
        if self.guarded:
            return
        found.metrics |= {"guard/text": found.text_deviation, "guard/image": found.image_deviation}
        for modality, deviation in (("text", found.text_deviation), ("image", found.image_deviation)):
            band = getattr(self.config, f"{modality}_trust_region").band
            if deviation > GUARD * band:
                raise RatioGuardError(
                    f"before the first update the largest |log-ratio| of the {modality} policy is {deviation:.3g},"
                    f" more than {GUARD:.0%} of its clip band {band:.3g}: sampling and replay disagree;"
                    f" widen {modality}_trust_region or raise optim.precision"
                )

    def _check_finite(self, metrics: dict[str, float]) -> None:
        bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if bad:
            listed = ", ".join(f"{name}={value}" for name, value in sorted(bad.items()))
            raise NonFiniteLoss(
                f"{listed}; the weights are those before this step. Look at optim.text_lr={self.config.optim.text_lr}"
                f" and optim.image_lr={self.config.optim.image_lr}, the dynamics' noise and the reward"
            )

    def count(self, kind: str, cost: Cost) -> None:
        """Add to the counts of a purpose: rollout, train, reference or eval."""
        self.cost[f"nfe_{kind}"] += cost.nfe
        self.cost["tokens"] += cost.tokens

    def update(self, update: int) -> dict[str, float]:
        """One rollout and the optimiser steps on it; what to log of it."""
        config, spec = self.config, self.rollout_spec(update)
        self.policy.train()
        with self.clock("rollout"):
            trajectories = self.rollout(update, spec)
            for trajectory in trajectories:
                self.count("rollout", trajectory.cost)
        with self.clock("reward"):
            advantages, metrics = self.compute_advantages(trajectories)
        with self.clock("reference"):
            size = len(trajectories) // config.rollout.minibatches
            minibatches = [
                self.prepare(trajectories[start : start + size], advantages[start : start + size], update, spec)
                for start in range(0, len(trajectories), size)
            ]
        logged: dict[str, list[float]] = {}
        with self.clock("update"):
            for number, parts in enumerate(minibatches * config.rollout.epochs):
                for name, value in self.train_step(parts, spec, first=number == 0).items():
                    logged.setdefault(name, []).append(value)
        return self._over_processes(metrics | {name: fmean(values) for name, values in logged.items()})

    def _over_processes(self, metrics: dict[str, float]) -> dict[str, float]:
        """Means over the processes that have a metric: not every rank has texts and images in every update."""
        if self.accelerator.num_processes == 1:
            return metrics
        found = gather_facts(self.accelerator, metrics)
        names = dict.fromkeys(name for one in found for name in one)
        return {name: fmean(one[name] for one in found if name in one) for name in names}

    def reduce_counters(self) -> None:
        """Move the counts of all processes to the main one."""
        own = torch.tensor(list(self.cost.values()), dtype=torch.float64, device=self.accelerator.device)
        total = self.accelerator.reduce(own).tolist() if self.accelerator.num_processes > 1 else own.tolist()
        main = self.accelerator.is_main_process
        self.cost = Counter({name: int(count) * main for name, count in zip(self.cost, total, strict=True)})

    def any_rank(self, wish: bool) -> bool:
        """Whether any process wishes so; the same answer in all."""
        return bool(self.accelerator.reduce(torch.tensor(float(wish), device=self.accelerator.device)) > 0)

    def anywhere(self, flags: Tensor) -> bool:
        """Whether a flag [B] of a rollout's rows is set where it matters to this process."""
        return self.engine.anywhere(flags, self.accelerator)

    def state(self) -> State:
        """Everything that changes from update to update."""
        names = {id(parameter): name for name, parameter in self.policy.named_parameters()}
        tensors = {f"policy.{name}": tensor for name, tensor in self.config.adapter.state(self.policy).items()}
        tensors |= state.optimizer_tensors(self.optimizer, names)
        return State(
            {name: self.engine.own(tensor) for name, tensor in tensors.items()},
            {"cost": dict(self.cost), "seconds": dict(self.seconds), "kinds": self.kinds},
        )

    def restore(self, saved: State) -> int:
        """Go back to a saved state; the number of updates done by then."""
        adapter, put_back = self.config.adapter, self.engine.put_back
        weights = {n.removeprefix("policy."): t for n, t in saved.tensors.items() if n.startswith("policy.")}
        here = adapter.state(self.policy)
        adapter.restore(self.policy, {name: put_back(tensor, here[name]) for name, tensor in weights.items()})
        state.restore_optimizer(self.optimizer, dict(self.policy.named_parameters()), saved.tensors, put_back)
        if self.accelerator.is_main_process:
            # In the order of an uninterrupted run, which JSON has sorted: a resumed one ends in the same bytes.
            self.cost = Counter({name: saved.facts["cost"][name] for name in self.cost})
            self.seconds = dict(saved.facts["seconds"])
        # A run that went on elsewhere has the bytes of neither kind of machine.
        self.kinds = list(dict.fromkeys([*saved.facts.get("kinds", []), *self.kinds]))
        self.guarded = True
        return int(saved.facts["update"])
