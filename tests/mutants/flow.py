"""Mistakes in the stochastic dynamics, their window, guidance and schedule."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

DYNAMICS = "unigrpo/flow/dynamics.py"
WINDOW = "unigrpo/flow/window.py"
GUIDANCE = "unigrpo/flow/guidance.py"
HEAD = "unigrpo/rollout/heads/flow.py"
HELD = "rollout/test_held_velocity"

FLOW_BUGS = (
    Bug(
        "schedule shifted the wrong way",
        "unigrpo/flow/schedule.py",
        "shift * t / (1 + (shift - 1) * t)",
        "t / (shift - (shift - 1) * t)",
        nodes("flow/test_schedule", "test_shift_follows_its_formula_and_leaves_1_uniform"),
    ),
    Bug(
        "sign of the velocity",
        DYNAMICS,
        "Transition(x - dt * (v +",
        "Transition(x + dt * (v +",
        nodes("flow/test_dynamics", "test_flow_sde_mean_and_std_as_written_in_the_paper"),
    ),
    Bug(
        "dt for sqrt(dt) in the std",
        DYNAMICS,
        "sigma * dt.sqrt()",
        "sigma * dt",
        nodes("flow/test_dynamics", "test_p34_one_step_keeps_the_marginal_up_to_the_square_of_dt"),
    ),
    Bug(
        "score correction without its 2",
        DYNAMICS,
        "sigma**2 / (2 * t)",
        "sigma**2 / t",
        nodes("flow/test_dynamics", "test_p35_many_small_steps_approach_the_marginal_in_proportion_to_dt"),
    ),
    Bug(
        "t and t' confused in cps",
        DYNAMICS,
        "(1 - t_next) * x0 + t_next * kept * x1",
        "(1 - t) * x0 + t * kept * x1",
        nodes("flow/test_dynamics", "test_p34_cps_keeps_the_marginal_of_point_data_exactly"),
    ),
    Bug(
        "no guard at t = 1",
        DYNAMICS,
        "t_second.where(t == 1, t)",
        "t",
        nodes("flow/test_dynamics", "test_p37_the_whole_schedule_is_finite_from_pure_noise_to_the_image"),
    ),
    Bug(
        "guard at t = 1 applied at every t",
        DYNAMICS,
        "t_second.where(t == 1, t)",
        "t_second",
        nodes("flow/test_dynamics", "test_p37_at_pure_noise_sigma_uses_the_schedules_second_point"),
    ),
    Bug(
        "ode step by t instead of dt",
        DYNAMICS,
        "x - per_row(dt, x) * v",
        "x - per_row(t, x) * v",
        nodes("flow/test_dynamics", "test_p29_without_noise_every_step_is_the_ode_step"),
    ),
    Bug(
        "gradient through the sample",
        DYNAMICS,
        "return x_next.detach().to(",
        "return x_next.to(",
        nodes("flow/test_dynamics", "test_a_sampled_step_scored_with_gradients_on_is_data"),
    ),
    Bug(
        "log-density without log std",
        DYNAMICS,
        "-z.square() / 2 - std.log() -",
        "-z.square() / 2 -",
        nodes("flow/test_dynamics", "test_p32_log_prob_is_that_of_torch_distributions"),
    ),
    Bug(
        "cps distance divided by the std",
        DYNAMICS,
        "x_next, _ = _taken(x_next, transition)\n        return over_elements(-(x_next - transition.mean).square()",
        "x_next, s = _taken(x_next, transition)\n"
        "        return over_elements(-((x_next - transition.mean) / s).square()",
        nodes("flow/test_dynamics", "test_cps_log_prob_is_a_squared_distance_without_variance"),
    ),
    Bug(
        "random window off by one",
        WINDOW,
        "rng.randint(self.low, self.high - self.size)",
        "rng.randint(self.low, self.high - self.size + 1)",
        nodes("flow/test_window", "test_random_window_reaches_every_place_between_low_and_high_alike"),
    ),
    Bug(
        "sliding window creeps instead of striding",
        WINDOW,
        "start = min(update // self.every * self.stride,",
        "start = min(update * self.stride // self.every,",
        nodes("flow/test_window", "test_sliding_moves_by_its_stride_and_stops_at_the_end"),
    ),
    Bug(
        "guidance formula swapped",
        GUIDANCE,
        "v_uncond + self.scale * (v_cond - v_uncond)",
        "v_cond + self.scale * (v_uncond - v_cond)",
        nodes("flow/test_guidance", "test_p45_guidance_is_affine_in_its_scale_from_unconditional_to_conditional"),
    ),
    Bug(
        "guidance renorm scales up",
        GUIDANCE,
        ".clamp(min=1e-8)).clamp(least, 1)",
        ".clamp(min=1e-8)).clamp(least)",
        nodes(
            "flow/test_guidance",
            "test_renorm_keeps_the_direction_and_never_exceeds_the_conditional_norm_of_each_image",
        ),
    ),
    Bug(
        "guidance interval closed on the wrong side",
        GUIDANCE,
        "self.scale != 1 and self.low < t <= self.high",
        "self.scale != 1 and self.low <= t < self.high",
        nodes("flow/test_guidance", "test_the_interval_is_open_below_and_closed_above"),
    ),
    Bug(
        "the guided step's mean is held with the conditional velocity",
        HEAD,
        "(conditional, _transition(spec, step.x, conditional, step.index).mean)",
        "(conditional, transition.mean)",
        nodes(HELD, "test_latent_kl_weighs_the_distance_of_conditional_velocities"),
    ),
    Bug(
        "the unconditional velocity is held",
        HEAD,
        "return used, velocities[0], cost",
        "return used, velocities[-1], cost",
        nodes(HELD, "test_the_unconditional_branch_has_no_part_in_a_penalty_of_the_conditional_velocity"),
    ),
    Bug(
        "under a guidance that says nothing the conditional velocity is held",
        GUIDANCE,
        'getattr(guidance, "penalty", "guided")',
        'getattr(guidance, "penalty", "conditional")',
        nodes(HELD, "test_a_guidance_that_says_nothing_holds_what_it_uses"),
    ),
    Bug(
        "a guided policy is held near an unguided reference",
        "unigrpo/training/trainer.py",
        "if holds_conditional(spec.guidance) else spec",
        "if spec.guidance.branches else spec",
        nodes("training/test_trainer", "test_work_is_counted_by_kind"),
    ),
)
