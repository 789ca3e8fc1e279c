import ast

import pytest

from tests.mutants.bug import ROOT
from tests.mutants.bugs import BUGS


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_seeded_bug_can_be_seeded(bug):
    assert bug.occurrences() == 1
    mutated = (ROOT / bug.file).read_text().replace(bug.old, bug.new)
    ast.parse(mutated)
    for node in bug.tests:
        file, _, name = node.partition("[")[0].partition("::")
        assert any(f"{kind} {name}" in (ROOT / file).read_text() for kind in ("def", "class"))


def test_the_list_is_long_enough_and_without_repetition():
    assert len({bug.name for bug in BUGS}) == len({(bug.file, bug.old, bug.new) for bug in BUGS}) == len(BUGS) >= 15
