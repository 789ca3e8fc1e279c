"""The one evaluator, used in the loop and at the end.

It measures on test prompts, at guidance 1 and at one scale above, with noise that depends on the evaluation's seed
alone: every arm sees the same prompts and the same draws.  What is measured is the business of ``measures``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unigrpo import registry
from unigrpo.config import RunConfig
from unigrpo.flow.dynamics import FlowSde, Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.metrics import MEASURES, Row
from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.models.policy import Policy
from unigrpo.models.processor import Processor
from unigrpo.noise import EpisodeDraws
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.objective.text_kl import K3
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.rollout import Rollout, RolloutSpec, replay
from unigrpo.rollout.trajectory import Cost, ImageScore, TextScore, TextSegment, Trajectory

#: Rows of one evaluation batch; results do not depend on it but for rounding.
_ROWS = 96


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        metrics: flat name -> value.
        rows: what the measure says of every episode.
        decoded episodes: of the batches, in the order of the prompts.
        cost: of sampling.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Row]
    decoded_batches: Sequence[DecodedEpisodes]
    cost: Cost


class Evaluator:
    """Evaluates policies on the test prompts of one episode's family.

    Args:
        config: of the run.
        model: its tokenizer and autoencoder are used; the policy is an argument of each call.
        episode: what is sampled; by default the run's own as it is tested.
        prompts_per_task: by default the run's own.
    """

    def __init__(
        self, config: RunConfig, model: UnifiedModel, episode: Any = None, prompts_per_task: Sequence[int] | None = None
    ):
        self.config, self.model, self.world = config, model, config.world
        self.episode = episode or config.episode.for_evaluation()
        family, counts = self.episode.family, prompts_per_task or config.evaluation.prompts_per_task
        self.prompts = self.world.select_prompts("test", counts, family)
        self.processor = Processor(model, self.world)
        self.measure = MEASURES[family](self.world)

    def retention(self) -> Evaluator | None:
        """An evaluator of single pictures for runs on other prompts: what the model could do before, can it still?"""
        counts = self.config.evaluation.retention_prompts_per_task
        if self.episode.family == "images" or not counts:
            return None
        return Evaluator(self.config, self.model, SingleRound(), counts)

    @property
    def set_hash(self) -> str:
        """Names what was measured on, and by what; only equal hashes may be compared.

        Prompts, turns, noise, sampler, the world with its source if it is a user's, the size of its pictures, and the
        version of the measure.  Not how an arm's policy paints, which may be what is compared.
        """
        shown = dataclasses.asdict(self.config.evaluation) | {"prompts": [p.to_json() for p in self.prompts]}
        shown["turns"] = getattr(self.episode, "turns", None)
        shown |= {"world": self.config.to_dict()["world"], "source": registry.user_sources(self.world)}
        shown |= {"size": self.world.size, "measure": [type(self.measure).__name__, self.measure.version]}
        ignored = ("every", "loop_images_per_prompt", "retention_prompts_per_task")
        plain = json.dumps({k: v for k, v in shown.items() if k not in ignored}, sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:12]

    def __call__(self, policy: Policy, scale: float, images_per_prompt: int) -> Evaluation:
        """Sample ``images_per_prompt`` episodes for every test prompt at one guidance scale and measure them."""
        spec = self._spec(scale)
        rows: list[Row] = []
        decoded_batches, cost = [], Cost()
        per_batch = max(1, _ROWS // images_per_prompt)
        for start in range(0, len(self.prompts), per_batch):
            trajectory = self.sample(policy, spec, self.prompts[start : start + per_batch], images_per_prompt)
            decoded_batches.append(self.processor.decode(trajectory))
            rows += self.measure.rows(decoded_batches[-1], images_per_prompt)
            cost += trajectory.cost
        metrics = self.measure.summary(rows)
        shown = [decoded.last_pictures() for decoded in decoded_batches if decoded.pictures]
        if images_per_prompt > 1 and shown:
            metrics["heldout/diversity"] = _diversity(torch.cat(shown), images_per_prompt)
        return Evaluation(metrics, rows, decoded_batches, cost)

    @torch.no_grad()
    def sample(self, policy: Policy, spec: RolloutSpec, prompts: Sequence[Any], images_per_prompt: int) -> Trajectory:
        """Episodes of ``prompts`` under ``spec`` with the evaluation's noise."""
        draw = EpisodeDraws(
            (self.config.evaluation.seed, "evaluation"), [prompt.key for prompt in prompts], images_per_prompt
        )
        rollout = Rollout(policy, spec, len(prompts))
        self.episode(rollout, self.processor.encode(prompts), images_per_prompt, draw)
        return Trajectory(
            tuple(prompts), images_per_prompt, tuple(rollout.segments), tuple(rollout.scores), rollout.cost
        )

    @torch.no_grad()
    def drift(self, policy: Policy, reference: Policy, rows: int = _ROWS) -> dict[str, float]:
        """How far ``policy`` has moved from ``reference`` on its own episodes, by every measure, unweighted.

        All steps of the schedule are sampled with Flow-GRPO's default noise, so that the numbers of runs with other
        dynamics and windows compare.
        """
        spec = dataclasses.replace(
            self._spec(1.0), dynamics=FlowSde(), stochastic=tuple(range(self.config.evaluation.steps))
        )
        trajectory = self.sample(policy, spec, self.prompts[:: max(1, len(self.prompts) // rows)][:rows], 1)
        kl, mse, k3 = LatentKl(), VelocityMse(), K3()
        found: dict[str, list[Tensor]] = defaultdict(list)
        walked = replay(reference, spec, trajectory).scores
        for segment, score, other in zip(trajectory.segments, trajectory.scores, walked, strict=True):
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
        settings, tokenizer = self.config.evaluation, self.model.tokenizer
        return RolloutSpec(
            points=time_points(settings.steps, settings.shift),
            dynamics=Ode(),
            stochastic=(),
            guidance=CfgFree() if scale == 1 else Cfg(scale),
            temperature=settings.temperature,
            bos=tokenizer.bos,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
            image=tokenizer.start_of_image,
            head=self.config.image_head,
        )


def _diversity(pictures: Tensor, images_per_prompt: int) -> float:
    """Mean root-mean-square pixel distance between two pictures of one prompt."""
    groups = pictures.unflatten(0, (-1, images_per_prompt)).flatten(2)
    distance = torch.cdist(groups, groups) / groups.shape[-1] ** 0.5
    return (distance.sum((1, 2)) / (images_per_prompt * (images_per_prompt - 1))).mean().item()
