"""The one evaluator, used in the loop and at the end.

It measures on test prompts, at guidance 1 and at one scale above, with noise that depends on the evaluation's seed
alone: every arm sees the same prompts and the same draws.  Besides the judge it reports what no reward trains on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from unigrpo import registry
from unigrpo.config import RunConfig
from unigrpo.flow.dynamics import FlowSde, Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.models.policy import Policy
from unigrpo.noise import EpisodeDraws
from unigrpo.objective.regularizer import LatentKl, VelocityMse
from unigrpo.objective.text_kl import K3
from unigrpo.trajectory import Cost, ImageScore, TextScore, TextSegment, Trajectory
from unigrpo.walk import Rules, Walk, replay

#: Rows of one evaluation batch; results do not depend on it but for rounding.
_ROWS = 96


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        metrics: flat name -> value.
        rows: one per picture: prompt, tag, text, image, thinking and what the judge said.
        pictures: [B, 3, H, W] in [-1, 1], in the order of ``rows``.
        cost: of sampling.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    pictures: Tensor
    cost: Cost


class Evaluator:
    """Evaluates policies of one run's kind on the run's world."""

    def __init__(self, config: RunConfig, model: UnifiedModel):
        self.config, self.model, self.world = config, model, config.world
        self.prompts = self.world.select_prompts("test", config.evaluation.prompts_per_task)
        self.proxy = registry.find("reward", "proxy")()

    @property
    def set_hash(self) -> str:
        """Names what was measured on: prompts, noise and sampler. Only equal hashes may be compared."""
        shown = dataclasses.asdict(self.config.evaluation) | {"prompts": [p.to_json() for p in self.prompts]}
        ignored = ("every", "loop_images_per_prompt")
        plain = json.dumps({k: v for k, v in shown.items() if k not in ignored}, sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:12]

    def __call__(self, policy: Policy, scale: float, images_per_prompt: int) -> Evaluation:
        """Sample ``images_per_prompt`` episodes for every test prompt at one guidance scale and judge them."""
        rules = self._rules(scale)
        rows: list[dict[str, Any]] = []
        pictures, cost = [], Cost()
        per_batch = max(1, _ROWS // images_per_prompt)
        for start in range(0, len(self.prompts), per_batch):
            prompts = self.prompts[start : start + per_batch]
            trajectory = self.sample(policy, rules, prompts, images_per_prompt)
            drawn = self.model.autoencoder.decode(trajectory.image.latents)
            rows += self._judge(drawn, trajectory)
            pictures.append(drawn)
            cost += trajectory.cost
        shown = torch.cat(pictures)
        return Evaluation(self._metrics(rows, shown, images_per_prompt), rows, shown, cost)

    @torch.no_grad()
    def sample(self, policy: Policy, rules: Rules, prompts: Sequence[Any], images_per_prompt: int) -> Trajectory:
        """Episodes of ``prompts`` under ``rules`` with the evaluation's noise."""
        given = self.encode(prompts)
        walk = Walk(policy, rules, len(prompts))
        keys = [prompt.key for prompt in prompts]
        draw = EpisodeDraws((self.config.evaluation.seed, "evaluation"), keys, images_per_prompt)
        self.config.episode(walk, given, images_per_prompt, draw)
        return Trajectory(tuple(prompts), images_per_prompt, tuple(walk.segments), tuple(walk.scores), walk.cost)

    @torch.no_grad()
    def drift(self, policy: Policy, reference: Policy, rows: int = _ROWS) -> dict[str, float]:
        """How far ``policy`` has moved from ``reference`` on its own episodes, by every measure, unweighted.

        All steps of the schedule are sampled with Flow-GRPO's default noise, so that the numbers of runs with other
        dynamics and windows compare.
        """
        rules = dataclasses.replace(
            self._rules(1.0), dynamics=FlowSde(), stochastic=tuple(range(self.config.evaluation.steps))
        )
        trajectory = self.sample(policy, rules, self.prompts[:: max(1, len(self.prompts) // rows)][:rows], 1)
        kl, mse, k3 = LatentKl(), VelocityMse(), K3()
        found: dict[str, list[float]] = {"drift/latent_kl": [], "drift/velocity_mse": [], "drift/text_kl": []}
        walked = replay(reference, rules, trajectory).scores
        for segment, score, other in zip(trajectory.segments, trajectory.scores, walked, strict=True):
            if isinstance(score, TextScore) and isinstance(other, TextScore) and isinstance(segment, TextSegment):
                found["drift/text_kl"].append(k3(score.log_prob, other.log_prob)[segment.mask].mean().item())
            if isinstance(score, ImageScore) and isinstance(other, ImageScore):
                for mine, theirs in zip(score.steps, other.steps, strict=True):
                    pair = (mine.velocity, theirs.velocity, mine.mean, theirs.mean, mine.std, mine.dt)
                    found["drift/latent_kl"].append(kl(*pair).mean().item())
                    found["drift/velocity_mse"].append(mse(*pair).mean().item())
        return {name: fmean(values) for name, values in found.items() if values}

    def encode(self, prompts: Sequence[Any]) -> TextSegment:
        """The prompts as a given text segment."""
        tokens, mask = self.model.tokenizer.encode([prompt.prompt for prompt in prompts])
        device = next(iter(self.model.policy.parameters())).device
        return TextSegment(tokens.to(device), mask.to(device), given=True)

    def _rules(self, scale: float) -> Rules:
        settings, tokenizer = self.config.evaluation, self.model.tokenizer
        return Rules(
            points=time_points(settings.steps, settings.shift),
            dynamics=Ode(),
            stochastic=(),
            guidance=CfgFree() if scale == 1 else Cfg(scale),
            temperature=settings.temperature,
            bos=tokenizer.bos,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
        )

    def _judge(self, pictures: Tensor, trajectory: Trajectory) -> list[dict[str, Any]]:
        prompts = trajectory.row_prompts
        said = trajectory.thinking
        texts = [""] * len(prompts) if said is None else self.model.tokenizer.decode(said.tokens, said.mask)
        lengths = [0] * len(prompts) if said is None else said.mask.sum(1).tolist()
        pictures = pictures.cpu()
        proxy = self.proxy(pictures, prompts, self.world)[:, 0].tolist()
        return [
            {
                "prompt": prompt.key,
                "tag": prompt.tag,
                "text": prompt.prompt,
                "image": row % trajectory.group_size,
                "thinking": texts[row],
                "length": lengths[row],
                "faithful": int(self.world.plan_satisfies(texts[row], prompt)),
                "strict": int(verdict.strict),
                "official": int(verdict.official),
                "strict_soft": verdict.strict_soft,
                "official_soft": verdict.official_soft,
                "fidelity": verdict.fidelity,
                "extra": verdict.extra,
                "proxy": proxy[row],
                "reason": verdict.reason,
            }
            for row, (prompt, verdict) in enumerate(zip(prompts, self.world.judge(pictures, prompts), strict=True))
        ]

    def _metrics(self, rows: Sequence[Mapping[str, Any]], pictures: Tensor, images_per_prompt: int) -> dict[str, float]:
        tags = list(dict.fromkeys(row["tag"] for row in rows))
        metrics = {}
        for verdict in ("strict", "official"):
            by_tag = {tag: fmean(row[verdict] for row in rows if row["tag"] == tag) for tag in tags}
            metrics[f"geneval/{verdict}"] = fmean(by_tag.values())
            metrics |= {f"geneval/{verdict}/{tag}": score for tag, score in by_tag.items()}
            metrics[f"geneval/{verdict}_soft"] = fmean(row[f"{verdict}_soft"] for row in rows)
        for name, key in (
            ("heldout/fidelity", "fidelity"),
            ("heldout/proxy", "proxy"),
            ("heldout/extra_objects", "extra"),
            ("thinking/faithful", "faithful"),
            ("thinking/length", "length"),
        ):
            metrics[name] = fmean(row[key] for row in rows)
        if images_per_prompt > 1:
            metrics["heldout/diversity"] = _diversity(pictures, images_per_prompt)
        return metrics


def _diversity(pictures: Tensor, images_per_prompt: int) -> float:
    """Mean root-mean-square pixel distance between two pictures of one prompt."""
    groups = pictures.unflatten(0, (-1, images_per_prompt)).flatten(2)
    distance = torch.cdist(groups, groups) / groups.shape[-1] ** 0.5
    return (distance.sum((1, 2)) / (images_per_prompt * (images_per_prompt - 1))).mean().item()
