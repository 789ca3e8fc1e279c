"""Mistakes in what a tracking store shows of a sweep."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

MIRROR_BUGS = (
    Bug(
        "the primary measure shown last",
        "ablations/store_views.py",
        '(plan.grid.primary["metric"], *plan.grid.secondary)',
        '(*plan.grid.secondary, plan.grid.primary["metric"])',
        nodes("ablations/test_mlflow_ui", "test_views_fit_into_a_tag_whatever_the_names"),
    ),
    Bug(
        "a view longer than a tag may be",
        "ablations/store_views.py",
        "return both if len(both) <= TAG else",
        "return both if both else",
        nodes("ablations/test_mlflow_ui", "test_views_fit_into_a_tag_whatever_the_names"),
    ),
    Bug(
        "a kind that somebody chose is overwritten",
        "ablations/store_writer.py",
        "if is_kind_open(present.get(KIND)):",
        "if present.get(KIND) != TRAINING:",
        nodes("ablations/test_mlflow_ui", "test_a_kind_that_somebody_chose_stays"),
    ),
    Bug(
        "a store that refuses views gets no cells",
        "ablations/store_writer.py",
        "            if not way_out(error):\n                raise",
        "            if way_out(error):\n                raise",
        nodes("ablations/test_mlflow_ui", "test_a_store_that_refuses_views_has_the_cells_and_a_plain_address"),
    ),
    Bug(
        "a sweep mirrored by a former version gets no views",
        "ablations/tracking.py",
        "published == memory.report and memory.views is not None:",
        "published == memory.report:",
        nodes("ablations/test_mlflow_ui", "test_views_that_are_gone_or_never_were_are_made"),
    ),
    Bug(
        "a deleted experiment written to",
        "ablations/store_writer.py",
        'return str(experiment.experiment_id) if stages == {"active"} else ""',
        'return str(experiment.experiment_id) if stages else ""',
        nodes("ablations/test_tracking", "test_a_deleted_experiment_is_restored_and_written_anew"),
    ),
    Bug(
        "a cell that is there is written again",
        "ablations/trackers/ended.py",
        "if not self._writer.has(cell, signature):",
        "if self._writer:",
        nodes("ablations/test_trackers", "test_cells_are_written_once_and_anew_if_they_are_gone_or_end_otherwise"),
    ),
    Bug(
        "an arm called .. is written elsewhere",
        "ablations/trackers/tensorboard.py",
        'return self.folder / unique / f"s{cell.config.seed}"',
        'return self.folder / cell.arm / f"s{cell.config.seed}"',
        nodes("ablations/test_trackers", "test_names_of_arms_lead_nowhere_else"),
    ),
)
