"""What a grid with axes compares with what."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ablations.contrasts import contrasts, partners
from tests.ablations.test_plan import plan_of


@dataclass(frozen=True)
class Point:
    stem: str
    factors: Mapping[str, str]

    @property
    def name(self):
        return f"{self.stem}@{','.join(self.factors.values())}" if self.factors else self.stem


def crossed(stem, **axes):
    return [Point(stem, dict(zip(axes, row, strict=True))) for row in itertools.product(*axes.values())]


def couples(points, baseline="a", planned=("b", "c")):
    return {(each.arm, each.other): each.couples for each in contrasts(points, baseline, planned)}


def test_without_axes_arms_are_compared_with_the_baseline():
    assert couples([Point("a", {}), Point("b", {}), Point("c", {})]) == {
        ("b", "a"): (("b", "a"),),
        ("c", "a"): (("c", "a"),),
    }


def test_an_axis_of_both_makes_one_main_effect_at_equal_levels():
    """And not one comparison of each cell with a single baseline, which would confound the two factors."""
    points = crossed("a", d=["d=1", "d=2"]) + crossed("b", d=["d=1", "d=2"])
    assert couples(points) == {("b", "a"): (("b@d=1", "a@d=1"), ("b@d=2", "a@d=2"))}


def test_an_axis_of_the_planned_arm_alone_makes_a_comparison_of_each_level():
    points = [Point("a", {}), *crossed("b", w=["w=1", "w=2"])]
    assert couples(points) == {("b@w=1", "a"): (("b@w=1", "a"),), ("b@w=2", "a"): (("b@w=2", "a"),)}


def test_of_an_axis_of_the_baseline_alone_the_first_level_counts():
    points = [*crossed("a", w=["w=1", "w=2"]), Point("b", {})]
    assert couples(points) == {("b", "a@w=1"): (("b", "a@w=1"),)}


def test_own_and_shared_axes_together():
    points = crossed("a", d=["d=1", "d=2"]) + crossed("b", d=["d=1", "d=2"], w=["w=1", "w=2"])
    assert couples(points) == {
        ("b@w=1", "a"): (("b@d=1,w=1", "a@d=1"), ("b@d=2,w=1", "a@d=2")),
        ("b@w=2", "a"): (("b@d=1,w=2", "a@d=1"), ("b@d=2,w=2", "a@d=2")),
    }


def test_a_level_at_which_the_baseline_cannot_run_is_left_out():
    points = [*crossed("a", d=["d=1"]), *crossed("b", d=["d=1", "d=2"])]
    assert couples(points) == {("b@d=1", "a@d=1"): (("b@d=1", "a@d=1"),)}


def test_of_a_grid_of_one_arm_the_axes_are_the_question():
    points = crossed("a", d=["d=1", "d=2"], e=["e=1", "e=2", "e=3"])
    found = couples(points, planned=())
    assert [*found] == [("d=2", "d=1"), ("e=2", "e=1"), ("e=3", "e=1")]
    assert found["d=2", "d=1"] == tuple((f"a@d=2,e={k}", f"a@d=1,e={k}") for k in (1, 2, 3))


def test_arms_are_held_against_the_baseline_at_their_levels():
    points = crossed("a", d=["d=1", "d=2"], e=["e=1", "e=2"]) + crossed("b", d=["d=1", "d=2"], e=["e=1", "e=2"])
    found = partners(points, "a")
    assert all(found[p.name] == Point("a", p.factors).name for p in points if p.stem == "b")
    assert {name: of for name, of in found.items() if name.startswith("a")} == {
        "a@d=1,e=2": "a@d=1,e=1",
        "a@d=2,e=1": "a@d=1,e=1",
    }


axis = st.dictionaries(st.sampled_from("xyz"), st.lists(st.sampled_from("123"), min_size=1, unique=True), max_size=3)


@given(axis, axis, st.data())
def test_the_arms_of_a_couple_differ_in_no_axis_that_both_have(mine, theirs, data):
    points = crossed("a", **theirs) + crossed("b", **mine)
    kept = data.draw(st.lists(st.sampled_from(points), min_size=1, unique_by=id))
    by_name = {point.name: point for point in kept}
    for each in contrasts(kept, "a", ["b"]):
        for one, two in each.couples:
            arm, other = by_name[one].factors, by_name[two].factors
            shared = arm.keys() & other.keys()
            if by_name[one].stem != by_name[two].stem:
                assert all(arm[key] == other[key] for key in shared)
            else:
                assert sum(arm[key] != other[key] for key in shared) == 1
        assert len(set(each.couples)) == len(each.couples)


def test_the_readmes_own_grid_is_not_confounded():
    plan = plan_of("dynamics=flow_sde,dance_sde")
    (main,) = plan.comparisons
    assert main.couples == tuple(
        (f"velocity_mse@dynamics={d}", f"latent_kl@dynamics={d}") for d in ("flow_sde", "dance_sde")
    )
    assert plan.partners["none@dynamics=dance_sde"] == "latent_kl@dynamics=dance_sde"
