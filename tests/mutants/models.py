"""Mistakes of a model, and of what checks and keeps one."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

POLICY = "unigrpo/models/mot/policy.py"
CONTEXT = "unigrpo/models/mot/context.py"
CHECKS = "unigrpo/models/conformance/context.py"
WEIGHTS = "unigrpo/models/weights.py"
CONFORMANCE = nodes("models/test_conformance", "test_the_shipped_architecture_conforms")
BROKEN = nodes("models/test_conformance", "test_what_is_broken_is_named_and_why_it_matters")
SHARED = nodes("training/test_state", "test_what_names_share_is_kept_once_and_restored_to_each")

MODEL_BUGS = (
    Bug(
        "two contexts fill the same place of their memory",
        CONTEXT,
        "return self.filled == length <",
        "return length <",
        nodes("models/test_context", "test_two_that_go_on_from_one_context_do_not_disturb_each_other"),
    ),
    Bug(
        "all keys are copied at every token",
        CONTEXT,
        "if tokens == 1 and not torch.is_grad_enabled():",
        "if tokens == 0:",
        nodes("models/test_context", "test_tokens_that_come_one_by_one_are_appended_in_place"),
    ),
    Bug(
        "rows that go on sample with the draws of others",
        "unigrpo/rollout/rollout.py",
        "uniform[rows, k]",
        "uniform[: len(rows), k]",
        nodes("rollout/test_rollout", "test_finished_rows_are_left_out_and_the_others_go_on_as_they_would"),
    ),
    Bug(
        "a text sees what comes later in its block",
        POLICY,
        "causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()",
        "causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device)",
        CONFORMANCE,
    ),
    Bug(
        "positions count padded places",
        POLICY,
        "context.position + order[:, -1])",
        "context.position + length)",
        CONFORMANCE,
    ),
    Bug(
        "features read by episodes that are over",
        POLICY,
        "alive[:, None].expand(-1, tokens.shape[1])",
        "alive[:, None].expand(-1, tokens.shape[1]) | True",
        nodes("models/test_understanding", "test_they_are_read_where_the_picture_was_made_and_nowhere_else"),
    ),
    Bug(
        "a row compared with itself in the batch",
        CHECKS,
        "probe.answers(alone, rows=one), strict=True",
        "probe.answers(its, rows=one), strict=True",
        BROKEN,
    ),
    Bug(
        "a row without features compared with itself",
        CHECKS,
        '("without the image", seen, image)',
        '("without the image", seen, seen)',
        nodes("models/test_conformance", "test_features_that_are_read_wrongly_are_found"),
    ),
    Bug(
        "a block compared with itself",
        CHECKS,
        "one, context = policy.extend_text(context, probe.tokens[:, k : k + 1], probe.mask[:, k : k + 1])",
        "one, context = logits[:, k : k + 1], whole",
        BROKEN,
    ),
    Bug(
        "other names of shared weights forgotten",
        WEIGHTS,
        "return save(apart, shared or None)",
        "return save(apart)",
        SHARED,
    ),
    Bug(
        "shared weights written under each name",
        WEIGHTS,
        "if tensor.numel() and place in first:",
        "if place in {}:",
        SHARED,
    ),
    Bug(
        "special tokens in the texts of rewards",
        "unigrpo/models/tokenizer.py",
        "skip_special_tokens=True",
        "skip_special_tokens=False",
        nodes("models/test_tokenizer", "TestOthers"),
    ),
)
