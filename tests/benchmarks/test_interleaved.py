"""InterleavedBench's items, and answers in turn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.answers import Answer, Block, read_answers, write_answers
from benchmarks.interleaved.interleavedbench import Item, read_items, write_items

TEXTS = st.none() | st.text(max_size=8)
BLOCKS = st.lists(st.builds(Block, TEXTS, TEXTS), max_size=5).map(tuple)

ITEM = {
    "id": "wikihow_0",
    "image": ["set/0.png", "set/1.png", "set/2.png"],
    "task_name": "wikihow_next_step",
    "conversations": [{"from": "human", "value": "Do: <image> first. <image>Then?"}, {"from": "gpt", "value": "x"}],
    "goal": "cook",
    "category": ["food"],
}


def test_items_round_trip(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([ITEM]))
    items = read_items(path)
    assert items[0].more == {"goal": "cook", "category": ["food"]}
    write_items(tmp_path / "again.json", items)
    assert json.loads((tmp_path / "again.json").read_text()) == [ITEM]


def test_placeholders_take_the_first_pictures(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([ITEM]))
    (item,) = read_items(path)
    assert item.prompt == (Block("Do:", "set/0.png"), Block("first.", "set/1.png"), Block("Then?", None))
    assert item.reference_images == ("set/2.png",)


def test_a_prompt_may_be_free_of_pictures():
    item = Item("a", "story", ("0.png",), ({"value": "Tell a story."},))
    assert item.prompt == (Block("Tell a story."),)
    assert item.reference_images == ("0.png",)


def test_pictures_that_are_missing_are_named():
    with pytest.raises(ValueError, match="a: expected 1 pictures in the prompt, got 0"):
        _ = Item("a", "story", (), ({"value": "<image>"},)).prompt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, r"bench.json\[0\]: id: expected str, got 3"),
        ({"conversations": []}, "conversations: expected a first turn with a text"),
        ({"image": "a.png"}, "image: expected list, got 'a.png'"),
    ],
)
def test_a_malformed_item_is_named(tmp_path, change, message):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([ITEM | change]))
    with pytest.raises(ValueError, match=message):
        read_items(path)


@given(st.lists(st.builds(Answer, st.text(), BLOCKS), unique_by=lambda answer: answer.id))
def test_files_round_trip(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("answers") / "answers.json"
    write_answers(path, answers)
    assert list(read_answers(path)) == answers


def test_an_id_comes_once(tmp_path):
    write_answers(tmp_path / "answers.json", [Answer("a", ()), Answer("b", ()), Answer("a", (Block("other"),))])
    message = r"answers.json\[2\]: id: expected one answer per id, got 'a' again, first at .*answers.json\[0\]"
    with pytest.raises(ValueError, match=message):
        list(read_answers(tmp_path / "answers.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "a JSON list, got dict"), ("[", "not JSON"), ("[3]", r"answers.json\[0\]: expected a JSON object, got 3")],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_answers(tmp_path / "answers.json"))
