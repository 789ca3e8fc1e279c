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
)
