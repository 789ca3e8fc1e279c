"""Mistakes in reading what is scored outside of training."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

BENCHMARK_BUGS = (
    Bug(
        "a prompt without pictures leaves the mean",
        "benchmarks/geneval/files.py",
        "if len(samples.pngs) < most",
        "if 0 < len(samples.pngs) < most",
        nodes("benchmarks/test_geneval", "test_pictures_that_are_not_there_are_named_or_wrong"),
    ),
    Bug(
        "a record that comes twice counts twice",
        "benchmarks/records.py",
        "        if key in seen:",
        "        if False:",
        nodes("benchmarks/test_records", "test_an_entry_that_comes_twice_is_refused"),
    ),
    Bug(
        "checksums of pictures are not looked at",
        "benchmarks/pictures.py",
        "image.verify()",
        "image.load()",
        nodes("benchmarks/test_pictures", "test_pictures_of_no_one_meaning_are_refused_by_name"),
    ),
)
