from __future__ import annotations

import collections
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import plans, prompts
from unigrpo.worlds import Shapes
from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES
from unigrpo.worlds.shapes.prompts import OFFICIAL_COUNTS, RELATIONS, TASKS, Prompt, by_task, select
from unigrpo.worlds.shapes.thinking import Planned, parse_thinking, write_thinking
from unigrpo.worlds.shapes.warmup_episodes import QUESTION

WORLD = Shapes()


def words(texts) -> set[str]:
    return {word for text in texts for word in text.split()}


def meaning(prompt: Prompt) -> object:
    """What a prompt means, read off its metadata: 'A left of B' is 'B right of A', 'A and B' is 'B and A'."""
    objects = [(one["class"], one["count"], one.get("color")) for one in prompt.include]
    if prompt.tag != "position":
        return frozenset(objects)
    reference, subject = (one["class"] for one in prompt.include)
    relation = prompt.include[1]["position"][0]
    return min((subject, relation, reference), (reference, RELATIONS[relation], subject))


def test_train_and_test_share_no_text():
    train, test = ([prompt.prompt for prompt in WORLD.prompts(split)] for split in ("train", "test"))
    assert not set(train) & set(test)
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_enough_prompts_and_shares_no_meaning(task):
    train, test = by_task("train")[task], by_task("test")[task]
    assert len(train) > len(test) >= 100 or (task == "single_object" and len(train) > len(test) == 100)
    shared = {meaning(prompt) for prompt in train} & {meaning(prompt) for prompt in test}
    assert len(shared) == (len(SHAPES) if task == "single_object" else 0)
    meanings = {meaning(prompt) for prompt in train} | {meaning(prompt) for prompt in test}
    if task != "single_object":
        held_out = len({meaning(prompt) for prompt in test}) / len(meanings)
        assert 0.2 <= held_out <= 0.3


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_splits_hold_every_shape_colour_count_and_relation(split):
    clauses = [one for prompt in WORLD.prompts(split) for one in prompt.include]
    for task in TASKS:
        shapes = {one["class"] for prompt in by_task(split)[task] for one in prompt.include}
        # four test meanings of counting cannot hold five shapes
        assert len(shapes) >= len(SHAPES) - (task == "counting" and split == "test")
    assert {one["color"] for one in clauses if "color" in one} == set(COLOURS)
    assert {one["position"][0] for one in clauses if "position" in one} == set(RELATIONS)
    assert {one["count"] for one in clauses} == {1, 2, 3, 4}


def test_every_test_word_is_learnt_in_training_and_texts_are_short():
    train, test = (words(prompt.prompt for prompt in WORLD.prompts(split)) for split in ("train", "test"))
    assert test <= train
    assert max(len(prompt.prompt.split()) for split in ("train", "test") for prompt in WORLD.prompts(split)) <= 14


def test_the_vocabulary_is_the_words_of_prompts_and_texts():
    vocabulary = WORLD.vocabulary()
    assert vocabulary == sorted(set(vocabulary))
    spoken = words(prompt.prompt for prompt in WORLD.prompts("train"))
    planned = words([*PLACES, *COLOURS, *SHAPES, "some", "shape", "."])
    told = words(story.prompt for story in WORLD.prompts("train", "stories"))
    edited = words(text for prompt in WORLD.prompts("train", "edits") for text in prompt.instructions)
    reflected = {"see", "fine", "wrong"}
    assert set(vocabulary) == spoken | planned | told | edited | reflected | words([QUESTION])
    assert len(vocabulary) < 70


@given(prompts())
def test_the_text_says_what_the_metadata_asks(prompt):
    said = prompt.prompt.split()
    for one in prompt.include:
        assert one["class"] in said or any(word.startswith(one["class"]) for word in said)
        assert "color" not in one or one["color"] in said
    if prompt.tag == "position":
        reference, subject = prompt.include
        assert reference.keys() == {"class", "count"}
        relation, index = subject["position"]
        assert index == 0
        assert f"{subject['class']} {relation} " in prompt.prompt
        assert said.index(subject["class"]) < said.index(reference["class"])
    if prompt.tag == "counting":
        (one,) = prompt.include
        assert prompt.exclude == ({"class": one["class"], "count": one["count"] + 1},)
        assert {2: "two", 3: "three", 4: "four"}[one["count"]] in said
    else:
        assert prompt.exclude == ()


@given(prompts())
def test_metadata_round_trip(prompt):
    line = prompt.to_json()
    assert Prompt.from_json(line) == prompt
    assert ("exclude" in json.loads(line)) == (prompt.tag == "counting")
    assert hash(Prompt.from_json(line)) == hash(prompt)


def test_an_official_line_is_read():
    line = (
        '{"tag": "position", "include": [{"class": "bench", "count": 1}, {"class": "dog", "count": 1, '
        '"position": ["right of", 0]}], "prompt": "a photo of a dog right of a bench"}'
    )
    prompt = Prompt.from_json(line)
    assert prompt.include[1]["position"] == ["right of", 0]
    assert json.loads(prompt.to_json()) == json.loads(line)


@pytest.mark.parametrize("line", ["[]", "{}", "not json", '{"tag": "x", "include": []}'])
def test_a_malformed_line_is_refused(line):
    with pytest.raises(ValueError, match=r"[Ee]xpect"):
        Prompt.from_json(line)


def test_keys_are_unique_and_stable():
    keys = [prompt.key for split in ("train", "test") for prompt in WORLD.prompts(split)]
    assert len(set(keys)) == len(keys)
    assert Prompt("colors", (), (), "a red circle").key == "colors-99575e45"


def test_the_official_proportions_can_be_chosen_and_are_spread_over_meanings():
    chosen = WORLD.select_prompts("test", tuple(OFFICIAL_COUNTS.values()))
    assert dict(collections.Counter(prompt.tag for prompt in chosen)) == OFFICIAL_COUNTS
    assert chosen == select("test", (80, 99, 80, 94, 100, 100))
    for task in TASKS:
        every = collections.Counter(repr(prompt.include) for prompt in by_task("test")[task])
        used = collections.Counter(repr(prompt.include) for prompt in chosen if prompt.tag == task)
        assert max(used.values()) - min(used[each] for each in every) <= 1
    assert list(WORLD.prompts_by_task("test")) == list(TASKS)


@pytest.mark.parametrize("counts", [(1, 2), (1, 1, 1, 1, 1, 10**6), (-1, 0, 0, 0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        select("test", counts)


@pytest.mark.parametrize("family", ["images", "stories", "edits"])
def test_an_unknown_split_is_refused(family):
    with pytest.raises(ValueError, match="'train' or 'test'"):
        WORLD.prompts("validation", family)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="'stories' or 'edits', got 'songs'"):
        WORLD.prompts("test", "songs")


@pytest.mark.parametrize(("family", "tasks"), [("images", 6), ("stories", 2), ("edits", 6)])
def test_every_family_is_chosen_from_by_task(family, tasks):
    by_task = WORLD.prompts_by_task("test", family)
    assert len(by_task) == tasks
    counts = range(1, tasks + 1)
    chosen = WORLD.select_prompts("test", counts, family)
    assert collections.Counter(prompt.tag for prompt in chosen) == dict(zip(by_task, counts, strict=True))
    assert all(prompt in by_task[prompt.tag] for prompt in chosen)
    assert WORLD.prompts("test", family) == [prompt for prompts in by_task.values() for prompt in prompts]
    with pytest.raises(ValueError, match=f"expected {tasks} counts"):
        WORLD.select_prompts("test", (1,), family)


@given(plans())
def test_thinking_round_trip_in_reading_order(plan):
    text = write_thinking(plan)
    parsed = parse_thinking(text)
    assert parsed is not None
    assert sorted(parsed, key=repr) == sorted(plan, key=repr)
    assert [planned.place for planned in parsed] == [place for place in PLACES if place in {p.place for p in plan}]
    assert write_thinking(parsed) == text
    assert set(text.split()) <= set(WORLD.vocabulary())


@given(st.lists(st.sampled_from(WORLD.vocabulary()), max_size=24).map(" ".join) | st.text())
def test_the_parser_never_raises_and_accepts_only_what_can_be_written(text):
    plan = parse_thinking(text)
    assert plan is None or sorted(write_thinking(plan).split()) == sorted(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "top left red circle",
        "top left red circle . top left blue square .",
        "left top red circle .",
        "top left red circles .",
        "top left circle red .",
        "top left red circle . .",
    ],
)
def test_malformed_thinking_is_no_plan(text):
    assert parse_thinking(text) is None
    assert not WORLD.plan_satisfies(text, by_task("test")["single_object"][0])


def test_vague_words_and_empty_thinking_are_understood():
    assert parse_thinking("") == ()
    assert parse_thinking("bottom right some shape .") == (Planned("bottom right", None, None),)
