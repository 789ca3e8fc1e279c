"""From what episodes earned to one advantage per segment: padding, groups, logs, and several processes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.models import tiny
from tests.training import runs
from tests.training.runs import config_of
from unigrpo.metrics import Measured, Quantity
from unigrpo.objective.credit import StepRewards
from unigrpo.rewards import RewardOutput
from unigrpo.rollout.trajectory import ImageSegment, TextSegment, Trajectory
from unigrpo.training.advantages import gather_rewards, reward_metrics, step_rewards, train_metrics
from unigrpo.training.trainer import Trainer
from unigrpo.worlds.shapes import judge
from unigrpo.worlds.shapes.rewards import classifier


def text(lengths: list[int], turn: int, given: bool = False) -> TextSegment:
    return TextSegment(torch.full((len(lengths), 3), 5), torch.arange(3) < torch.tensor(lengths)[:, None], given, turn)


def picture(alive: list[bool], turn: int, given: bool = False) -> ImageSegment:
    return ImageSegment((), tiny.randn(len(alive), 1, 1, 1), torch.tensor(alive), given, turn)


def judged(rows: int, segments: int, level: float) -> RewardOutput:
    steps = level + torch.arange(rows * segments * 2.0).reshape(rows, segments, 2)
    return RewardOutput(steps.sum(1), steps, torch.ones(rows, segments, dtype=torch.bool))


#: Two prompts, a group of two each: the first rollout ends after one turn, the second goes on.
SHORT = Trajectory("a", 2, (text([3], 0, given=True), text([1, 2], 0)), (None,) * 2)
LONG = Trajectory(
    "b",
    2,
    (text([2], 0, given=True), text([1, 2], 0), picture([True, False], 0), text([2, 0], 1)),
    (None,) * 4,
)
BOTH = step_rewards([judged(2, 2, 0.0), judged(2, 4, 100.0)], [SHORT, LONG], runs.Whim())


def test_shorter_rollouts_are_padded_with_what_nobody_made():
    assert BOTH.steps.shape == (2, 2, 4, 2)
    assert BOTH.turns == (0, 0, 0, 1)
    assert BOTH.alive.tolist() == [
        [[False, True, False, False], [False, True, False, False]],
        [[False, True, True, True], [False, True, False, False]],
    ]
    assert not BOTH.has_reward[0, :, 2:].any()
    assert not BOTH.steps[0, :, 2:].any()
    assert torch.equal(BOTH.steps[1].flatten(0, 0), judged(2, 4, 100.0).steps)
    assert torch.equal(BOTH.outcome[0], judged(2, 2, 0.0).outcome)
    torch.testing.assert_close(BOTH.weights, torch.tensor([0.1, 10.0]))


def test_what_a_group_shares_was_made_by_none_of_its_members():
    tree = Trajectory("ab", 2, (text([1, 1], 0), picture([True, True], 0), text([1, 0, 2, 3], 1)), (None,) * 3)
    found = step_rewards([judged(4, 3, 0.0)], [tree], runs.Whim())
    assert found.alive.flatten(0, 1).tolist() == [[False, False, alive] for alive in (True, False, True, True)]


def test_logged_rewards_by_hand():
    outcome = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[2.0, 0.1], [2.0, 0.1]]])
    steps = torch.zeros(2, 2, 3, 2)
    steps[..., 0, 0], steps[0, 0, 2, 1] = 10.0, 0.5
    has_reward = torch.tensor([[[1, 0, 1], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]]]).bool()
    rewards = StepRewards(steps, has_reward, has_reward, (0, 0, 1), outcome, torch.tensor([0.1, 10.0]))
    found = reward_metrics(rewards, runs.Whim())
    assert found == pytest.approx({
        "train/reward": (0.1 + 0.3 + 1.2 + 1.2) / 4,
        "train/reward_std": 0.1 / 2,
        "train/zero_std_frac": 0.5,
        "train/reward/words": 2.0,
        "train/reward/red": 0.05,
        "train/turn/1/reward": 1.0,
        "train/turn/2/reward": 5.0,
    })  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A metric whose rows are told: one for every row of every batch, ``level`` being what a batch holds."""

    fields: tuple[str, ...] = ("O",)

    @property
    def quantities(self) -> list[Quantity]:
        return [Quantity("editing/mean", "mean", "of types"), *(Quantity(n, n, n, row_field=n) for n in self.fields)]

    def __call__(self, episodes: list[list[dict[str, float]]], per_prompt: int) -> Measured:
        rows = [row | {"per": per_prompt} for batch in episodes for row in batch]
        return Measured({"editing/mean": 99.0}, rows)


def test_what_is_measured_of_a_rollout_are_means_over_the_rows_of_all_its_batches():
    batches = [[{"O": 1.0, "x": 2}], [{"O": 4.0, "x": 0}, {"O": 7.0, "x": 1}]]
    assert train_metrics([Told()], batches, 2) == {"train/O": 4.0}, "not the mean of the batches' means"
    assert train_metrics([Told(("O", "x")), Told(("per",))], batches, 2) == {
        "train/O": 4.0, "train/x": 1.0, "train/per": 2.0,
    }  # fmt: skip
    assert train_metrics([], batches, 2) == {}


def test_fields_that_no_row_has_are_not_measured_of_a_rollout():
    """Such as those of rounds, where there is but one; a metric without rows, such as diversity, gives nothing."""
    assert train_metrics([Told(("O", "rounds"))], [[{"O": 1.0}]], 2) == {"train/O": 1.0}
    assert train_metrics([Told()], [], 2) == {}


@dataclass(frozen=True)
class Numbered:
    """A credit that tells which value went where."""

    def __call__(self, rewards: StepRewards, advantage: Any) -> torch.Tensor:
        return rewards.only_made(1.0 + torch.arange(rewards.alive.numel()).reshape(rewards.alive.shape))


def test_every_segment_of_every_episode_gets_its_own_advantage():
    """Of two minibatches whose episodes end at different times."""
    changes = runs.ROUNDS["interleaved"] | {"credit": Numbered()}
    trainer = Trainer(config_of(**changes, rollout={"prompts": 4, "minibatches": 2}, seed=3))
    trajectories = trainer.rollout(0, trainer.rollout_spec(0))
    sizes = [len(trajectory.segments) for trajectory in trajectories]
    assert len(set(sizes)) == 2, "one of them is padded"
    advantages, metrics = trainer.compute_advantages(trajectories)
    row = 0
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        assert advantage.shape == (4, len(trajectory.segments))
        for member in range(4):
            for k, segment in enumerate(trajectory.segments):
                alive = not segment.given and bool(segment.alive[member])
                assert advantage[member, k] == (1 + max(sizes) * row + k if alive else 0)
            row += 1
    assert metrics.keys() > {"train/reward", "train/mean", "train/structure", "train/turn/1/reward"}
    painted = sum(int(s.alive.sum()) for t in trajectories for s in t.segments if isinstance(s, ImageSegment))
    assert trainer.cost["images"] == painted


class Rank:
    """One of two processes, as a thread."""

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, index: int, table: list[Any], barrier: threading.Barrier):
        self.index, self.table, self.barrier = index, table, barrier

    def _exchange(self, value: torch.Tensor) -> list[torch.Tensor]:
        self.table[self.index] = value
        self.barrier.wait(10)
        both = list(self.table)
        self.barrier.wait(10)
        return both

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._exchange(value))

    def pad_across_processes(self, value: torch.Tensor, dim: int) -> torch.Tensor:
        longest = max(other.shape[dim] for other in self._exchange(value))
        missing = list(value.shape)
        missing[dim] = longest - missing[dim]
        return torch.cat((value, value.new_zeros(missing)), dim)


def test_processes_see_the_rewards_of_all():
    """As if one process had had both rollouts."""
    parts = [
        step_rewards([judged(2, 2, 0.0)], [SHORT], runs.Whim()),
        step_rewards([judged(2, 4, 100.0)], [LONG], runs.Whim()),
    ]
    found: list[Any] = [None, None]
    shared = [None, None], threading.Barrier(2)

    def work(index: int) -> None:
        found[index] = gather_rewards(Rank(index, *shared), parts[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for whole in found:
        assert whole.turns == BOTH.turns
        for name in ("steps", "has_reward", "alive", "outcome", "weights"):
            assert torch.equal(getattr(whole, name), getattr(BOTH, name)), name


ONCE = {
    "single_round": {"reward": {"name": "weighted", "weights": {"geneval": 1.0, "proxy": 1.0}}},
    "reflect": {**runs.ROUNDS["reflect"], "reward": {"name": "geneval"}},
    "stories": {**runs.ROUNDS["interleaved"], "reward": {"name": "hybrid"}},
    "edits": {**runs.ROUNDS["editing"], "reward": {"name": "edit"}},
}


@pytest.mark.parametrize("kind", ONCE)
def test_a_rollouts_pictures_are_judged_once(monkeypatch, kind):
    """By the reward; what is watched reads the reward's verdicts."""
    looked: dict[str, int] = {"judge": 0, "proxy": 0}

    def counted(name, module, function):
        def count(pictures):
            looked[name] += len(pictures)
            return whole(pictures)

        whole = getattr(module, function)
        monkeypatch.setattr(module, function, count)

    counted("judge", judge, "detect")
    counted("proxy", classifier, "classify")
    trainer = Trainer(config_of(**ONCE[kind]))
    trajectories = trainer.rollout(0, trainer.rollout_spec(0))
    trainer.compute_advantages(trajectories)
    pictures = [s for t in trajectories for s in t.segments if isinstance(s, ImageSegment)]
    # Of stories only what was painted is looked at; elsewhere whole segments are, an edit's source among them.
    shown = [int(s.alive.sum()) if kind == "stories" else 4 for s in pictures]
    assert looked["judge"] == sum(shown) > 0
    assert looked["proxy"] == (sum(shown) if kind in ("single_round", "reflect") else 0)
