"""The reward on prompts that nothing is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from unigrpo.config import optional_slot
from unigrpo.metrics.metric import Measured, Quantity, by_tag, named
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.config import RunConfig
    from unigrpo.rewards.reward import Reward
    from unigrpo.rollout.decoded import DecodedEpisodes


@register("metric", "reward", source="this project")
@dataclass(frozen=True)
class RewardMetric:
    """The outcome of a reward, and each of its components where there are several."""

    version: ClassVar[int] = 1

    reward: Reward | None = optional_slot("reward")
    """Which one; by default the run's own."""

    @property
    def needs(self) -> frozenset[str]:
        """What the reward reads of a prompt."""
        return self.reward.needs if self.reward else frozenset()

    def of_run(self, config: RunConfig) -> RewardMetric:
        """The metric with the run's own reward, if it names none."""
        return dataclasses.replace(self, reward=config.reward) if self.reward is None else self

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components where there are several."""
        names = self.reward.component_names if self.reward else ()
        return names if len(names) > 1 else ()

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Total and components."""
        total = Quantity("reward/total", "total", "Reward", headline=True, row_field="reward", phrase="reward")
        return (total, *(Quantity(f"reward/{name}", name, "Reward", row_field=name) for name in self.components))

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """Means over tags of the means over episodes."""
        if self.reward is None:
            raise ValueError("metric=reward: of no run")
        rows = []
        for batch in episodes:
            outcome = self.reward(batch).outcome
            total = (outcome * outcome.new_tensor(self.reward.component_weights)).sum(-1).tolist()
            for k, components in enumerate(outcome.tolist()):
                parts = dict(zip(self.reward.component_names, components, strict=True)) if self.components else {}
                rows.append(named(batch, k, per_prompt) | parts | {"reward": total[k]})
        means = {q.name: by_tag(rows, q.row_field).values() for q in self.quantities}
        return Measured({name: fmean(found) for name, found in means.items()}, rows)
