"""From what a rollout's episodes earned to one advantage per segment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import pad

from unigrpo.metrics import Metric
from unigrpo.objective.advantage import zero_variance
from unigrpo.objective.credit import StepRewards
from unigrpo.rewards import Reward, RewardOutput
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.rollout.trajectory import Trajectory


def step_rewards(judged: Sequence[RewardOutput], trajectories: Sequence[Trajectory], reward: Reward) -> StepRewards:
    """All episodes of a rollout, in groups.

    Trajectories end when their last episode does; shorter ones are padded with segments that were not made.
    """
    longest = max(trajectories, key=lambda trajectory: len(trajectory.segments)).segments
    size = len(longest)
    steps = torch.cat([pad(one.steps, (0, 0, 0, size - one.steps.shape[1])) for one in judged])
    has_reward = torch.cat([pad(one.has_reward, (0, size - one.has_reward.shape[1])) for one in judged])
    alive = torch.cat([pad(_alive(trajectory), (0, size - len(trajectory.segments))) for trajectory in trajectories])
    group = (-1, trajectories[0].group_size)
    return StepRewards(
        steps=steps.unflatten(0, group),
        has_reward=has_reward.unflatten(0, group),
        alive=alive.unflatten(0, group),
        turns=tuple(segment.turn for segment in longest),
        outcome=torch.cat([one.outcome for one in judged]).unflatten(0, group),
        weights=torch.tensor(reward.component_weights, dtype=torch.float32),
    )


def _alive(trajectory: Trajectory) -> Tensor:
    """[B, S] bool: which segments each episode's policy made by itself, not before its group parted."""
    rows = len(trajectory.prompts) * trajectory.group_size
    none = torch.zeros(rows, dtype=torch.bool)
    columns = [none if s.given or s.rows != rows else s.alive.cpu() for s in trajectory.segments]
    return torch.stack(columns, 1)


def gather_rewards(accelerator: Accelerator, own: StepRewards) -> StepRewards:
    """The rewards of all processes: some strategies look at the whole batch."""
    if accelerator.num_processes == 1:
        return own

    def gathered(value: Tensor, dim: int | None = None) -> Tensor:
        value = value.to(accelerator.device)
        whole: Tensor = accelerator.gather(value if dim is None else accelerator.pad_across_processes(value, dim=dim))
        return whole.cpu()

    turns = gathered(torch.tensor([own.turns]), 1).amax(0)
    return StepRewards(
        steps=gathered(own.steps, 2),
        has_reward=gathered(own.has_reward.int(), 2).bool(),
        alive=gathered(own.alive.int(), 2).bool(),
        turns=tuple(turns.tolist()),
        outcome=gathered(own.outcome),
        weights=own.weights,
    )


def reward_metrics(rewards: StepRewards, reward: Reward) -> dict[str, float]:
    """What to log of a rollout's rewards: outcome, its components, and what each turn earned."""
    total = (rewards.outcome * rewards.weights).sum(-1)
    metrics = {
        "train/reward": total.mean().item(),
        "train/reward_std": total.std(1, correction=0).mean().item(),
        "train/zero_std_frac": zero_variance(rewards.outcome, rewards.weights).float().mean().item(),
    }
    if len(reward.component_names) > 1:
        means = rewards.outcome.mean((0, 1)).tolist()
        metrics |= {f"train/reward/{name}": mean for name, mean in zip(reward.component_names, means, strict=True)}
    turns = torch.tensor(rewards.turns)
    if len(turns.unique()) > 1:
        earned = (rewards.steps * rewards.weights).sum(-1)
        for turn in turns.unique().tolist():
            of = rewards.has_reward & (turns == turn)
            if of.any():
                metrics[f"train/turn/{turn + 1}/reward"] = (earned * of).sum(-1)[of.any(-1)].mean().item()
    return metrics


def train_metrics(metrics: Sequence[Metric], episodes: Sequence[DecodedEpisodes], group_size: int) -> dict[str, float]:
    """Means over the rows of a rollout of what each metric's quantities are means of."""
    found: dict[str, float] = {}
    for metric in metrics:
        rows = metric(episodes, group_size).rows
        names = {quantity.row_field: None for quantity in metric.quantities if quantity.row_field}
        in_all = [name for name in names if rows and all(name in row for row in rows)]
        found |= {f"train/{name}": fmean(row[name] for row in rows) for name in in_all}
    return found
