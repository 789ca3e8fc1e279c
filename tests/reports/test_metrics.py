"""Numbers as they are printed."""

import dataclasses

import pytest

from reports.metrics import Metric, Schema, capitalize_first, digits, number, p_value
from tests.reports.families import EDITING, PICTURES

PICTURE, EDIT = (
    Schema.union([[Metric.of(quantity.to_dict()) for quantity in family.schema]]) for family in (PICTURES, EDITING)
)


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (0.12345, 3, False, "0.123"),
        (-0.12345, 3, True, "−0.123"),
        (0.5, 3, True, "+0.500"),
        (-0.0001, 3, True, "0.000"),
        (46080.0, 0, False, "46\u2009080"),
        (0.00012, None, False, "1.2e−04"),
        (None, 3, False, "–"),
    ],
)
def test_number(value, decimals, signed, text):
    assert number(value, decimals, signed=signed) == text


@pytest.mark.parametrize(
    ("values", "decimals"),
    [([0.5, 1.0], 3), ([0.0], 3), ([0.04, 0.01], 4), ([], 3), ([12.0], 1), ([500.0], 0), ([1e-4, 2e-4], None)],
)
def test_digits(values, decimals):
    assert digits(values) == decimals


@pytest.mark.parametrize(
    ("p", "text"), [(1e-6, "< 0.0001"), (0.00195, "0.0019"), (0.03125, "0.031"), (0.0625, "0.062"), (0.25, "0.25")]
)
def test_p_value(p, text):
    assert p_value(p) == text


def test_unknown_metrics_keep_their_name_and_have_no_better_direction():
    found = PICTURE.metric("my/score")
    assert (found.label, found.group, found.better) == ("my/score", "Other", "neither")
    assert (PICTURE.metric_phrase("my/score"), PICTURE.row_field("my/score")) == ("my/score", "")


def test_a_metric_in_words():
    assert PICTURE.metric_phrase("heldout/distance_to_clean") == "distance to clean pictures (lower is cleaner)"
    assert PICTURE.metric("geneval/strict/counting").full_label == "Strict, by task: counting"
    assert EDIT.metric_phrase("editing/turn/3/O") == "turn 3 (editing O by turn)"
    assert PICTURE.metric("cost/nfe_rollout").full_label == "Cost: NFE rollout"


def test_a_metric_without_a_group_has_a_label_and_no_column():
    entry = PICTURE.metric("geneval/official/counting")
    assert (entry.full_label, entry.in_words) == ("official, counting", "official, counting")
    assert entry not in PICTURE.columns


def test_names_keep_their_capitals():
    assert capitalize_first(EDIT.metric_phrase("editing/O")) == "Editing score O"
    assert capitalize_first("") == ""


def test_of_two_descriptions_of_one_name_the_first_counts_and_the_name_is_kept():
    first, other = Metric("a", "one", "G"), Metric("a", "another", "G", "lower")
    schema = Schema.union([[first], [first], [other, Metric("b", "b", "G")]])
    assert (schema.metric("a"), schema.conflicts, [*schema.entries]) == (first, ("a",), ["a", "b"])


def test_groups_lie_together_in_the_order_in_which_they_first_come():
    schema = Schema.union(
        [[Metric("a", "a", "X"), Metric("b", "b", "Y"), Metric("c", "c", "X")], [Metric("d", "d", "Y")]]
    )
    assert [*schema.entries] == ["a", "c", "b", "d"]


WHOLE = dataclasses.asdict(Metric("a", "b", "c")) | {"rows": {}}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "a name and a label in every entry, got {}"),
        (WHOLE | {"label": ""}, "a name and a label"),
        (WHOLE | {"group": None}, "expected texts"),
        (WHOLE | {"better": "up"}, "a: expected better: higher | lower | neither"),
        (WHOLE | {"headline": 1}, "headline: true or false"),
        (WHOLE | {"bounds": [0]}, r"a: expected bounds: null or two ascending numbers, got \[0\]"),
        (WHOLE | {"bounds": [1, 1]}, "expected bounds"),
        (WHOLE | {"bounds": [0, "1"]}, "expected bounds"),
        (WHOLE | {"bounds": 1}, "expected bounds"),
        (WHOLE | {"rows": ["turn", 3]}, r"a: expected rows: an object of texts and numbers, got \['turn', 3\]"),
        (WHOLE | {"rows": {"turn": None}}, "expected rows"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(entry, said):
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        Metric.of(entry)


def test_keys_for_others_are_passed_over():
    assert Metric.of(WHOLE | {"digits": 3}) == Metric("a", "b", "c")


def test_a_row_belongs_to_a_measure_by_its_guidance_and_by_what_the_measure_names():
    """Rows of older runs name no guidance: they are of guidance 1."""
    third = Metric.of(WHOLE | {"rows": {"turn": 3}})
    assert [third.is_over({"turn": turn, "guidance": g}) for turn, g in ((3, 1.0), (2, 1.0), (3, 2.0))] == [1, 0, 0]
    assert third.is_over({"turn": 3})
    guided = Metric.of(WHOLE | {"rows": {"guidance": 2.0}})
    assert [guided.is_over(row) for row in ({"guidance": 2.0}, {"guidance": 1.0}, {})] == [1, 0, 0]


def test_bounds_are_read_and_may_be_left_out_as_older_runs_do():
    assert Metric.of(WHOLE | {"bounds": [0, 5]}).bounds == (0, 5)
    assert Metric.of({key: value for key, value in WHOLE.items() if key != "bounds"}).bounds is None
