"""Mistakes between a file of prompts and what is said of their episodes."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

DATASET, METRIC = "unigrpo/data/dataset.py", "unigrpo/metrics/metric.py"

DATA_BUGS = (
    Bug(
        "a prompt in two splits passed over",
        DATASET,
        "for one, other in itertools.combinations(splits, 2):",
        "for one, other in itertools.pairwise(splits):",
        nodes("data/test_datasets", "test_a_prompt_in_two_splits_is_refused"),
    ),
    Bug(
        "a dataset's digest without its images",
        DATASET,
        "[image.digest() for image in prompt.images]",
        "len(prompt.images)",
        ("tests/data/test_datasets.py::TestDigest",),
    ),
    Bug(
        "spellings of one prompt in two splits",
        DATASET,
        '" ".join(unicodedata.normalize("NFKC", text).casefold().split())',
        '" ".join(text.split())',
        ("tests/data/test_datasets.py::TestTextFile",),
    ),
    Bug(
        "of two equal fields the last",
        "unigrpo/data/jsonl.py",
        "if len(found) < len(pairs):",
        "if len(found) > len(pairs):",
        ("tests/data/test_datasets.py::TestJsonl",),
    ),
    Bug(
        "merged rows drop the turn",
        METRIC,
        'turns[row.get("turn", 0)] = turns.get(row.get("turn", 0), {}) | row',
        "turns[0] = turns.get(0, {}) | row",
        ("tests/metrics/test_metrics.py::TestMerged",),
    ),
    Bug(
        "an episode's tag instead of its turn's",
        METRIC,
        "[episode | row for turn, row",
        "[row | episode for turn, row",
        ("tests/metrics/test_metrics.py::TestMerged",),
    ),
    Bug(
        "a rollout measured by its first batch",
        "unigrpo/training/advantages.py",
        "rows = metric(episodes, group_size).rows",
        "rows = metric(episodes[:1], group_size).rows",
        nodes(
            "training/test_advantages",
            "test_what_is_measured_of_a_rollout_are_means_over_the_rows_of_all_its_batches",
        ),
    ),
    Bug(
        "halves of what is held out that overlap",
        "unigrpo/worlds/shapes/edit_prompts.py",
        '{0: "test", 4: "validation"}.get(digest[0] % 8, "train") == split',
        '(digest[0] % 4 == 0) == (split != "train")',
        nodes("worlds/test_edit_prompts", "test_two_splits_share_no_edit_of_the_same_objects_at_any_turn"),
    ),
    Bug(
        "a rollout bounded by all tags together",
        DATASET,
        "if wanted > tags * fewest:",
        "if wanted > sum(map(len, prompts.values())):",
        nodes("data/test_datasets", "test_a_rollout_larger_than_the_rarest_tag_allows_is_said_before_anything_starts"),
    ),
)
