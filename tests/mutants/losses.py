"""Mistakes on the way from log-probabilities and advantages to a loss."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

IMAGE_RATIO = "unigrpo/objective/image_ratio.py"
TEXT_RATIO = "unigrpo/objective/text_ratio.py"
REGION = "unigrpo/objective/trust_region.py"
AGGREGATION = "unigrpo/objective/aggregation.py"
REGULARIZER = "unigrpo/objective/regularizer.py"
TEXT_KL = "unigrpo/objective/text_kl.py"
LOSS = "unigrpo/objective/loss.py"
MINIBATCH = "unigrpo/algorithms/policy_gradient.py"
TOKENS = "unigrpo/algorithms/tokens.py"
TENSORS = "unigrpo/checks.py"

LOSS_BUGS = (
    Bug(
        "no detach of the old image log-prob",
        IMAGE_RATIO,
        "return log_prob - old_log_prob.detach()",
        "return log_prob - old_log_prob",
        nodes("objective/test_image_ratio", "test_p20_no_gradient_into_the_old_policy"),
    ),
    Bug(
        "ratio norm without the std factor",
        IMAGE_RATIO,
        "return s * (log_ratio + drift / (2 * s**2))",
        "return log_ratio + drift / (2 * s**2)",
        nodes("objective/test_image_ratio", "test_ratio_norm_is_the_noise_along_the_drift"),
    ),
    Bug(
        "ratio norm with another reduction than the log-prob",
        IMAGE_RATIO,
        "(old_mean.detach() - mean).square(), reduction)",
        '(old_mean.detach() - mean).square(), "sum")',
        nodes("objective/test_image_ratio", "test_ratio_norm_is_the_noise_along_the_drift"),
    ),
    Bug(
        "guard weights not normalised",
        IMAGE_RATIO,
        "1 / dt / (1 / dt).mean()",
        "1 / dt",
        nodes("objective/test_image_ratio", "test_guard_weights_steps_by_1_over_dt_with_mean_1"),
    ),
    Bug(
        "no detach of the old text log-prob",
        TEXT_RATIO,
        "log_prob - old_log_prob.detach()",
        "log_prob - old_log_prob",
        nodes("objective/test_text_ratio", "test_p20_no_gradient_into_the_old_policy"),
    ),
    Bug(
        "sequence ratio summed instead of averaged",
        TEXT_RATIO,
        "log_ratio.sum(1, keepdim=True) / length",
        "log_ratio.sum(1, keepdim=True)",
        nodes("objective/test_text_ratio", "test_sequence_ratio_is_the_mean_over_a_rows_own_tokens"),
    ),
    Bug(
        "min and max swapped in the clip",
        REGION,
        ".where(advantage > 0, log_ratio.clamp(min=lower))",
        ".where(advantage < 0, log_ratio.clamp(min=lower))",
        nodes("objective/test_trust_region", "test_p15_clipping_is_pessimistic_everywhere"),
    ),
    Bug(
        "clip bounds swapped",
        REGION,
        "upper, lower = math.log1p(self.high), math.log1p(-self.low)",
        "upper, lower = math.log1p(self.low), math.log1p(-min(self.high, 0.99))",
        nodes("objective/test_trust_region", "test_objective_is_the_minimum_of_the_paper"),
    ),
    Bug(
        "clip in ratio space",
        REGION,
        "bounded = log_ratio.clamp(max=upper).where(advantage > 0, log_ratio.clamp(min=lower))\n"
        "        return bounded.exp() * advantage.detach()",
        "r = log_ratio.exp()\n"
        "        bounded = r.clamp(max=1 + self.high).where(advantage > 0, r.clamp(min=1 - self.low))\n"
        "        return bounded * advantage.detach()",
        nodes("objective/test_trust_region", "test_p16_published_image_bands_are_told_apart_in_fp32"),
    ),
    Bug(
        "[B] x [B, 1] allowed in the surrogate",
        REGION,
        "same_shape(log_ratio=log_ratio, advantage=advantage)\n"
        "        log_ratio, advantage = upcast(log_ratio=log_ratio, advantage=advantage)\n"
        "        upper",
        "log_ratio, advantage = upcast(log_ratio=log_ratio, advantage=advantage)\n        upper",
        nodes("objective/test_trust_region", "test_p50_a_column_of_advantages_is_refused"),
    ),
    Bug(
        "[B, L] x [B, 1] allowed in the loss of tokens",
        LOSS,
        "same_shape(log_ratio=log_ratio, advantage=advantage)",
        "advantage = advantage.expand_as(log_ratio)",
        nodes("objective/test_loss", "test_p50_advantages_of_another_shape_raise_and_never_mix_samples"),
    ),
    Bug(
        "mask by multiplication",
        AGGREGATION,
        "return values.where(mask, 0.0)",
        "return values * mask",
        nodes("objective/test_aggregation", "test_p46_masked_values_may_be_anything"),
    ),
    Bug(
        "sequence mean over the padded length",
        AGGREGATION,
        "mask.sum(1).clamp(min=1)).mean()",
        "mask.shape[1]).mean()",
        nodes("objective/test_aggregation", "test_p48_more_padding_changes_nothing"),
    ),
    Bug(
        "mean for sum",
        TENSORS,
        'flat.mean(1) if reduction == "mean" else flat.sum(1)',
        "flat.mean(1)",
        nodes("objective/test_regularizer", "test_p39_latent_kl_is_the_kl_of_torch_distributions"),
    ),
    Bug(
        "half precision not raised",
        TENSORS,
        "tensor.float() if tensor.element_size() < 4 else tensor",
        "tensor",
        nodes("objective/test_loss", "test_p49_half_precision_gives_an_fp32_loss_near_that_of_fp64"),
    ),
    Bug(
        "exact KL without dt",
        REGULARIZER,
        "return kl if self.dt_in_denominator else kl * per_row(dt, kl)",
        "return kl * per_row(dt, kl)",
        nodes("objective/test_regularizer", "test_p39_latent_kl_is_velocity_mse_times_w"),
    ),
    Bug(
        "KL with the std for the variance",
        REGULARIZER,
        "kl = distance / (2 * per_row(std, distance) ** 2)",
        "kl = distance / (2 * per_row(std, distance))",
        nodes("objective/test_regularizer", "test_p39_latent_kl_is_the_kl_of_torch_distributions"),
    ),
    Bug(
        "drift penalty under no_grad",
        REGULARIZER,
        "(values - reference.detach()).square()",
        "(values.detach() - reference.detach()).square().requires_grad_(values.requires_grad)",
        nodes("objective/test_regularizer", "test_p41_zero_with_zero_gradient_at_the_reference_and_neither_elsewhere"),
    ),
    Bug(
        "drift penalty pulls the reference",
        REGULARIZER,
        "(values - reference.detach()).square()",
        "(values - reference).square()",
        nodes("objective/test_regularizer", "test_p42_symmetric_and_without_gradient_into_the_reference"),
    ),
    Bug(
        "k3 with the wrong sign of d",
        TEXT_KL,
        "return ref_log_prob.detach() - log_prob",
        "return log_prob - ref_log_prob.detach()",
        nodes("objective/test_text_kl", "test_p24_k1_and_k3_are_unbiased"),
    ),
    Bug(
        "k3 by exp near 0",
        TEXT_KL,
        "d.expm1() - d",
        "d.exp() - d - 1",
        nodes("objective/test_text_kl", "test_p27_k3_in_fp32_is_right_near_zero"),
    ),
    Bug(
        "penalty of tokens masked after the estimator",
        LOSS,
        "kl(log_prob.where(mask, 0.0), ref_log_prob.where(mask, 0.0))",
        "kl(log_prob, ref_log_prob)",
        nodes("objective/test_loss", "test_p46_masked_tokens_may_hold_anything_in_the_penalty"),
    ),
    Bug(
        "loss with the sign of the objective",
        LOSS,
        "Surrogate(-trust_region(",
        "Surrogate(trust_region(",
        nodes("objective/test_loss", "test_p13_on_policy_the_token_loss_is_minus_the_advantage_of_what_counts"),
    ),
    Bug(
        "step weights ignored",
        LOSS,
        "-per_row(weight, log_ratio) * trust_region(",
        "-trust_region(",
        nodes("objective/test_loss", "test_step_objective_by_hand"),
    ),
    Bug(
        "weights of the modalities swapped",
        LOSS,
        "((modalities.text, text, aggregation), (modalities.image, image, SequenceMean()))",
        "((modalities.image, text, aggregation), (modalities.text, image, SequenceMean()))",
        nodes("objective/test_joint_loss", "test_joint_loss_is_the_weighted_sum"),
    ),
    Bug(
        "modality of weight 0 multiplied instead of left out",
        LOSS,
        "if weight and actions is not None",
        "if actions is not None",
        nodes("objective/test_joint_loss", "test_a_modality_of_weight_0_is_left_out_even_if_its_loss_is_not_finite"),
    ),
    Bug(
        "pictures averaged as the texts are",
        LOSS,
        "(modalities.image, image, SequenceMean())",
        "(modalities.image, image, aggregation)",
        nodes("objective/test_joint_loss", "test_joint_loss_is_the_weighted_sum"),
    ),
    Bug(
        "two means where one was asked for",
        LOSS,
        "if aggregation.joint and weighted:",
        "if False:",
        nodes("objective/test_joint_loss", "test_trajectory_mean_by_hand"),
    ),
    Bug(
        "no weights in the joint mean",
        LOSS,
        "concat_actions([actions for _, actions in weighted])",
        "concat_actions([part for part in (text, image) if part is not None])",
        nodes("objective/test_joint_loss", "test_trajectory_mean_by_hand"),
    ),
    Bug(
        "steps of unpainted pictures masked after the ratio",
        LOSS,
        "log_prob, old_log_prob, mean, old_mean = _kept(mask, log_prob, old_log_prob, mean, old_mean)",
        "check_mask(mask, log_prob=log_prob)",
        nodes("objective/test_loss", "test_p46_masked_actions_may_hold_anything"),
    ),
    Bug(
        "penalty of unpainted pictures masked after the distance",
        LOSS,
        "velocity, ref_velocity, mean, ref_mean = _kept(mask, velocity, ref_velocity, mean, ref_mean)",
        "check_mask(mask, rows=velocity.flatten(1)[:, 0])",
        nodes("objective/test_loss", "test_p46_masked_rows_may_hold_anything_in_the_penalty"),
    ),
    Bug(
        "ratio statistics in fp32",
        LOSS,
        "self.log_ratio[self.mask].double().expm1()",
        "self.log_ratio[self.mask].exp() - 1",
        nodes("objective/test_loss", "test_diagnostics_see_ratios_of_1_plus_1e_6_and_none_where_nothing_counts"),
    ),
    Bug(
        "advantage of the next segment",
        TOKENS,
        "advantage.unbind(1), strict=True",
        "advantage.roll(1, 1).unbind(1), strict=True",
        nodes("training/test_loss", "test_the_joint_loss_by_hand"),
    ),
    Bug(
        "tokens of unpainted pictures counted",
        TOKENS,
        "segment.alive[:, None].expand_as(new)",
        "segment.alive[:, None].logical_or(~segment.alive[:, None]).expand_as(new)",
        nodes("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "steps of unpainted pictures counted",
        MINIBATCH,
        "yield _Step(one, before, other, advantage, mask, weight)",
        "yield _Step(one, before, other, advantage, torch.ones_like(mask), weight)",
        nodes("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "image tokens in the trust region of texts",
        TOKENS,
        "_of_tokens(config, images, config.image_trust_region)",
        "_of_tokens(config, images, config.text_trust_region)",
        nodes("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "penalty without its weight",
        TOKENS,
        "surrogate.with_penalty(penalty, weight)",
        "surrogate.with_penalty(penalty, 1.0)",
        nodes("training/test_loss_of_segments", "test_the_loss_of_a_story_and_its_gradient_by_hand"),
    ),
    Bug(
        "drift of unpainted pictures",
        MINIBATCH,
        "TokenMean()(drift, surrogate.mask).item()",
        "drift.mean().item()",
        nodes("training/test_loss_of_segments", "test_steps_are_logged_by_index_over_all_pictures_made"),
    ),
)
