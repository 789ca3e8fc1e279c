"""Mistakes with several models to start from, and with curves on held-out prompts."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

PLANS, PAGES = "ablations/test_blocks", "reports/test_blocks"

BLOCK_BUGS = (
    Bug(
        "blocks by the place among the seeds",
        "ablations/arms.py",
        "block = seed % len(self.configs)",
        "block = len(self._cells) % len(self.configs)",
        nodes(PLANS, "test_no_number_of_seeds_moves_a_seed_to_another_block"),
    ),
    Bug(
        "one identity for all blocks",
        "ablations/arms.py",
        "Cell(self.name, config, self.identities[block])",
        "Cell(self.name, config, self.identities[0])",
        nodes(PLANS, "test_a_cell_is_the_one_that_a_plan_of_its_model_alone_has"),
    ),
    Bug(
        "a sweep that is the same whatever its blocks are",
        "ablations/plan.py",
        "[*arm.identities] if self.blocks else arm.identities[0]",
        "arm.identities[0]",
        nodes(PLANS, "test_other_models_are_another_sweep"),
    ),
    Bug(
        "blocks beat the command",
        "ablations/blocks.py",
        'if o.key == self.key or self.key.startswith(f"{o.key}.")',
        "if o.key == ''",
        nodes(PLANS, "test_a_command_that_names_a_model_replaces_the_blocks"),
    ),
    Bug(
        "one untouched model for all blocks",
        "reports/records.py",
        "for seed in self.blocks.alike(mine)}",
        "for seed in seeds}",
        nodes(PAGES, "test_a_trained_seed_is_held_against_the_model_that_it_started_from"),
    ),
    Bug(
        "a weaker warm-up taken for a collapse",
        "reports/caveats.py",
        "groups = sweep.arm(arm).by_start(found)",
        "groups = [[*found]]",
        nodes(PAGES, "test_a_weaker_warm_up_is_no_collapse_and_a_run_far_below_those_of_its_own_is_one"),
    ),
    Bug(
        "the runs that medians are count as spread",
        "reports/caveats.py",
        "fitted += max(len(groups) - 1, 0)",
        "fitted += 0",
        nodes(PAGES, "test_a_weaker_warm_up_is_no_collapse_and_a_run_far_below_those_of_its_own_is_one"),
    ),
    Bug(
        "a model that is not trained is unstable",
        "reports/records.py",
        "return self.trained and 5 * sum(",
        "return 5 * sum(",
        nodes(PAGES, "test_of_an_untouched_model_the_blocks_that_were_evaluated_count"),
    ),
    Bug(
        "blocks of unequal size count alike",
        "reports/analysis.py",
        "weights=[*map(arm.weight, by)])",
        "weights=None)",
        nodes(PAGES, "test_the_untouched_model_is_the_mean_over_blocks_with_the_weights_of_their_seeds"),
    ),
    Bug(
        "a curve without its end",
        "reports/heldout.py",
        "if name not in cell.metrics or",
        "if name in cell.metrics or",
        nodes("reports/test_heldout", "test_a_curve_ends_with_the_final_evaluation"),
    ),
    Bug(
        "a mark where the judge falls but no reward rises",
        "reports/heldout.py",
        "parts = rise.low is not None and rise.low > 0 and",
        "parts =",
        nodes("reports/test_heldout", "test_a_reward_that_does_not_rise_parts_from_nothing"),
    ),
)
