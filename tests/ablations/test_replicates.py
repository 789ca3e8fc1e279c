"""A/A and matched arms from the grid file to the report's records."""

from __future__ import annotations

import json

import pytest

from ablations.declaration import revisions
from reports import declaration
from reports.analysis import analyse
from reports.collect import read
from reports.records import Contrast, Matched
from tests.ablations.test_plan import write_grid

KEYS = ("replicate: 1", "matched: {measure: drift/velocity_mse, arms: [a, b]}", "seeds: [0, 1]")


@pytest.fixture
def swept(sandbox, tmp_path):
    sandbox.inline(grid=write_grid(tmp_path, *KEYS))
    (folder,) = sandbox.root.glob("sweeps/*")
    return folder


def test_repetitions_and_matched_arms_reach_the_report(swept):
    sweep = read(swept)
    arms = {arm.name: arm for arm in sweep.arms}
    assert {name: arm.repeats for name, arm in arms.items() if arm.repeats} == {"replicate1": "a"}
    assert arms["replicate1"].against is None
    assert [cell.state for cell in arms["replicate1"].cells] == ["done", "done"]
    assert sweep.planned == (Contrast("b", "a", (("b", "a"),)),)
    assert sweep.matched == Matched("drift/velocity_mse", (Contrast("b", "a", (("b", "a"),)),))
    assert [pair.name for pair in analyse(sweep).family("replicates").pairs] == ["replicate1 − a"]


def test_matched_arms_are_declared(swept):
    (revision,) = revisions(swept)
    assert revision["content"]["matched"] == "b − a in drift/velocity_mse"
    assert declaration.before(read(swept))


def test_a_plan_from_before_there_were_such_arms_is_read(swept):
    path = swept / "sweep.json"
    plan = json.loads(path.read_text())
    del plan["matched"]
    for arm in plan["arms"]:
        del arm["repeats"]
    path.write_text(json.dumps(plan))
    sweep = read(swept)
    assert sweep.matched is None
    assert not [arm for arm in sweep.arms if arm.repeats]
