"""Mistakes on the way from rewards to advantages."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

ADVANTAGE = "unigrpo/objective/advantage.py"
CREDIT = "unigrpo/objective/credit.py"

CREDIT_BUGS = (
    Bug(
        "sample for population std",
        ADVANTAGE,
        "_std(total, present, 1, self.ddof)",
        "_std(total, present, 1, 1)",
        nodes("objective/test_advantage", "test_closed_forms", "test_p07_samuelson_bound_is_reached_by_one_winner"),
    ),
    Bug(
        "group std for global std",
        ADVANTAGE,
        "_std(total, present, None, self.ddof)",
        "_std(total, present, 1, self.ddof)",
        nodes("objective/test_advantage", "test_p06_with_a_std_of_the_batch_it_does"),
    ),
    Bug(
        "equal rewards that round to an advantage",
        ADVANTAGE,
        ".masked_fill(equal, 0)",
        "",
        nodes("objective/test_advantage", "test_p08_equal_rewards_whose_mean_rounds_away_from_them"),
    ),
    Bug(
        "the absent in the mean",
        ADVANTAGE,
        "rewards.sum(dim, keepdim=True) / present.sum(dim, keepdim=True).clamp(min=1)",
        "rewards.mean(dim, keepdim=True)",
        nodes("objective/test_advantage", "test_a_group_is_judged_as_if_only_those_present_existed"),
    ),
    Bug(
        "the absent in the std",
        ADVANTAGE,
        "(rewards - _mean(rewards, present, dim)).where(present, 0.0)",
        "rewards - _mean(rewards, present, dim)",
        nodes("objective/test_advantage", "test_a_group_is_judged_as_if_only_those_present_existed"),
    ),
    Bug(
        "an advantage for the absent",
        ADVANTAGE,
        "(highest <= lowest) | ~present",
        "highest <= lowest",
        nodes("objective/test_advantage", "test_the_absent_count_for_nothing_and_get_exactly_0"),
    ),
    Bug(
        "rewards of the absent looked at",
        ADVANTAGE,
        "return rewards.where(present.unsqueeze(-1), 0.0), weights",
        "return rewards, weights",
        nodes("objective/test_advantage", "test_the_absent_count_for_nothing_and_get_exactly_0"),
    ),
    Bug(
        "equal rewards of those present that round to an advantage",
        ADVANTAGE,
        "(highest <= lowest) | ~present",
        "~present",
        nodes("objective/test_advantage", "test_p08_equal_rewards_of_those_present_get_exact_zeros"),
    ),
    Bug(
        "credit for what was not alive",
        CREDIT,
        "return values.expand(self.alive.shape).where(self.alive, 0.0)",
        "return values.expand(self.alive.shape)",
        nodes(
            "objective/test_credit",
            "test_what_was_not_made_has_exactly_0_and_what_was_not_placed_may_be_anything",
        ),
    ),
    Bug(
        "rewards counted where none is has_reward",
        CREDIT,
        "steps = steps.where(self.has_reward.unsqueeze(-1), 0.0)",
        "steps = steps.clone()",
        nodes(
            "objective/test_credit",
            "test_what_was_not_made_has_exactly_0_and_what_was_not_placed_may_be_anything",
        ),
    ),
    Bug(
        "prefix for suffix sum",
        CREDIT,
        "normalised.flip(-1).cumsum(-1).flip(-1)",
        "normalised.cumsum(-1)",
        nodes("objective/test_credit", "test_a_late_reward_never_changes_the_credit_of_what_comes_after_it"),
    ),
    Bug(
        "own reward left out of the suffix sum",
        CREDIT,
        "normalised.flip(-1).cumsum(-1).flip(-1)",
        "normalised.flip(-1).cumsum(-1).flip(-1) - normalised",
        nodes("objective/test_credit", "test_with_a_single_segment_every_strategy_is_outcome"),
    ),
    Bug(
        "pooled rewards without the mask",
        CREDIT,
        "rewards.weights, rewards.has_reward.flatten(1, 2))",
        "rewards.weights)",
        nodes("objective/test_credit", "test_closed_forms"),
    ),
    Bug(
        "scopes of the suffix sum swapped",
        CREDIT,
        'if self.scope == "pooled":',
        'if self.scope == "index":',
        nodes("objective/test_credit", "test_closed_forms"),
    ),
    Bug(
        "a lone turn counted twice",
        CREDIT,
        "(value + outcome) / (1 + self.outcome_weight)",
        "value + outcome",
        nodes("objective/test_credit", "test_with_a_single_turn_that_ends_in_the_outcome_they_are_outcome"),
    ),
    Bug(
        "the first turn alone broadcast",
        CREDIT,
        "sum(others, start=first)",
        "first",
        nodes("objective/test_credit", "test_closed_forms"),
    ),
    Bug(
        "score for improvement",
        CREDIT,
        "gain = (total - last).where(",
        "gain = total.where(",
        nodes("objective/test_credit", "test_improvement_by_hand"),
    ),
    Bug(
        "stopping is always right",
        CREDIT,
        "(last >= self.right).to(total)",
        "total.new_ones(total.shape)",
        nodes("objective/test_credit", "test_improvement_by_hand"),
    ),
    Bug(
        "an episode that was over taken for one that stopped",
        CREDIT,
        "known = (earned | alive) & had_one",
        "known = had_one",
        nodes("objective/test_credit", "test_improvement_of_an_episode_that_ended_before_is_none"),
    ),
)
