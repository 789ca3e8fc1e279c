"""Mistakes between the trainer and what turns a batch into a loss."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

AWM = "unigrpo/algorithms/awm.py"

ALGORITHM_BUGS = (
    Bug(
        "velocity towards the image",
        AWM,
        "(velocity - (noise - clean.detach())).square()",
        "(velocity - (clean.detach() - noise)).square()",
        nodes("algorithms/test_awm", "test_the_loss_and_its_gradient_by_hand"),
    ),
    Bug(
        "matched velocities masked after the error",
        AWM,
        "(log_likelihood(self._kept(v), clean, self.point, power) for v in (self.new, self.old))",
        "(log_likelihood(v, clean, self.point, power) for v in (self.new, self.old))",
        nodes("algorithms/test_awm", "test_p46_what_ended_rows_hold_leaves_no_trace"),
    ),
    Bug(
        "old policy pulled along",
        AWM,
        "log_ratio = new - old.detach()",
        "log_ratio = new - old",
        nodes("algorithms/test_awm", "test_no_gradient_reaches_the_old_policy_or_the_reference"),
    ),
    Bug(
        "the same points in every update",
        "unigrpo/training/trainer.py",
        '(*config.key, "algorithm", update)',
        '(*config.key, "algorithm")',
        nodes("training/test_algorithms", "test_every_update_has_points_of_its_own"),
    ),
    Bug(
        "what is given learnt",
        "unigrpo/sft.py",
        "segments.append(TextSegment(*_tokens(texts, model.processor.tokenizer), first.given, first.turn))",
        "segments.append(TextSegment(*_tokens(texts, model.processor.tokenizer), False, first.turn))",
        nodes("training/test_sft_dataset", "test_examples_are_what_the_file_says"),
    ),
    Bug(
        "times of fine-tuning moved towards the image",
        "unigrpo/algorithms/sft.py",
        "shifted(torch.randn(len(rows), generator=generator).sigmoid(), self.timestep_shift)",
        "shifted(torch.randn(len(rows), generator=generator).sigmoid(), 1 / self.timestep_shift)",
        nodes("training/test_sft_dataset", "test_times_are_moved_towards_noise"),
    ),
    Bug(
        "what an algorithm does not read chosen in vain",
        "unigrpo/algorithms/algorithm.py",
        "return LOSS_KEYS - self.reads",
        "return frozenset()",
        nodes("training/test_algorithms", "test_what_an_algorithm_does_not_read_is_refused"),
    ),
)
