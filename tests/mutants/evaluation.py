"""Mistakes in what a score says of other prompts, and of how much of its spread is noise."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

EVALUATION_BUGS = (
    Bug(
        "paraphrases counted as prompts of their own",
        "reports/cells.py",
        'return str(row.get("meaning") or row["prompt"])',
        'return str(row["prompt"])',
        nodes("reports/test_noise", "test_prompts_are_counted_by_meaning"),
    ),
    Bug(
        "what seeds and meanings share is counted twice",
        "reports/statistics/prompts.py",
        "max(parts.seeds + parts.meanings - parts.residual, min(parts.seeds, parts.meanings))",
        "parts.seeds + parts.meanings",
        nodes("reports/test_prompts", "test_both_at_once_by_hand"),
    ),
    Bug(
        "degrees of freedom as if all tags varied alike",
        "reports/statistics/prompts.py",
        "return total**2 / float((variances**2 / degrees).sum()) if total > 0",
        "return float(degrees.sum()) if total > 0",
        nodes("reports/test_prompts", "test_meanings_within_tags_by_hand"),
    ),
    Bug(
        "noise that all seeds share counted as spread of them",
        "reports/statistics/variance.py",
        "interaction = table - by_prompt[:, :, None] - by_image + by_image.mean(axis=1)[:, None]",
        "interaction = table - by_prompt[:, :, None]",
        nodes("reports/test_variance", "test_noise_that_all_seeds_share_spreads_none_of_them"),
    ),
    Bug(
        "noise of one image taken for that of their mean",
        "reports/statistics/variance.py",
        "((n - 1) * (k - 1)) / k",
        "((n - 1) * (k - 1))",
        nodes("reports/test_variance", "test_the_parts_by_hand"),
    ),
    Bug(
        "rows of all turns taken for those of one",
        "reports/metrics.py",
        'return tuple({"guidance": 1, **dict(self.rows)}.items())',
        'return (("guidance", 1),)',
        nodes("reports/test_metrics", "test_a_row_belongs_to_a_measure_by_its_guidance_and_by_what_the_measure_names"),
    ),
    Bug(
        "drift measured on the first prompts",
        "unigrpo/training/evaluation.py",
        "[self.prompts[i * there // taken] for i in range(taken)]",
        "self.prompts[:: max(1, there // rows)][:rows]",
        nodes("training/test_evaluation", "test_drift_is_measured_on_all_tags_alike"),
    ),
)
