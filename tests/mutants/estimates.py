"""Mistakes of what counts a run's memory before it is loaded."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

LIVE = "unigrpo/training/estimate/live.py"
NEEDS = "unigrpo/training/estimate/needs.py"
UPDATE = nodes("training/test_estimate", "test_memory_and_velocities_are_those_of_an_update")
PARTS = nodes("training/test_estimate", "test_parts_are_sums_over_parameters_and_texts_have_all_their_tokens")

ESTIMATE_BUGS = (
    Bug(
        "what is freed stays counted",
        LIVE,
        "self.now -= size",
        "self.now -= 0",
        nodes("training/test_live_bytes", "test_what_is_freed_no_longer_counts_and_the_peak_stays"),
    ),
    Bug(
        "a view counts again",
        LIVE,
        "key, size = id(storage), storage.nbytes()",
        "key, size = id(tensor), storage.nbytes()",
        nodes("training/test_live_bytes", "test_a_view_is_its_storage_and_counts_once"),
    ),
    Bug(
        "weights that two modules share are made twice",
        "unigrpo/training/estimate/weightless.py",
        "if id(tensor) not in made:",
        "if True:",
        nodes("training/test_live_bytes", "test_shared_weights_stay_shared"),
    ),
    Bug(
        "tied weights of a text encoder count twice",
        "unigrpo/models/pipelines/outline.py",
        "module.tie_weights()",
        "module.eval()",
        nodes("training/test_estimate", "test_no_weights_of_a_pipeline_are_read"),
    ),
    Bug(
        "an update without the optimiser's states",
        NEEDS,
        "        self.optimizer.step()\n",
        "",
        PARTS,
    ),
    Bug(
        "contexts that no rollout holds",
        NEEDS,
        "self.contexts, self._last = self.live.now, None",
        "self.contexts = self.live.now",
        PARTS,
    ),
    Bug(
        "passes over a rollout count once",
        NEEDS,
        "passes = self.config.rollout.epochs",
        "passes = 1",
        UPDATE,
    ),
    Bug(
        "BAGEL's weights read for an outline",
        "unigrpo/models/bagel/__init__.py",
        'self._load(device, None, torch.device("meta"))',
        "self._load(device, None, device)",
        nodes("models/bagel/test_checkpoint", "test_an_outline_is_all_of_it_without_a_weight"),
    ),
)
