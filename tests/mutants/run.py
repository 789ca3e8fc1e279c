"""Mistakes around a run: what is judged twice, paired wrongly, or left to its surroundings."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

RUN_BUGS = (
    Bug(
        "sources go to other prompts",
        "unigrpo/models/processor.py",
        "keys, list(map(len, images))",
        "keys, [0 for _ in images]",
        nodes("models/test_processor", "test_a_mixed_batch_is_refused_for_its_rows_would_be_paired_with_each_other"),
    ),
    Bug(
        "given rows that happen to divide",
        "unigrpo/rollout/rollout.py",
        "if segment.rows not in (self.groups, self.rows):",
        "if self.rows % segment.rows:",
        nodes("rollout/test_rollout", "test_a_given_segment_has_a_row_per_prompt_or_per_episode"),
    ),
    Bug(
        "every picture judged twice",
        "unigrpo/rollout/decoded.py",
        "if who not in self._found:",
        "if True:",
        nodes("training/test_advantages", "test_a_rollouts_pictures_are_judged_once"),
    ),
    Bug(
        "metrics of two versions compared",
        "unigrpo/training/evaluation.py",
        "[plain_form(metric), metric.version]",
        "[plain_form(metric)]",
        nodes("training/test_evaluation", "test_the_hash_covers_what_measures_and_not_how_an_arm_paints"),
    ),
    Bug(
        "accumulation left to a variable",
        "unigrpo/surroundings.py",
        "gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),",
        "",
        nodes("test_surroundings", "test_precision_and_accumulation_are_the_runs_own_whatever_accelerate_is_told"),
    ),
    Bug(
        "an interrupted run goes on with another reward",
        "unigrpo/training/runner.py",
        "        if saved:\n            _check_same(",
        "        if saved and saved is None:\n            _check_same(",
        nodes("training/test_run", "test_a_run_goes_on_and_is_read_with_the_reward_that_it_began_with"),
    ),
    Bug(
        "metrics of a user's own without their source",
        "unigrpo/registry/__init__.py",
        "if isinstance(value, tuple | list):",
        "if isinstance(value, list):",
        nodes("test_identity", "test_what_a_configuration_points_to_is_part_of_a_run_and_of_a_cell"),
    ),
)
