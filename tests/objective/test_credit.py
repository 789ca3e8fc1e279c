"""Credit over the segments of an episode: against loops in plain Python, and what holds whatever the rewards."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.strategies import DOUBLE, spread
from unigrpo.checks import ShapeError
from unigrpo.config import RunConfig
from unigrpo.objective.advantage import GlobalStd, Group, MeanOnly, PerReward
from unigrpo.objective.credit import Broadcast, Improvement, Outcome, PerTurn, StepRewards, SuffixSum

close = torch.testing.assert_close
NAN = float("nan")
EPS = 1e-4
K = 2

CREDITS = [Outcome(), SuffixSum(), SuffixSum("index"), PerTurn(), PerTurn(0.3), Broadcast(), Improvement()]
credits_ = st.sampled_from(CREDITS)
advantages = st.sampled_from([Group(), Group(ddof=1), MeanOnly(), GlobalStd(), PerReward()])
within_groups = st.sampled_from([Group(), Group(ddof=1), MeanOnly()])


def plain(rewards, weights, present=None):
    """No baseline: the total itself, 0 where there is none."""
    total = (rewards * weights).sum(-1)
    return total if present is None else total.where(present, 0.0)


@st.composite
def step_rewards(draw, most_groups=3):
    """Episodes of one to four turns with one or two segments each, which end where they like.

    The first segment is given; a reward may be placed wherever the policy made something.
    """
    P, G = draw(st.integers(1, most_groups)), draw(st.integers(2, 5))
    sizes = draw(st.lists(st.integers(1, 2), min_size=1, max_size=4))
    turns = (0, *(turn for turn, size in enumerate(sizes) for _ in range(size)))
    S = len(turns)
    ends = torch.tensor(draw(st.lists(st.integers(2, S), min_size=P * G, max_size=P * G))).reshape(P, G, 1)
    alive = (torch.arange(S) < ends) & (torch.arange(S) > 0)
    has_reward = alive & torch.tensor(draw(st.lists(st.booleans(), min_size=S, max_size=S)))
    steps, outcome = draw(spread((P, G, S, K))), draw(spread((P, G, K)))
    verdicts = draw(st.booleans())
    if verdicts:  # right or wrong, many ties
        steps, outcome = (steps > 0).double(), (outcome > 0).double()
    weights = torch.tensor([1.0, 0.5], dtype=DOUBLE)
    return StepRewards(steps.where(has_reward[..., None], 0.0), has_reward, alive, turns, outcome, weights)


def one_segment(outcome):
    """Episodes of a single segment, whose reward is the outcome."""
    yes = torch.ones(*outcome.shape[:2], 1, dtype=torch.bool)
    return StepRewards(outcome.unsqueeze(2), yes, yes, (0,), outcome, torch.tensor([1.0, 0.5], dtype=DOUBLE))


def normalised(values):
    """A group's members, None where there is none, by mean and population std."""
    there = [value for value in values if value is not None]
    if len(there) < 2 or max(there) == min(there):
        return [0.0] * len(values)
    return [0.0 if v is None else (v - fmean(there)) / (pstdev(there) + EPS) for v in values]


class Loops:
    """The strategies for one group, number by number, with ``advantage=group``."""

    def __init__(self, r, group):
        self.turns, self.members, self.segments = r.turns, range(r.alive.shape[1]), range(len(r.turns))
        total = (r.steps[group] * r.weights).sum(-1)
        self.alive = r.alive[group].tolist()
        self.reward = [
            [total[g, s].item() if r.has_reward[group, g, s] else None for s in self.segments] for g in self.members
        ]
        self.total = [(r.outcome[group, g] * r.weights).sum().item() for g in self.members]

    def of_turn(self, member, turn):
        own = [r for r, its in zip(self.reward[member], self.turns, strict=True) if its == turn and r is not None]
        return sum(own) if own else None

    def turn_advantage(self, turn):
        return normalised([self.of_turn(g, turn) for g in self.members])

    def outcome(self, g, s):
        return normalised(self.total)[g]

    def pooled(self, g, s):
        flat = normalised([r for member in self.reward for r in member])
        return sum(flat[g * len(self.segments) + later] for later in self.segments if later >= s)

    def index(self, g, s):
        return sum(
            normalised([self.reward[m][later] for m in self.members])[g] for later in self.segments if later >= s
        )

    def per_turn(self, g, s):
        return (self.turn_advantage(self.turns[s])[g] + 0.3 * self.outcome(g, s)) / 1.3

    def broadcast(self, g, s):
        return sum(self.turn_advantage(turn)[g] for turn in set(self.turns))

    def improvement(self, g, s):
        return normalised([self.gain(member, self.turns[s]) for member in self.members])[g]

    def gain(self, member, turn):
        now = self.of_turn(member, turn)
        if turn == 0:
            return now
        before = self.of_turn(member, turn - 1)
        spoke = any(alive and its == turn for alive, its in zip(self.alive[member], self.turns, strict=True))
        if before is None or (now is None and not spoke):
            return None
        return float(before >= 1 - 1e-6) if now is None else now - before


@pytest.mark.parametrize(
    ("credit", "name"),
    [
        (Outcome(), "outcome"), (SuffixSum("pooled"), "pooled"), (SuffixSum("index"), "index"),
        (PerTurn(0.3), "per_turn"), (Broadcast(), "broadcast"), (Improvement(), "improvement"),
    ],
)  # fmt: skip
@given(r=step_rewards())
def test_closed_forms(credit, name, r):
    found = credit(r, Group(eps=EPS))
    for group in range(len(found)):
        loops = Loops(r, group)
        for g in loops.members:
            for s in loops.segments:
                expected = getattr(loops, name)(g, s) if loops.alive[g][s] else 0.0
                assert found[group, g, s].item() == pytest.approx(expected, abs=1e-9)


@given(step_rewards(), credits_, advantages, st.sampled_from([NAN, float("inf"), 1e30]))
def test_what_was_not_made_has_exactly_0_and_what_was_not_placed_may_be_anything(r, credit, advantage, junk):
    found = credit(r, advantage)
    assert found.shape == r.alive.shape
    assert found.isfinite().all()
    assert (found[~r.alive] == 0).all()
    soiled = replace(r, steps=r.steps.where(r.has_reward[..., None], junk))
    assert torch.equal(credit(soiled, advantage), found)


@given(step_rewards(), credits_, advantages, st.integers(0, 9))
def test_padding_changes_nothing(r, credit, advantage, turn):
    """Segments that no episode of the batch made, in a turn of their own or not."""
    P, G, S, _ = r.steps.shape
    nobody = torch.zeros(P, G, 2, dtype=torch.bool)
    padded = StepRewards(
        torch.cat((r.steps, torch.full((P, G, 2, K), NAN, dtype=DOUBLE)), 2),
        torch.cat((r.has_reward, nobody), 2),
        torch.cat((r.alive, nobody), 2),
        (*r.turns, turn, turn + 1),
        r.outcome,
        r.weights,
    )
    found = credit(padded, advantage)
    close(found[..., :S], credit(r, advantage), atol=1e-12, rtol=1e-12)
    assert (found[..., S:] == 0).all()


@given(step_rewards(), credits_, advantages, st.randoms(use_true_random=False))
def test_members_and_groups_may_come_in_any_order_with_their_segments(r, credit, advantage, rng):
    groups, members = list(range(r.alive.shape[0])), list(range(r.alive.shape[1]))
    rng.shuffle(groups)
    rng.shuffle(members)
    moved = replace(
        r, **{name: getattr(r, name)[groups][:, members] for name in ("steps", "has_reward", "alive", "outcome")}
    )
    close(credit(moved, advantage), credit(r, advantage)[groups][:, members], atol=1e-9, rtol=1e-9)


@given(step_rewards(), credits_, within_groups)
def test_a_group_does_not_feel_the_others(r, credit, advantage):
    changed = r.steps.clone()
    changed[1:] = changed[1:].exp()
    assert torch.equal(credit(replace(r, steps=changed), advantage)[0], credit(r, advantage)[0])


@given(spread((2, 4, K)), st.sampled_from(CREDITS), advantages)
def test_with_a_single_segment_every_strategy_is_outcome(outcome, credit, advantage):
    """MATH 9.11; the improvement of a first turn is its total, where other components than one do not show."""
    r = one_segment(outcome)
    if isinstance(credit, Improvement):
        r = replace(r, weights=torch.tensor([1.0, 0.0], dtype=DOUBLE))
    close(credit(r, advantage), Outcome()(r, advantage), atol=1e-9, rtol=1e-9)


@given(step_rewards(), st.sampled_from([SuffixSum(), SuffixSum("index"), PerTurn(), PerTurn(0.0), Broadcast()]))
def test_with_a_single_turn_that_ends_in_the_outcome_they_are_outcome(r, credit):
    """MATH 9.11, for a turn of several segments, as thinking and picture are: the reward is placed at its end."""
    has_reward = torch.zeros_like(r.has_reward)
    has_reward[..., -1] = True
    steps = torch.zeros_like(r.steps)
    steps[..., -1, :] = r.outcome
    single = replace(r, steps=steps, has_reward=has_reward, turns=(0,) * len(r.turns))
    for advantage in (Group(), MeanOnly(), GlobalStd(), PerReward()):
        close(credit(single, advantage), Outcome()(single, advantage), atol=1e-9, rtol=1e-9)


@given(step_rewards(), st.data())
def test_a_late_reward_never_changes_the_credit_of_what_comes_after_it(r, data):
    """Exactly so where rewards are compared index by index, and of the pooled sum before any baseline."""
    placed = [(m, k) for m, k in r.has_reward[0].nonzero().tolist() if r.alive[0, m, k + 1 :].any()]
    assume(placed)  # a reward with something after it
    member, late = data.draw(st.sampled_from(placed))
    steps = r.steps.clone()
    steps[0, member, late] += 1.5
    changed = replace(r, steps=steps)
    for credit, advantage in (
        *((SuffixSum("index"), advantage) for advantage in (Group(), MeanOnly(), GlobalStd(), PerReward())),
        (SuffixSum("pooled"), plain),
    ):
        before, after = credit(r, advantage), credit(changed, advantage)
        assert torch.equal(before[..., late + 1 :], after[..., late + 1 :])
    if r.alive[0, member, 1]:
        assert (after - before)[0, member, 1].item() == pytest.approx(1.5 * 1.5), "but that of what led to it"


@given(step_rewards(most_groups=1), st.integers(0, 8))
def test_a_pooled_reward_moves_all_others_through_the_mean_of_the_group(r, late):
    late = min(late, len(r.turns) - 1)
    steps = r.steps.clone()
    steps[0, 0, late, 0] += 2.0
    moved = (SuffixSum()(replace(r, steps=steps), MeanOnly()) - SuffixSum()(r, MeanOnly()))[0]
    count = int(r.has_reward.sum())
    expected = torch.zeros_like(moved)
    if r.has_reward[0, 0, late] and count > 1:
        expected -= 2.0 / count * r.has_reward[0].double().flip(-1).cumsum(-1).flip(-1)
        expected[0, : late + 1] += 2.0
    close(moved, expected.where(r.alive[0], 0.0), atol=1e-9, rtol=1e-9)


@given(step_rewards(), advantages)
def test_broadcast_and_outcome_give_all_of_an_episodes_segments_the_same(r, advantage):
    for credit in (Outcome(), Broadcast()):
        found = credit(r, advantage)
        first = found.gather(-1, r.alive.long().argmax(-1, keepdim=True))
        assert torch.equal(found, first.expand_as(found).where(r.alive, 0.0))


@given(step_rewards(), advantages)
def test_per_turn_and_improvement_give_all_of_a_turns_segments_the_same(r, advantage):
    for credit in (PerTurn(), Improvement()):
        found = credit(r, advantage)
        for s, turn in enumerate(r.turns):
            for other in range(s):
                both = r.alive[..., s] & r.alive[..., other]
                if r.turns[other] == turn:
                    assert torch.equal(found[..., s][both], found[..., other][both])


@given(step_rewards())
def test_per_turn_lies_between_the_turn_alone_and_the_outcome(r):
    turn, outcome = PerTurn(0.0)(r, Group()), Outcome()(r, Group())
    close(PerTurn(1.0)(r, Group()), (turn + outcome) / 2)
    close(PerTurn(1e9)(r, Group()), outcome, atol=1e-6, rtol=1e-6)


def reflections(first, second, alive):
    """Four members: think, paint; reflect, repaint.  None: nothing placed."""
    rewards = torch.tensor([[[NAN, f, NAN, NAN if s is None else s] for f, s in zip(first, second, strict=True)]])
    return StepRewards(
        rewards[..., None].double(),
        torch.tensor([[[False, True, False, s is not None] for s in second]]),
        torch.tensor([alive]),
        (0, 0, 1, 1),
        torch.zeros(1, 4, 1, dtype=DOUBLE),
        torch.ones(1, dtype=DOUBLE),
    )


def test_improvement_by_hand():
    """One mends (+1), one spoils (-1), one leaves a right picture alone (1), one a wrong one (0): mean 1/4."""
    repainted, stopped = [True] * 4, [True, True, True, False]
    r = reflections([0.0, 1.0, 1.0, 0.0], [1.0, 0.0, None, None], [repainted, repainted, stopped, stopped])
    found = Improvement()(r, MeanOnly())[0]
    close(found[:, :2], torch.tensor([[-0.5], [0.5], [0.5], [-0.5]], dtype=DOUBLE).expand(4, 2))
    close(found[:, 2], torch.tensor([0.75, -1.25, 0.75, -0.25], dtype=DOUBLE))
    close(found[:, 3], torch.tensor([0.75, -1.25, 0.0, 0.0], dtype=DOUBLE))
    strict = Improvement(right=2.0)(r, MeanOnly())[0]
    close(strict[:, 2], torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=DOUBLE))


def test_improvement_from_a_shared_start_is_trained_after_it_alone():
    """A start that the members share is given to all: no credit for it, an exact baseline for what follows."""
    mended, stopped = [False, False, True, True], [False, False, True, False]
    r = reflections([0.5] * 4, [1.0, 0.5, 0.0, None], [mended, mended, mended, stopped])
    found = Improvement()(r, MeanOnly())[0]
    assert (found[:, :2] == 0).all()
    close(found[:, 2], torch.tensor([0.5, 0.0, -0.5, 0.0], dtype=DOUBLE))


def test_improvement_of_an_episode_that_ended_before_is_none():
    """Who never came to the second turn enters no mean there."""
    over = [True, True, False, False]
    r = reflections([1.0] * 4, [0.5, 1.0, None, None], [[True] * 4, [True] * 4, over, over])
    close(Improvement()(r, MeanOnly())[0, :, 2], torch.tensor([-0.25, 0.25, 0.0, 0.0], dtype=DOUBLE))


def test_fp32_rewards_give_fp32_credit():
    r = one_segment(torch.rand(2, 3, K))
    r = replace(r, weights=r.weights.float())
    assert {credit(r, Group()).dtype for credit in CREDITS} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": torch.zeros(2, 3, 4)}, ShapeError, r"steps \[P, G, S, K\] .* got \[2, 3, 4\] and \[2, 3, 2\]"),
        ({"outcome": torch.zeros(2, 3, 1)}, ShapeError, r"got \[2, 3, 1, 2\] and \[2, 3, 1\]"),
        ({"turns": (0, 1)}, ShapeError, "one turn for each of 1 segments, got 2"),
        ({"has_reward": torch.ones(2, 3, dtype=torch.bool)}, ShapeError, r"mask \[2, 3\], segments \[2, 3, 1\]"),
        ({"alive": torch.ones(2, 3, 1)}, TypeError, "boolean mask"),
    ],
)
def test_rewards_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        replace(one_segment(torch.zeros(2, 3, K)), **changes)


def test_a_negative_weight_of_the_outcome_is_refused():
    with pytest.raises(ValueError, match="outcome_weight=-1"):
        PerTurn(-1.0)


@pytest.mark.parametrize(("episode", "runs"), [("reflect", True), ("single_round", True), ("editing", False)])
def test_improvement_needs_turns_that_can_be_compared(episode, runs):
    config = RunConfig.from_dict({"episode": episode, "credit": "improvement"})
    assert (list(config.credit.conflicts(config)) == []) == runs


@pytest.mark.parametrize("reward", ["proxy", "weighted"])
def test_improvement_must_know_what_is_right(reward):
    config = {"episode": "reflect", "credit": "improvement", "reward": reward}
    (reason,) = [text for text in RunConfig.from_dict(config).conflicts() if "credit=" in text]
    assert f"reward={reward} need not reach 0.999999" in reason
    known = RunConfig.from_dict(config | {"credit": {"name": "improvement", "right": 0.75}})
    assert not any("credit=" in text for text in known.conflicts())


def test_outcome_is_the_default():
    assert RunConfig().credit == Outcome()
