"""Seeded bugs: each is a plausible mistake that some test must notice.  ``python -m tests.mutants`` proves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

DYNAMICS = "unigrpo/flow/dynamics.py"
WINDOW = "unigrpo/flow/window.py"
GUIDANCE = "unigrpo/flow/guidance.py"
ADVANTAGE = "unigrpo/objective/advantage.py"
CREDIT = "unigrpo/objective/credit.py"
IMAGE_RATIO = "unigrpo/objective/image_ratio.py"
TEXT_RATIO = "unigrpo/objective/text_ratio.py"
REGION = "unigrpo/objective/trust_region.py"
AGGREGATION = "unigrpo/objective/aggregation.py"
REGULARIZER = "unigrpo/objective/regularizer.py"
TEXT_KL = "unigrpo/objective/text_kl.py"
LOSS = "unigrpo/objective/loss.py"
MINIBATCH = "unigrpo/training/loss.py"
TENSORS = "unigrpo/tensors.py"


@dataclass(frozen=True)
class Bug:
    """One mistake.

    Attributes:
        name: what went wrong.
        file: where, relative to the repository.
        old: the right text, found there exactly once.
        new: the wrong text.
        tests: pytest nodes, at least one of which must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def occurrences(self) -> int:
        """How often the right text is found; anything but 1 means that the bug cannot be seeded."""
        return (ROOT / self.file).read_text().count(self.old)


def _in(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}.py::{name}" for name in names)


BUGS = (
    Bug(
        "schedule shifted the wrong way",
        "unigrpo/flow/schedule.py",
        "shift * t / (1 + (shift - 1) * t)",
        "t / (shift - (shift - 1) * t)",
        _in("flow/test_schedule", "test_shift_follows_its_formula_and_leaves_1_uniform"),
    ),
    Bug(
        "sign of the velocity",
        DYNAMICS,
        "Transition(x - dt * (v +",
        "Transition(x + dt * (v +",
        _in("flow/test_dynamics", "test_flow_sde_mean_and_std_as_written_in_the_paper"),
    ),
    Bug(
        "dt for sqrt(dt) in the std",
        DYNAMICS,
        "sigma * dt.sqrt()",
        "sigma * dt",
        _in("flow/test_dynamics", "test_p34_one_step_keeps_the_marginal_up_to_the_square_of_dt"),
    ),
    Bug(
        "score correction without its 2",
        DYNAMICS,
        "sigma**2 / (2 * t)",
        "sigma**2 / t",
        _in("flow/test_dynamics", "test_p35_many_small_steps_approach_the_marginal_in_proportion_to_dt"),
    ),
    Bug(
        "t and t' confused in cps",
        DYNAMICS,
        "(1 - t_next) * x0 + t_next * kept * x1",
        "(1 - t) * x0 + t * kept * x1",
        _in("flow/test_dynamics", "test_p34_cps_keeps_the_marginal_of_point_data_exactly"),
    ),
    Bug(
        "no guard at t = 1",
        DYNAMICS,
        "t_second.where(t == 1, t)",
        "t",
        _in("flow/test_dynamics", "test_p37_the_whole_schedule_is_finite_from_pure_noise_to_the_image"),
    ),
    Bug(
        "guard at t = 1 applied at every t",
        DYNAMICS,
        "t_second.where(t == 1, t)",
        "t_second",
        _in("flow/test_dynamics", "test_p37_at_pure_noise_sigma_uses_the_schedules_second_point"),
    ),
    Bug(
        "ode step by t instead of dt",
        DYNAMICS,
        "x - per_row(dt, x) * v",
        "x - per_row(t, x) * v",
        _in("flow/test_dynamics", "test_p29_without_noise_every_step_is_the_ode_step"),
    ),
    Bug(
        "gradient through the sample",
        DYNAMICS,
        "return x_next.detach().to(",
        "return x_next.to(",
        _in("flow/test_dynamics", "test_a_sampled_step_scored_with_gradients_on_is_data"),
    ),
    Bug(
        "log-density without log std",
        DYNAMICS,
        "-z.square() / 2 - std.log() -",
        "-z.square() / 2 -",
        _in("flow/test_dynamics", "test_p32_log_prob_is_that_of_torch_distributions"),
    ),
    Bug(
        "cps distance divided by the std",
        DYNAMICS,
        "x_next, _ = _taken(x_next, transition)\n        return over_elements(-(x_next - transition.mean).square()",
        "x_next, s = _taken(x_next, transition)\n"
        "        return over_elements(-((x_next - transition.mean) / s).square()",
        _in("flow/test_dynamics", "test_cps_log_prob_is_a_squared_distance_without_variance"),
    ),
    Bug(
        "random window off by one",
        WINDOW,
        "rng.randint(self.low, self.high - self.size)",
        "rng.randint(self.low, self.high - self.size + 1)",
        _in("flow/test_window", "test_random_window_reaches_every_place_between_low_and_high_alike"),
    ),
    Bug(
        "sliding window creeps instead of striding",
        WINDOW,
        "start = min(update // self.every * self.stride,",
        "start = min(update * self.stride // self.every,",
        _in("flow/test_window", "test_sliding_moves_by_its_stride_and_stops_at_the_end"),
    ),
    Bug(
        "guidance formula swapped",
        GUIDANCE,
        "v_uncond + self.scale * (v_cond - v_uncond)",
        "v_cond + self.scale * (v_uncond - v_cond)",
        _in("flow/test_guidance", "test_p45_guidance_is_affine_in_its_scale_from_unconditional_to_conditional"),
    ),
    Bug(
        "guidance renorm scales up",
        GUIDANCE,
        ".clamp(max=1), v)",
        ", v)",
        _in(
            "flow/test_guidance",
            "test_renorm_keeps_the_direction_and_never_exceeds_the_conditional_norm_of_each_image",
        ),
    ),
    Bug(
        "guidance interval closed on the wrong side",
        GUIDANCE,
        "self.low < t <= self.high",
        "self.low <= t < self.high",
        _in("flow/test_guidance", "test_the_interval_is_open_below_and_closed_above"),
    ),
    Bug(
        "sample for population std",
        ADVANTAGE,
        "_std(total, present, 1, self.ddof)",
        "_std(total, present, 1, 1)",
        _in("objective/test_advantage", "test_closed_forms", "test_p07_samuelson_bound_is_reached_by_one_winner"),
    ),
    Bug(
        "group std for global std",
        ADVANTAGE,
        "_std(total, present, None, self.ddof)",
        "_std(total, present, 1, self.ddof)",
        _in("objective/test_advantage", "test_p06_with_a_std_of_the_batch_it_does"),
    ),
    Bug(
        "equal rewards that round to an advantage",
        ADVANTAGE,
        ".masked_fill(equal, 0)",
        "",
        _in("objective/test_advantage", "test_p08_equal_rewards_whose_mean_rounds_away_from_them"),
    ),
    Bug(
        "the absent in the mean",
        ADVANTAGE,
        "rewards.sum(dim, keepdim=True) / present.sum(dim, keepdim=True).clamp(min=1)",
        "rewards.mean(dim, keepdim=True)",
        _in("objective/test_advantage", "test_a_group_is_judged_as_if_only_those_present_existed"),
    ),
    Bug(
        "the absent in the std",
        ADVANTAGE,
        "(rewards - _mean(rewards, present, dim)).where(present, 0.0)",
        "rewards - _mean(rewards, present, dim)",
        _in("objective/test_advantage", "test_a_group_is_judged_as_if_only_those_present_existed"),
    ),
    Bug(
        "an advantage for the absent",
        ADVANTAGE,
        "(highest <= lowest) | ~present",
        "highest <= lowest",
        _in("objective/test_advantage", "test_the_absent_count_for_nothing_and_get_exactly_0"),
    ),
    Bug(
        "rewards of the absent looked at",
        ADVANTAGE,
        "return rewards.where(present.unsqueeze(-1), 0.0), weights",
        "return rewards, weights",
        _in("objective/test_advantage", "test_the_absent_count_for_nothing_and_get_exactly_0"),
    ),
    Bug(
        "equal rewards of those present that round to an advantage",
        ADVANTAGE,
        "(highest <= lowest) | ~present",
        "~present",
        _in("objective/test_advantage", "test_p08_equal_rewards_of_those_present_get_exact_zeros"),
    ),
    Bug(
        "credit for what was not made",
        CREDIT,
        "return values.expand(self.made.shape).where(self.made, 0.0)",
        "return values.expand(self.made.shape)",
        _in(
            "objective/test_credit",
            "test_what_was_not_made_has_exactly_0_and_what_was_not_placed_may_be_anything",
        ),
    ),
    Bug(
        "rewards counted where none is placed",
        CREDIT,
        "steps = steps.where(self.placed.unsqueeze(-1), 0.0)",
        "steps = steps.clone()",
        _in(
            "objective/test_credit",
            "test_what_was_not_made_has_exactly_0_and_what_was_not_placed_may_be_anything",
        ),
    ),
    Bug(
        "prefix for suffix sum",
        CREDIT,
        "normalised.flip(-1).cumsum(-1).flip(-1)",
        "normalised.cumsum(-1)",
        _in("objective/test_credit", "test_a_late_reward_never_changes_the_credit_of_what_comes_after_it"),
    ),
    Bug(
        "own reward left out of the suffix sum",
        CREDIT,
        "normalised.flip(-1).cumsum(-1).flip(-1)",
        "normalised.flip(-1).cumsum(-1).flip(-1) - normalised",
        _in("objective/test_credit", "test_with_a_single_segment_every_strategy_is_outcome"),
    ),
    Bug(
        "pooled rewards without the mask",
        CREDIT,
        "rewards.weights, rewards.placed.flatten(1, 2))",
        "rewards.weights)",
        _in("objective/test_credit", "test_closed_forms"),
    ),
    Bug(
        "scopes of the suffix sum swapped",
        CREDIT,
        'if self.scope == "pooled":',
        'if self.scope == "index":',
        _in("objective/test_credit", "test_closed_forms"),
    ),
    Bug(
        "a lone turn counted twice",
        CREDIT,
        "(value + outcome) / (1 + self.outcome_weight)",
        "value + outcome",
        _in("objective/test_credit", "test_with_a_single_turn_that_ends_in_the_outcome_they_are_outcome"),
    ),
    Bug(
        "the first turn alone broadcast",
        CREDIT,
        "sum(others, start=first)",
        "first",
        _in("objective/test_credit", "test_closed_forms"),
    ),
    Bug(
        "score for improvement",
        CREDIT,
        "gain = (total - last).where(",
        "gain = total.where(",
        _in("objective/test_credit", "test_improvement_by_hand"),
    ),
    Bug(
        "stopping is always right",
        CREDIT,
        "(last >= self.right).to(total)",
        "total.new_ones(total.shape)",
        _in("objective/test_credit", "test_improvement_by_hand"),
    ),
    Bug(
        "an episode that was over taken for one that stopped",
        CREDIT,
        "known = (earned | made) & had_one",
        "known = had_one",
        _in("objective/test_credit", "test_improvement_of_an_episode_that_ended_before_is_none"),
    ),
    Bug(
        "no detach of the old image log-prob",
        IMAGE_RATIO,
        "return log_prob - old_log_prob.detach()",
        "return log_prob - old_log_prob",
        _in("objective/test_image_ratio", "test_p20_no_gradient_into_the_old_policy"),
    ),
    Bug(
        "ratio norm without the std factor",
        IMAGE_RATIO,
        "return s * (log_ratio + drift / (2 * s**2))",
        "return log_ratio + drift / (2 * s**2)",
        _in("objective/test_image_ratio", "test_ratio_norm_is_the_noise_along_the_drift"),
    ),
    Bug(
        "ratio norm with another reduction than the log-prob",
        IMAGE_RATIO,
        "(old_mean.detach() - mean).square(), reduction)",
        '(old_mean.detach() - mean).square(), "sum")',
        _in("objective/test_image_ratio", "test_ratio_norm_is_the_noise_along_the_drift"),
    ),
    Bug(
        "guard weights not normalised",
        IMAGE_RATIO,
        "1 / dt / (1 / dt).mean()",
        "1 / dt",
        _in("objective/test_image_ratio", "test_guard_weights_steps_by_1_over_dt_with_mean_1"),
    ),
    Bug(
        "no detach of the old text log-prob",
        TEXT_RATIO,
        "log_prob - old_log_prob.detach()",
        "log_prob - old_log_prob",
        _in("objective/test_text_ratio", "test_p20_no_gradient_into_the_old_policy"),
    ),
    Bug(
        "sequence ratio summed instead of averaged",
        TEXT_RATIO,
        "log_ratio.sum(1, keepdim=True) / length",
        "log_ratio.sum(1, keepdim=True)",
        _in("objective/test_text_ratio", "test_sequence_ratio_is_the_mean_over_a_rows_own_tokens"),
    ),
    Bug(
        "min and max swapped in the clip",
        REGION,
        ".where(advantage > 0, log_ratio.clamp(min=lower))",
        ".where(advantage < 0, log_ratio.clamp(min=lower))",
        _in("objective/test_trust_region", "test_p15_clipping_is_pessimistic_everywhere"),
    ),
    Bug(
        "clip bounds swapped",
        REGION,
        "upper, lower = math.log1p(self.high), math.log1p(-self.low)",
        "upper, lower = math.log1p(self.low), math.log1p(-min(self.high, 0.99))",
        _in("objective/test_trust_region", "test_objective_is_the_minimum_of_the_paper"),
    ),
    Bug(
        "clip in ratio space",
        REGION,
        "bounded = log_ratio.clamp(max=upper).where(advantage > 0, log_ratio.clamp(min=lower))\n"
        "        return bounded.exp() * advantage.detach()",
        "r = log_ratio.exp()\n"
        "        bounded = r.clamp(max=1 + self.high).where(advantage > 0, r.clamp(min=1 - self.low))\n"
        "        return bounded * advantage.detach()",
        _in("objective/test_trust_region", "test_p16_published_image_bands_are_told_apart_in_fp32"),
    ),
    Bug(
        "[B] x [B, 1] allowed in the surrogate",
        REGION,
        "same_shape(log_ratio=log_ratio, advantage=advantage)\n"
        "        log_ratio, advantage = upcast(log_ratio=log_ratio, advantage=advantage)\n"
        "        upper",
        "log_ratio, advantage = upcast(log_ratio=log_ratio, advantage=advantage)\n        upper",
        _in("objective/test_trust_region", "test_p50_a_column_of_advantages_is_refused"),
    ),
    Bug(
        "[B, L] x [B, 1] allowed in the loss of tokens",
        LOSS,
        "same_shape(log_ratio=log_ratio, advantage=advantage)",
        "advantage = advantage.expand_as(log_ratio)",
        _in("objective/test_loss", "test_p50_advantages_of_another_shape_raise_and_never_mix_samples"),
    ),
    Bug(
        "mask by multiplication",
        AGGREGATION,
        "return values.where(mask, 0.0)",
        "return values * mask",
        _in("objective/test_aggregation", "test_p46_masked_values_may_be_anything"),
    ),
    Bug(
        "sequence mean over the padded length",
        AGGREGATION,
        "mask.sum(1).clamp(min=1)).mean()",
        "mask.shape[1]).mean()",
        _in("objective/test_aggregation", "test_p48_more_padding_changes_nothing"),
    ),
    Bug(
        "mean for sum",
        TENSORS,
        'flat.mean(1) if reduction == "mean" else flat.sum(1)',
        "flat.mean(1)",
        _in("objective/test_regularizer", "test_p39_latent_kl_is_the_kl_of_torch_distributions"),
    ),
    Bug(
        "half precision not raised",
        TENSORS,
        "tensor.float() if tensor.element_size() < 4 else tensor",
        "tensor",
        _in("objective/test_loss", "test_p49_half_precision_gives_an_fp32_loss_near_that_of_fp64"),
    ),
    Bug(
        "exact KL without dt",
        REGULARIZER,
        "return kl if self.dt_in_denominator else kl * per_row(dt, kl)",
        "return kl * per_row(dt, kl)",
        _in("objective/test_regularizer", "test_p39_latent_kl_is_velocity_mse_times_w"),
    ),
    Bug(
        "KL with the std for the variance",
        REGULARIZER,
        "kl = distance / (2 * per_row(std, distance) ** 2)",
        "kl = distance / (2 * per_row(std, distance))",
        _in("objective/test_regularizer", "test_p39_latent_kl_is_the_kl_of_torch_distributions"),
    ),
    Bug(
        "drift penalty under no_grad",
        REGULARIZER,
        "(values - reference.detach()).square()",
        "(values.detach() - reference.detach()).square().requires_grad_(values.requires_grad)",
        _in("objective/test_regularizer", "test_p41_zero_with_zero_gradient_at_the_reference_and_neither_elsewhere"),
    ),
    Bug(
        "drift penalty pulls the reference",
        REGULARIZER,
        "(values - reference.detach()).square()",
        "(values - reference).square()",
        _in("objective/test_regularizer", "test_p42_symmetric_and_without_gradient_into_the_reference"),
    ),
    Bug(
        "k3 with the wrong sign of d",
        TEXT_KL,
        "return ref_log_prob.detach() - log_prob",
        "return log_prob - ref_log_prob.detach()",
        _in("objective/test_text_kl", "test_p24_k1_and_k3_are_unbiased"),
    ),
    Bug(
        "k3 by exp near 0",
        TEXT_KL,
        "d.expm1() - d",
        "d.exp() - d - 1",
        _in("objective/test_text_kl", "test_p27_k3_in_fp32_is_right_near_zero"),
    ),
    Bug(
        "penalty of tokens masked after the estimator",
        LOSS,
        "kl(log_prob.where(mask, 0.0), ref_log_prob.where(mask, 0.0))",
        "kl(log_prob, ref_log_prob)",
        _in("objective/test_loss", "test_p46_masked_tokens_may_hold_anything_in_the_penalty"),
    ),
    Bug(
        "loss with the sign of the objective",
        LOSS,
        "Surrogate(-trust_region(",
        "Surrogate(trust_region(",
        _in("objective/test_loss", "test_p13_on_policy_the_token_loss_is_minus_the_advantage_of_what_counts"),
    ),
    Bug(
        "step weights ignored",
        LOSS,
        "-per_row(weight, log_ratio) * trust_region(",
        "-trust_region(",
        _in("objective/test_loss", "test_step_objective_by_hand"),
    ),
    Bug(
        "weights of the modalities swapped",
        LOSS,
        "((modalities.text, text, aggregation), (modalities.image, image, SequenceMean()))",
        "((modalities.image, text, aggregation), (modalities.text, image, SequenceMean()))",
        _in("objective/test_joint_loss", "test_joint_loss_is_the_weighted_sum"),
    ),
    Bug(
        "modality of weight 0 multiplied instead of left out",
        LOSS,
        "if weight and actions is not None",
        "if actions is not None",
        _in("objective/test_joint_loss", "test_a_modality_of_weight_0_is_left_out_even_if_its_loss_is_not_finite"),
    ),
    Bug(
        "pictures averaged as the texts are",
        LOSS,
        "(modalities.image, image, SequenceMean())",
        "(modalities.image, image, aggregation)",
        _in("objective/test_joint_loss", "test_joint_loss_is_the_weighted_sum"),
    ),
    Bug(
        "two means where one was asked for",
        LOSS,
        "if aggregation.joint and weighted:",
        "if False:",
        _in("objective/test_joint_loss", "test_trajectory_mean_by_hand"),
    ),
    Bug(
        "no weights in the joint mean",
        LOSS,
        "side_by_side([actions for _, actions in weighted])",
        "side_by_side([part for part in (text, image) if part is not None])",
        _in("objective/test_joint_loss", "test_trajectory_mean_by_hand"),
    ),
    Bug(
        "steps of unpainted pictures masked after the ratio",
        LOSS,
        "log_prob, old_log_prob, mean, old_mean = _kept(mask, log_prob, old_log_prob, mean, old_mean)",
        "check_mask(mask, log_prob=log_prob)",
        _in("objective/test_loss", "test_p46_masked_actions_may_hold_anything"),
    ),
    Bug(
        "penalty of unpainted pictures masked after the distance",
        LOSS,
        "velocity, ref_velocity, mean, ref_mean = _kept(mask, velocity, ref_velocity, mean, ref_mean)",
        "check_mask(mask, rows=velocity.flatten(1)[:, 0])",
        _in("objective/test_loss", "test_p46_masked_rows_may_hold_anything_in_the_penalty"),
    ),
    Bug(
        "ratio statistics in fp32",
        LOSS,
        "self.log_ratio[self.mask].double().expm1()",
        "self.log_ratio[self.mask].exp() - 1",
        _in("objective/test_loss", "test_diagnostics_see_ratios_of_1_plus_1e_6_and_none_where_nothing_counts"),
    ),
    Bug(
        "advantage of the next segment",
        MINIBATCH,
        "advantage.unbind(1), strict=True",
        "advantage.roll(1, 1).unbind(1), strict=True",
        _in("training/test_loss", "test_the_joint_loss_by_hand"),
    ),
    Bug(
        "tokens of unpainted pictures counted",
        MINIBATCH,
        "segment.made[:, None].expand_as(new.log_prob)",
        "torch.ones_like(new.log_prob, dtype=torch.bool)",
        _in("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "steps of unpainted pictures counted",
        MINIBATCH,
        "yield _Step(now, was, other, advantage, mask, weight)",
        "yield _Step(now, was, other, advantage, torch.ones_like(mask), weight)",
        _in("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "image tokens in the trust region of texts",
        MINIBATCH,
        "_of_tokens(config, pictures, config.image_trust_region)",
        "_of_tokens(config, pictures, config.text_trust_region)",
        _in("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "penalty without its weight",
        MINIBATCH,
        "surrogate.penalised(penalty, weight)",
        "surrogate.penalised(penalty, 1.0)",
        _in("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "drift of unpainted pictures",
        MINIBATCH,
        "TokenMean()(drift, surrogate.mask).item()",
        "drift.mean().item()",
        _in("training/test_loss_of_segments", "test_steps_are_logged_by_their_index_over_all_pictures_that_were_made"),
    ),
)
