"""Mistakes that would tune arms unlike, or on what the question is answered on."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

TESTS = "ablations/test_tuning"

TUNING_BUGS = (
    Bug(
        "settings are tried on the test's prompts",
        "ablations/tuning.py",
        "overrides=(*grid.overrides, SPLIT),",
        "overrides=grid.overrides,",
        nodes(TESTS, "test_every_setting_is_an_arm_on_validation_prompts_and_seeds_of_its_own"),
    ),
    Bug(
        "settings are tried on the seeds of the question",
        "ablations/tuning.py",
        "seeds=grid.tune.seeds,",
        "seeds=grid.seeds,",
        nodes(TESTS, "test_every_setting_is_an_arm_on_validation_prompts_and_seeds_of_its_own"),
    ),
    Bug(
        "one arm is given more tries",
        "ablations/grid.py",
        "if len({len(found) for found in tune.settings.values()}) > 1 or",
        "if",
        nodes(TESTS, "test_what_tunes_arms_unlike_is_refused"),
    ),
    Bug(
        "the worst setting is the best",
        "reports/tuning.py",
        "(max if tuning.higher_is_better else min)",
        "(min if tuning.higher_is_better else max)",
        nodes(TESTS, "test_the_best_is_the_best_mean"),
    ),
)
