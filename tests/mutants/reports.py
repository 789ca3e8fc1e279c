"""Mistakes that would let a report, or the mirror of a sweep, say less than it knows."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

REPORT_BUGS = (
    Bug(
        "names of arms read as formulas",
        "reports/drawing.py",
        '"text.parse_math": False',
        '"text.parse_math": True',
        nodes("reports/test_names", "test_a_name_is_no_formula"),
    ),
    Bug(
        "a cell without the primary metric passed over",
        "reports/gaps.py",
        "if sweep.primary not in cell.metrics]",
        "if not cell.metrics]",
        nodes("reports/test_gaps", "test_a_score_that_is_no_number_is_named_and_its_mean_says_its_n"),
    ),
    Bug(
        "a later cell's description of a measure counts",
        "reports/metrics.py",
        "if found.setdefault(metric.name, metric) != metric:",
        "if found.get(metric.name, metric) != (found := found | {metric.name: metric})[metric.name]:",
        nodes("reports/test_metrics", "test_of_two_descriptions_of_one_name_the_first_counts_and_the_name_is_kept"),
    ),
    Bug(
        "more of an unknown measure taken for better",
        "reports/metrics.py",
        'Metric(name, name, "Other", "neither", phrase=name)',
        'Metric(name, name, "Other", phrase=name)',
        nodes("reports/test_metrics", "test_unknown_metrics_keep_their_name_and_have_no_better_direction"),
    ),
    Bug(
        "the reward drawn against itself",
        "reports/roles.py",
        "if arm.curves(name) and not _is_rewarded(arm, metric.row_field)]",
        "if arm.curves(name)]",
        nodes("reports/test_figures", "test_the_reward_alone_is_no_judge_of_itself"),
    ),
    Bug(
        "a refusal taken for an outage",
        "ablations/store_faults.py",
        'return "" if any(_passes(part) for part in chain) else _lasting(chain)',
        'return ""',
        nodes("ablations/test_tracking", "test_what_locks_or_fills_a_database_passes"),
    ),
    Bug(
        "margins over other seeds in each combination",
        "reports/factorial.py",
        "seeds = sorted(set.intersection(*({*found} for found in values)))",
        "seeds = sorted({*values[0]})",
        nodes("reports/test_factorial", "test_margins_are_over_the_seeds_that_all_of_their_combinations_have"),
    ),
    Bug(
        "a line that is averaged over what only one level has",
        "reports/factorial.py",
        "if all(rest in found for found in arms.values())]",
        "]",
        nodes("reports/test_factorial", "test_a_line_is_averaged_over_the_other_axes_at_equal_levels"),
    ),
    Bug(
        "more of a loss taken for better samples",
        "reports/samples.py",
        "sign = 1 if sweep.higher_is_better else -1",
        "sign = 1",
        nodes("reports/test_samples", "test_where_less_is_better_more_is_a_regression"),
    ),
    Bug(
        "labels of a forest on their marks",
        "reports/figures.py",
        "(0, row - 0.3),",
        "(0, row - 0.12),",
        nodes("reports/test_figures", "test_on_a_forest_nothing_overlaps_whatever_the_size_and_the_names"),
    ),
    Bug(
        "turns of an episode averaged",
        "reports/export.py",
        '"meaning", "tag", "turn")',
        '"meaning", "tag")',
        nodes("reports/test_export", "test_turns_and_guidance_are_rows_of_their_own"),
    ),
)
