"""Mistakes that would let a report show what is not there, or compare what differs in more than one thing."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

STATISTICS_BUGS = (
    Bug(
        "the arrangement that was found is not counted",
        "reports/statistics/tests.py",
        'below = 1 + int(np.searchsorted(self.typical, effect, side="right"))',
        'below = int(np.searchsorted(self.typical, effect, side="right"))',
        nodes("reports/test_statistics", "test_sign_flip_by_hand"),
    ),
    Bug(
        "an interval at twice the level of its test",
        "reports/statistics/tests.py",
        "rank = math.floor((1 - level) / 2 * (self.typical.size + 1) + 1e-9)",
        "rank = math.floor((1 - level) * (self.typical.size + 1) + 1e-9)",
        nodes("reports/test_statistics", "test_an_interval_holds_the_effects_that_its_test_does_not_reject"),
    ),
    Bug(
        "ties that do not raise the floor",
        "reports/statistics/tests.py",
        "ties = 2**zeros",
        "ties = 1",
        nodes("reports/test_statistics", "test_ties_raise_the_floor"),
    ),
    Bug(
        "values exchanged for a different number of others",
        "reports/statistics/tests.py",
        "np.subtract.outer(one[k], two[k])",
        "np.subtract.outer(one[k], two[min(n, m) + 1 - k])",
        nodes("reports/test_statistics", "test_unpaired_is_scipys"),
    ),
    Bug(
        "only the comparisons that could be made are corrected for",
        "reports/statistics/corrections.py",
        "m = max(comparisons, len(p_values), 1)",
        "m = max(len(p_values), 1)",
        nodes("reports/test_statistics", "test_bonferroni_by_hand"),
    ),
    Bug(
        "alpha spent on one side at a look",
        "reports/statistics/sequential.py",
        "edge = special.ndtri(1 - alpha / 4)",
        "edge = special.ndtri(1 - alpha / 2)",
        nodes("reports/test_statistics", "test_bounds_of_several_looks_are_those_of_the_tables"),
    ),
    Bug(
        "equality claimed at half the confidence",
        "reports/pairs.py",
        "evidence.interval(1 - 2 * level).within(margin)",
        "evidence.interval(1 - 4 * level).within(margin)",
        nodes("reports/test_analysis", "test_equal_within_the_margin"),
    ),
    Bug(
        "an uncorrected family shows one of its differences",
        "reports/findings.py",
        'if self.correction != "none" or len(found) == self.comparisons else ()',
        'if self.correction != "none" or found else ()',
        nodes("reports/test_analysis", "test_without_a_correction_all_must_differ"),
    ),
    Bug(
        "an interaction averaged like a main effect",
        "reports/pairs.py",
        "((arm, other), (two, one)), summed=True)",
        "((arm, other), (two, one)))",
        nodes("reports/test_analysis", "test_levels_and_interactions_are_families_of_their_own"),
    ),
    Bug(
        "arms compared with one cell of the baseline, whatever the other factor",
        "ablations/contrasts.py",
        "partner = partners.get(_levels(point, shared))",
        "partner = bases[0]",
        nodes("ablations/test_contrasts", "test_an_axis_of_both_makes_one_main_effect_at_equal_levels"),
    ),
    Bug(
        "a ladder is read beyond its rungs",
        "reports/statistics/ladders.py",
        "left=np.nan, right=np.nan",
        "left=None, right=None",
        nodes("reports/test_ladder", "test_with_more_seeds_out_of_reach_there_is_no_verdict"),
    ),
    Bug(
        "a ladder's rungs are joined in the order of the file",
        "reports/statistics/ladders.py",
        'order = np.argsort(np.asarray(x, dtype=np.float64), kind="stable")',
        "order = np.arange(len(np.asarray(x)))",
        nodes("reports/test_ladder", "test_along_is_numpys_interpolation_whatever_the_order_of_rungs"),
    ),
    Bug(
        "a seed out of one ladder's reach counts for the other",
        "reports/ladder.py",
        "if seed in out:",
        "if seed in out and not np.isfinite(values.get(seed, 0.0)):",
        nodes("reports/test_ladder", "test_with_more_seeds_out_of_reach_there_is_no_verdict"),
    ),
    Bug(
        "seeds that do not reach the level are dropped unseen",
        "reports/ladder.py",
        '_UNREACHED: State = "failed"',
        '_UNREACHED: State = "missing"',
        nodes("reports/test_ladder", "test_with_more_seeds_out_of_reach_there_is_no_verdict"),
    ),
    Bug(
        "ladders of different levels of an axis are mixed",
        "ablations/ladder.py",
        "found.setdefault(tuple(point.factors.items()), {})",
        "found.setdefault((), {})",
        nodes("ablations/test_ladder", "test_an_axis_makes_a_ladder_at_each_of_its_levels_and_one_main_effect"),
    ),
    Bug(
        "the level of the ladders is not declared",
        "ablations/ladder.py",
        "where {at.measure} is {at.level:g}, along",
        "where {at.measure} is held, along",
        nodes("ablations/test_ladder", "test_another_level_is_another_declaration_and_the_order_of_rungs_is_none"),
    ),
)
