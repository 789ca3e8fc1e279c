"""The one evaluator, used in the loop and at the end.

It measures on test prompts, at guidance 1 and at one scale above, with noise that depends on the evaluation's seed
alone: every arm sees the same prompts and the same draws.  What is measured is the business of ``metrics``.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from unigrpo import registry
from unigrpo.config import RunConfig
from unigrpo.data.dataset import select
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.flow.dynamics import FlowSde, Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.metrics.metric import Row, merged
from unigrpo.models.model import LoadedModel
from unigrpo.models.policy import Policy
from unigrpo.noise import EpisodeDraws
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.objective.text_kl import K3
from unigrpo.plain import plain_form
from unigrpo.registry import name_of
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.rollout import Rollout, RolloutSpec, replay
from unigrpo.rollout.trajectory import Cost, ImageScore, Segment, TextScore, TextSegment, Trajectory
from unigrpo.training.exchange import gather_episodes

#: Rows of one evaluation batch; results do not depend on it but for rounding.
_ROWS = 96


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        metrics: flat name -> value.
        rows: what the metrics measured of every episode, or of every turn, with the prompt's meaning and the guidance.
        episodes: batch by batch, in the order of the prompts.
        cost: of sampling.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Row]
    episodes: Sequence[DecodedEpisodes]
    cost: Cost


class Evaluator:
    """Evaluates policies on prompts that nothing is trained on.

    Args:
        config: of the run.
        model: its processor is used; the policy is an argument of each call.
        accelerator: of the processes that share an evaluation, batch by batch.

    Attributes:
        rollouts: what moves a policy over episodes.
    """

    rollouts: type[Rollout] = Rollout

    def __init__(self, config: RunConfig, model: LoadedModel, accelerator: Accelerator):
        self.accelerator = accelerator
        self.config, self.model, self.processor = config, model, model.processor
        self.episode, self.dataset, self.metrics = config.episode.for_evaluation(), config.dataset, config.measured
        self.prompts = select(self.dataset.prompts(config.evaluation.split), config.evaluation.prompts_per_tag)
        for prompt in self.prompts:
            if not prompt.images:  # those that the model cannot read would be met after the training
                self.encode([prompt])

    def retention(self) -> Evaluator | None:
        """An evaluator of single images on other prompts: what the model could do before, can it still?"""
        dataset, settings = self.config.evaluation.retention, self.config.evaluation
        if dataset is None:
            return None
        other = copy.copy(self)
        other.episode = SingleRound(thinking=self.config.model.writes_texts)
        other.dataset, other.metrics = dataset, self.config.measured_of_retention
        other.prompts = select(dataset.prompts(settings.split), settings.retention_prompts_per_tag)
        return other

    def encode(self, prompts: Sequence[Prompt]) -> tuple[Segment, ...]:
        """What the prompts give the model to read, images in the size of the run's.

        Raises:
            ConfigError: it cannot read them.
        """
        try:
            return self.processor.encode(prompts, self.config.sampler.height, self.config.sampler.width)
        except ConfigError:
            raise
        except ValueError as error:
            model = self.config.model
            fields = " ".join(f"model.{k}={v}" for k, v in plain_form(model).items() if k != "name")
            raise ConfigError(
                f"dataset={name_of(self.dataset)}: model={name_of(model)} {fields} cannot read a prompt: {error}"
            ) from error

    @property
    def set_hash(self) -> str:
        """Names what was measured on, and by what; only equal hashes may be compared.

        Prompts, turns, noise, sampler, the images' size, and the metrics with their versions, and with their source if
        they are a user's.  Not how an arm's policy generates, which may be what is compared.
        """
        settings = plain_form(self.config.evaluation)
        for ignored in ("every", "loop_images_per_prompt", "drift", "retention", "retention_prompts_per_tag"):
            del settings[ignored]
        shown = {
            "settings": settings,
            "size": self.processor.image_size(self.config.sampler.height, self.config.sampler.width),
            "prompts": [[p.key, *p.texts, *(image.digest() for image in p.images)] for p in self.prompts],
            "dataset": self.dataset.digest(),
            "turns": getattr(self.episode, "turns", None),
            "metrics": [[plain_form(metric), metric.version] for metric in self.metrics],
            "sources": [registry.user_sources(one) for one in (self.dataset, *self.metrics)],
        }
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:12]

    def __call__(self, policy: Policy, scale: float, images_per_prompt: int) -> Evaluation:
        """Sample ``images_per_prompt`` episodes for every test prompt at one guidance scale and measure them.

        All processes sample, each every N-th batch; the main one measures, the others' metrics and rows are empty, and
        ``cost`` is each one's own.
        """
        batches = self._batches(images_per_prompt)
        mine, cost = [], Cost()
        for number in range(self.accelerator.process_index, len(batches), self.accelerator.num_processes):
            trajectory = self.sample(policy, self._spec(scale), batches[number], images_per_prompt)
            mine.append(self.processor.decode(trajectory))
            cost += trajectory.cost
        self._keep_step(policy, scale, images_per_prompt, batches)
        prompts = [[prompt for prompt in batch for _ in range(images_per_prompt)] for batch in batches]
        episodes = gather_episodes(self.accelerator, mine, prompts)
        if not self.accelerator.is_main_process:
            return Evaluation({}, [], episodes, cost)
        found = [metric(episodes, images_per_prompt) for metric in self.metrics]
        values = {name: value for measured in found for name, value in measured.values.items()}
        meanings = {prompt.key: prompt.meaning or prompt.key for prompt in self.prompts}
        rows = [
            {**row, "meaning": meanings[row["prompt"]], "guidance": float(scale)}
            for row in merged([measured.rows for measured in found])
        ]
        return Evaluation(values, rows, episodes, cost)

    def first_batch(self, policy: Policy, scale: float, images_per_prompt: int) -> Trajectory:
        """The first of the batches that are sampled."""
        return self.sample(policy, self._spec(scale), self._batches(images_per_prompt)[0], images_per_prompt)

    def _batches(self, images_per_prompt: int) -> list[Sequence[Prompt]]:
        """The prompts that are sampled together, in their order."""
        size = max(1, _ROWS // images_per_prompt)
        return [self.prompts[start : start + size] for start in range(0, len(self.prompts), size)]

    def _keep_step(self, policy: Policy, scale: float, images_per_prompt: int, batches: list[Sequence[Prompt]]) -> None:
        """Sample once more for nothing, where all compute in step and the last batches are fewer than the processes."""
        over = len(batches) % self.accelerator.num_processes
        if self.config.engine.shards and 0 < over <= self.accelerator.process_index:
            self.sample(policy, self._spec(scale), batches[-1], images_per_prompt)

    @torch.no_grad()
    def sample(
        self, policy: Policy, spec: RolloutSpec, prompts: Sequence[Prompt], images_per_prompt: int
    ) -> Trajectory:
        """Episodes of ``prompts`` under ``spec`` with the evaluation's noise."""
        draw = EpisodeDraws(
            (self.config.evaluation.seed, "evaluation"), [prompt.key for prompt in prompts], images_per_prompt
        )
        rollout = self.rollouts(policy, spec, len(prompts))
        with self.config.engine.sampling(policy):
            self.episode(rollout, self.encode(prompts), images_per_prompt, draw)
        return Trajectory(
            tuple(prompts), images_per_prompt, tuple(rollout.segments), tuple(rollout.scores), rollout.cost
        )

    @torch.no_grad()
    def drift(self, policy: Policy, reference: Policy, rows: int = _ROWS) -> dict[str, float]:
        """How far ``policy`` has moved from ``reference`` on its own episodes, by every measure, unweighted.

        All steps of the schedule are sampled with Flow-GRPO's default noise, so that the numbers of runs with other
        dynamics and windows compare.  Of more than ``rows`` prompts, which stand tag by tag, evenly spaced ones are
        taken: every tag has its share.
        """
        spec = dataclasses.replace(
            self._spec(1.0), dynamics=FlowSde(), stochastic=tuple(range(self.config.evaluation.steps))
        )
        there, taken = len(self.prompts), min(rows, len(self.prompts))
        trajectory = self.sample(policy, spec, [self.prompts[i * there // taken] for i in range(taken)], 1)
        kl, mse, k3 = LatentKl(), VelocityMse(), K3()
        found: dict[str, list[Tensor]] = defaultdict(list)
        replayed = replay(reference, spec, trajectory).scores
        for segment, score, other in zip(trajectory.segments, trajectory.scores, replayed, strict=True):
            if isinstance(score, TextScore) and isinstance(other, TextScore) and isinstance(segment, TextSegment):
                found["drift/text_kl"].append(k3(score.log_prob, other.log_prob)[segment.mask])
            if isinstance(score, ImageScore) and isinstance(other, ImageScore):
                if score.log_prob is not None and other.log_prob is not None:
                    found["drift/image_kl"].append(k3(score.log_prob, other.log_prob)[segment.alive])
                for mine, theirs in zip(score.steps, other.steps, strict=True):
                    pair = (mine.velocity, theirs.velocity, mine.mean, theirs.mean, mine.std, mine.dt)
                    found["drift/latent_kl"].append(kl(*pair)[segment.alive])
                    found["drift/velocity_mse"].append(mse(*pair)[segment.alive])
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    def _spec(self, scale: float) -> RolloutSpec:
        settings, sampler = self.config.evaluation, self.config.sampler
        return RolloutSpec(
            points=self.model.time_points(settings.steps, settings.shift, sampler.height, sampler.width),
            dynamics=Ode(),
            stochastic=(),
            guidance=CfgFree() if scale == 1 else self.model.guidance(Cfg(scale)),
            temperature=settings.temperature,
            head=self.config.image_head,
            latent_shape=self.processor.latent_shape(sampler.height, sampler.width),
            see=self.processor.see,
            anywhere=lambda flags: self.config.engine.anywhere(flags, self.accelerator),
            **dataclasses.asdict(self.processor.ids),
        )
