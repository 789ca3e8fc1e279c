"""Numbers as they are printed."""

import itertools

import pytest

from reports.metrics import METRICS, digits, metric, number, opening, p_value, phrase, row_field


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


def test_unknown_metrics_keep_their_name():
    assert metric("my/score").label == "my/score"
    assert phrase("my/score") == "my/score"
    assert phrase("heldout/distance_to_clean") == "distance to clean pictures (lower is cleaner)"
    assert metric("geneval/official/counting").full_label == "Official, by task: counting"


def test_names_keep_their_capitals():
    assert opening(phrase("editing/O")) == "Editing score O"
    assert phrase("editing/turn/3/O") == "turn 3 (editing O by turn)"
    assert opening("") == ""


@pytest.mark.parametrize(
    ("name", "field"),
    [("geneval/strict", "strict"), ("interleaved/mean", "mean"), ("editing/O", "O"), ("plain", "plain")],
)
def test_the_field_behind_a_metric(name, field):
    assert row_field(name) == field


def test_metrics_are_named_once_and_groups_lie_together():
    names = [m.name for m in METRICS]
    assert len(names) == len(set(names))
    groups = [group for group, _ in itertools.groupby(m.group for m in METRICS)]
    assert len(groups) == len(set(groups))
