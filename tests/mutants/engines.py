"""Bugs of engines: a minibatch in parts that is not the whole one."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

MICRO, TRAINER = "unigrpo/training/micro.py", "unigrpo/training/trainer.py"
PARTS = nodes("training/test_engines", "test_a_minibatch_in_parts_has_the_gradients_of_the_whole")

ENGINE_BUGS = (
    Bug("parts of a minibatch weigh as much as the whole", MICRO, "if text == image == 1:", "if True:", PARTS),
    Bug("parts of a group have the draws of its first members", TRAINER, ", first=part.member)", ")", PARTS),
    Bug(
        "some denoising steps weigh as much as all",
        MICRO,
        "image=both.image * part)",
        "image=both.image)",
        nodes("training/test_engines", "test_denoising_steps_one_at_a_time_have_the_gradients_of_all"),
    ),
    Bug(
        "parts are trained against the log-probabilities of sampling",
        TRAINER,
        "replace(part.trajectory, scores=old(part.trajectory))",
        "part.trajectory",
        nodes("training/test_engines", "test_what_sampling_and_training_differ_by_is_logged"),
    ),
)
