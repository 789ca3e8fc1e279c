"""Mistakes in what a plan promises, in A/A arms, and in what is said of arms that are called matched."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

FORESIGHT_BUGS = (
    Bug(
        "a repetition that is the same cell",
        "unigrpo/config.py",
        "if key not in SILENT or value != SILENT[key]}",
        "if key not in SILENT}",
        nodes("test_config", "test_a_silent_field_leaves_no_trace_at_its_default"),
    ),
    Bug(
        "a salt that changes no draw",
        "unigrpo/config.py",
        'return (self.seed, "salt", self.salt) if self.salt else (self.seed,)',
        "return (self.seed,)",
        nodes("test_config", "test_a_silent_field_leaves_no_trace_at_its_default"),
    ),
    Bug(
        "prompts that a salt does not reach",
        "unigrpo/training/trainer.py",
        'seed_of((*self.config.key, "prompts", update))',
        'seed_of((self.config.seed, "prompts", update))',
        nodes("training/test_trainer", "test_a_salt_draws_all_anew_and_starts_from_the_same_weights"),
    ),
    Bug(
        "a salted run taken for one without salt",
        "unigrpo/identity.py",
        "if key in new or key in SILENT}",
        "if key in new}",
        nodes("test_identity", "test_a_salted_run_is_not_taken_for_one_without_salt"),
    ),
    Bug(
        "repetitions held against the baseline in all measures",
        "ablations/plan.py",
        "if not (arm.untouched or arm.replicate or arm.refused)]",
        "if not (arm.untouched or arm.refused)]",
        nodes("ablations/test_plan", "test_repetitions_of_the_baseline_are_further_arms_with_other_draws"),
    ),
    Bug(
        "a margin in the units of another measure",
        "ablations/request.py",
        "primary=primary, margin=None, spread=None)",
        "primary=primary, spread=None)",
        nodes("ablations/test_plan", "test_another_primary_measure_takes_neither_margin_nor_spread_with_it"),
    ),
    Bug(
        "all of alpha for each of several comparisons",
        "ablations/foresight.py",
        'return alpha if plan.grid.correction == "none" else alpha / len(plan.comparisons)',
        "return alpha",
        nodes("ablations/test_foresight", "test_each_comparison_of_a_family_has_its_share_of_alpha"),
    ),
    Bug(
        "power at the first look",
        "ablations/foresight.py",
        "nominal_levels(alpha, plan.grid.looks)[-1]",
        "nominal_levels(alpha, plan.grid.looks)[0]",
        nodes("ablations/test_foresight", "test_of_several_looks_the_last_counts"),
    ),
    Bug(
        "arms taken for paired that are not",
        "ablations/foresight.py",
        'sides if plan.grid.test == "unpaired" else sides[:1] - sides[1:]',
        "sides[:1] - sides[1:]",
        nodes("ablations/test_foresight", "test_the_spread_of_arms_that_are_not_paired_is_their_own"),
    ),
    Bug(
        "a range of the spread by the wrong tail",
        "reports/statistics/power.py",
        "tail = (1 - level) / 2",
        "tail = 1 - level",
        nodes("reports/test_statistics", "test_the_range_of_a_spread_by_hand"),
    ),
    Bug(
        "repetitions compared like any arm",
        "reports/pairs.py",
        "if arm.done and not arm.unstable and not arm.repeats}",
        "if arm.done and not arm.unstable}",
        nodes("reports/test_controls", "test_repetitions_are_a_family_of_their_own_and_in_no_other"),
    ),
    Bug(
        "a noise floor with the spread between seeds in it",
        "reports/controls.py",
        "groups.setdefault((group, seed), []).append(value)",
        "groups.setdefault((group, 0), []).append(value)",
        nodes("reports/test_controls", "test_a_band_is_as_wide_as_the_comparison_makes_it"),
    ),
    Bug(
        "a band that averages as it adds up",
        "reports/controls.py",
        "weight = 1.0 if contrast.summed else 1 / len(contrast.couples)",
        "weight = 1 / len(contrast.couples)",
        nodes("reports/test_controls", "test_a_band_is_as_wide_as_the_comparison_makes_it"),
    ),
    Bug(
        "no warning of matched arms that differ",
        "reports/controls.py",
        "for pair in matched.shown)",
        "for pair in ())",
        nodes("reports/test_controls", "test_matched_arms_that_drift_differently_are_a_warning"),
    ),
)
