"""What every metric shares, and those that fit any dataset, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.episodes import OVER, said
from unigrpo import registry
from unigrpo.data.prompt import Prompt
from unigrpo.metrics import Diversity, Lengths, Quantity
from unigrpo.metrics.metric import by_tag, merged
from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart


def flat(*levels: float | None, turn: int = 0, given: bool = False) -> ImagePart:
    """An image of one level, or ``OVER``, of each row; what an ended row holds is rubbish."""
    pixels = torch.tensor([9.0 if level is None else level for level in levels])
    return ImagePart(pixels[:, None, None, None].expand(-1, 3, 4, 4), [x is not None for x in levels], given, turn)


def episodes(*parts, count: int = 1) -> DecodedEpisodes:
    """Of one prompt for every ``count`` rows."""
    first = parts[0]
    rows = len(first.pixels if isinstance(first, ImagePart) else first.texts)
    return DecodedEpisodes([Prompt(f"p{row // count}", f"text {row // count}") for row in range(rows)], parts)


def test_means_by_tag_keep_the_order_of_appearance():
    rows = [{"tag": "b", "x": 1}, {"tag": "a", "x": 2}, {"tag": "b", "x": 5}]
    assert list(by_tag(rows, "x").items()) == [("b", 3), ("a", 2)]


@pytest.mark.parametrize("name", sorted(registry.strategies("metric")))
def test_every_metric_says_how_its_values_are_shown(name):
    metric = registry.find("metric", name)()
    assert metric.version >= 1
    assert isinstance(metric.needs, frozenset)
    names = [quantity.name for quantity in metric.quantities]
    assert names
    assert len(set(names)) == len(names)
    assert all(quantity.label for quantity in metric.quantities)
    assert any(quantity.group for quantity in metric.quantities), "what has none has no column"


def test_bounds_are_the_same_under_other_circumstances():
    assert Quantity("a", "a", "A", bounds=(0, 5)).under("guided", "Guided").bounds == (0, 5)


def test_what_is_measured_under_other_circumstances_has_rows_of_their_own_or_none():
    quantity = Quantity("geneval/strict", "strict", "Overall", "higher", True, "strict", "strict score")
    assert quantity.under("retention", "R") == Quantity("retention/geneval/strict", "strict", "R", "higher")
    guided = quantity.under("guided", "Guided", 2.0)
    assert (guided.name, guided.row_field, guided.rows) == ("guided/geneval/strict", "strict", (("guidance", 2.0),))
    assert guided.to_dict()["rows"] == {"guidance": 2.0}
    assert Quantity("a", "a", "A").under("guided", "Guided", 2.0).rows == ()
    assert quantity.to_dict() == {
        "name": "geneval/strict", "label": "strict", "group": "Overall", "better": "higher", "headline": True,
        "row_field": "strict", "phrase": "strict score", "bounds": None, "rows": {},
    }  # fmt: skip


class TestLengths:
    @staticmethod
    def told() -> DecodedEpisodes:
        """Four texts and no image; two texts and one; a text that was cut off."""
        return episodes(
            said(("a request", "stop"), ("a request", "stop"), ("a request", "stop"), given=True),
            flat(0.0, 0.0, 0.0, given=True),
            said(("red circle", "image"), ("red", "image"), ("red red red", "cut")),
            flat(1.0, 0.5, OVER),
            said(("circle", "image"), ("", "stop"), OVER, turn=1),
            flat(0.2, OVER, OVER, turn=1),
        )

    def test_rows_count_what_the_policy_generated(self):
        rows = Lengths()([self.told()], 1).rows
        assert [(row["length"], row["cut"], row["images"]) for row in rows] == [(3 + 2, 0, 2), (2 + 1, 0, 1), (3, 1, 0)]
        assert [row["prompt"] for row in rows] == ["p0", "p1", "p2"]

    def test_values_are_means_over_all_batches(self):
        silent = episodes(said(("", "stop")))
        values = Lengths()([self.told(), silent], 1).values
        assert values == {"text/length": (5 + 3 + 3 + 1) / 4, "text/cut": 1 / 4, "images": 3 / 4}


class TestDiversity:
    def test_it_is_the_mean_distance_of_two_images_of_a_prompt(self):
        found = Diversity()([episodes(flat(0.0, 1.0, 3.0, 5.0, 5.0, 5.0), count=3)], 3)
        assert found.values == {"heldout/diversity": pytest.approx(((1 + 3 + 2) / 3 + 0) / 2, rel=1e-5)}
        assert not found.rows

    def test_it_is_over_all_batches(self):
        batches = [episodes(flat(*levels), count=2) for levels in ((0.0, 1.0), (0.0, 3.0, 2.0, 2.0))]
        assert Diversity()(batches, 2).values == {"heldout/diversity": pytest.approx((1 + 3 + 0) / 3, rel=1e-5)}

    def test_it_looks_at_the_last_image_and_one_that_is_missing_is_blank(self):
        parts = (flat(0.0, 0.5), flat(2.0, OVER, turn=1))
        assert Diversity()([episodes(*parts, count=2)], 2).values["heldout/diversity"] == pytest.approx(1.5, rel=1e-5)
        only = episodes(flat(0.7, OVER), count=2)
        assert Diversity()([only], 2).values["heldout/diversity"] == pytest.approx(0.7, rel=1e-5)

    def test_there_is_none_of_one_image_or_of_none(self):
        assert not Diversity()([episodes(flat(0.0, 1.0))], 1).values
        assert not Diversity()([episodes(said(("red", "stop"), ("red", "stop")), count=2)], 2).values

    def test_it_is_of_any_size(self):
        """A distance over pixels is root mean square: it does not grow with the image."""
        wide = ImagePart(torch.tensor([0.0, 1.0])[:, None, None, None].expand(-1, 3, 8, 16), [True] * 2, False, 0)
        assert Diversity()([episodes(wide, count=2)], 2).values["heldout/diversity"] == pytest.approx(1, rel=1e-5)


def row(prompt: str, image: int, **fields: object) -> dict[str, object]:
    return {"prompt": prompt, "image": image, "tag": "t", **fields}


class TestMerged:
    def test_rows_of_one_episode_become_one(self):
        one = [row("a", 0, x=1), row("a", 1, x=2), row("b", 0, x=3)]
        other = [row("b", 0, y=30), row("a", 0, y=10), row("a", 1, y=20)]
        whole = [row("a", 0, x=1, y=10), row("a", 1, x=2, y=20), row("b", 0, x=3, y=30)]
        assert merged([one, other]) == whole
        assert merged([one, []]) == merged([[], one]) == merged([one]) == one
        assert merged([[], []]) == merged([]) == []

    def test_what_is_said_of_an_episode_goes_to_all_of_its_turns(self):
        turns = [row("a", 0, turn=turn, x=turn) for turn in (1, 2)]
        whole = [row("a", 0, y=5)]
        expected = [row("a", 0, turn=turn, x=turn, y=5) for turn in (1, 2)]
        assert merged([turns, whole]) == merged([whole, turns]) == expected

    def test_turns_of_two_metrics_meet_by_their_number(self):
        one = [row("a", 0, turn=turn, x=turn) for turn in (1, 2)]
        other = [row("a", 0, turn=turn, y=10 * turn) for turn in (2, 3)]
        assert merged([one, other]) == [
            row("a", 0, turn=1, x=1), row("a", 0, turn=2, x=2, y=20), row("a", 0, turn=3, y=30),
        ]  # fmt: skip

    def test_a_turn_keeps_its_own_tag(self):
        """The tag of a turn is that of its own edit, the episode's that of the first."""
        turns = [row("a", 0, turn=1) | {"tag": "add"}, row("a", 0, turn=2) | {"tag": "move"}]
        assert [each["tag"] for each in merged([[row("a", 0, y=1) | {"tag": "add"}], turns])] == ["add", "move"]

    @given(st.lists(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3))), max_size=3))
    def test_nothing_is_lost(self, named):
        """Every field of every row is found in some row of the same episode and turn."""
        metrics = [
            [row(prompt, image, **({"turn": turn} if turn else {}), **{f"m{k}": turn}) for prompt, image, turn in names]
            for k, names in enumerate(named)
        ]
        found = merged(metrics)
        for k, rows in enumerate(metrics):
            for one in rows:
                same = [
                    other
                    for other in found
                    if (other["prompt"], other["image"]) == (one["prompt"], one["image"])
                    and ("turn" not in one or other.get("turn") == one["turn"])
                ]
                assert same
                assert any(other[f"m{k}"] == one[f"m{k}"] for other in same) or "turn" not in one
        keys = [(one["prompt"], one["image"], one.get("turn")) for one in found]
        assert len(set(keys)) == len(keys)


def test_the_shipped_metrics_are_found_by_name():
    assert {"lengths", "diversity", "geneval_mini", "shapes_interleaved", "shapes_edit"} <= set(
        registry.strategies("metric")
    )
