"""Mistakes in what the benchmarks read and count."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

READER_BUGS = (
    Bug(
        "a prompt without a picture leaves the mean",
        "benchmarks/geneval/files.py",
        '    if missing == "error":\n',
        '    if missing != "error":\n',
        nodes("benchmarks/test_geneval_folder", "test_what_is_not_as_asked_is_named_and_nothing_is_written"),
    ),
    Bug(
        "checksums of a picture unread",
        "benchmarks/pictures.py",
        "        image.verify()",
        "        image.load()",
        nodes("benchmarks/test_pictures", "test_a_flipped_bit_is_noticed"),
    ),
)
