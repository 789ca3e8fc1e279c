from __future__ import annotations

import collections
import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import plans, prompts
from unigrpo.data.dataset import SPLITS
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.edit_prompts import edits_by_type
from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES
from unigrpo.worlds.shapes.prompts import OFFICIAL_COUNTS, RELATIONS, TASKS, GenEvalPrompt, all_prompts, by_task, select
from unigrpo.worlds.shapes.rules import plan_satisfies
from unigrpo.worlds.shapes.sft_data import QUESTION
from unigrpo.worlds.shapes.stories import stories_by_length
from unigrpo.worlds.shapes.thinking import Planned, parse_thinking, write_thinking
from unigrpo.worlds.shapes.vocabulary import vocabulary

HELD_OUT = ("validation", "test")


def words(texts) -> set[str]:
    return {word for text in texts for word in text.split()}


def meaning(prompt: GenEvalPrompt) -> object:
    """What a prompt means, read off its metadata: 'A left of B' is 'B right of A', 'A and B' is 'B and A'."""
    objects = [(one["class"], one["count"], one.get("color")) for one in prompt.include]
    if prompt.tag != "position":
        return frozenset(objects)
    reference, subject = (one["class"] for one in prompt.include)
    relation = prompt.include[1]["position"][0]
    return min((subject, relation, reference), (reference, RELATIONS[relation], subject))


def test_no_text_comes_twice_in_any_split():
    texts = [prompt.prompt for split in SPLITS for prompt in all_prompts(split)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_enough_prompts_and_shares_no_meaning(task):
    prompts = {split: by_task(split)[task] for split in SPLITS}
    for split in HELD_OUT:
        assert len(prompts["train"]) > len(prompts[split]) >= (50 if task == "single_object" else 96)
    meanings = {split: {meaning(prompt) for prompt in prompts[split]} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert len(meanings[one] & meanings[other]) == (len(SHAPES) if task == "single_object" else 0)
        assert not {prompt.meaning for prompt in prompts[one]} & {prompt.meaning for prompt in prompts[other]}
    if task != "single_object":
        held_out = [len(meanings[split]) for split in HELD_OUT]
        assert 0.2 <= sum(held_out) / len(set().union(*meanings.values())) <= 0.3
        assert held_out[1] - held_out[0] in (0, 1), "half and half, the odd one to the test"


def test_the_halves_of_what_is_held_out_have_relations_and_counts_alike():
    relations = [
        collections.Counter(one["position"][0] for prompt in by_task(split)["position"] for one in prompt.include[1:])
        for split in HELD_OUT
    ]
    assert relations[0] == relations[1]
    assert set(relations[0]) == set(RELATIONS)
    counts = [{prompt.include[0]["count"] for prompt in by_task(split)["counting"]} for split in HELD_OUT]
    assert counts[0] | counts[1] == {2, 3, 4}
    assert all(len(found) == 2 for found in counts)


def form(prompt: GenEvalPrompt) -> str:
    """What is left of a text without its objects."""
    return " ".join(word for word in prompt.prompt.split() if word not in SHAPES)


def test_of_single_objects_no_two_splits_share_a_form():
    forms = {split: {form(prompt) for prompt in by_task(split)["single_object"]} for split in SPLITS}
    assert {split: len(found) for split, found in forms.items()} == {"train": 27 + 1, "validation": 10, "test": 10}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not forms[one] & forms[other]


@pytest.mark.parametrize("task", TASKS)
def test_a_prompts_own_meaning_is_what_its_metadata_ask(task):
    """One for each meaning read off the metadata, whatever the split; of ``single_object`` each has its own."""
    prompts = [prompt for split in SPLITS for prompt in by_task(split)[task]]
    pairs = {(meaning(prompt), prompt.meaning) for prompt in prompts}
    assert len(pairs) == len({own for _, own in pairs})
    if task == "single_object":
        assert len(pairs) == len(prompts)
    else:
        assert len(pairs) == len({read for read, _ in pairs})


#: Of the training prompts, as they were before some of what is held out was for validation.
TRAIN_KEYS = {
    "images": "2c58a2bdfcb9899a33d72bb315c4e79c",
    "stories": "13fb13f6b7bbc456c83ce74aea5af57d",
    "edits": "d2aa1f3dca9a87ca698be9d065352d59",
}


@pytest.mark.parametrize("task", TRAIN_KEYS)
def test_the_training_prompts_stay_what_they_were(task):
    """That more is held out for validation took nothing from them, and moved none of them."""
    lines = [f"{prompt.key} {prompt.texts}" for found in Shapes(task).prompts("train").values() for prompt in found]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32] == TRAIN_KEYS[task]


@pytest.mark.parametrize("splits", [("train",), HELD_OUT])
def test_training_and_what_is_held_out_have_every_shape_colour_count_and_relation(splits):
    clauses = [one for split in splits for prompt in all_prompts(split) for one in prompt.include]
    for task in TASKS:
        shapes = {one["class"] for split in splits for prompt in by_task(split)[task] for one in prompt.include}
        # four meanings of counting cannot hold five shapes
        assert len(shapes) >= len(SHAPES) - (task == "counting" and splits == HELD_OUT)
    assert {one["color"] for one in clauses if "color" in one} == set(COLOURS)
    assert {one["position"][0] for one in clauses if "position" in one} == set(RELATIONS)
    assert {one["count"] for one in clauses} == {1, 2, 3, 4}


@pytest.mark.parametrize("split", HELD_OUT)
def test_every_word_that_is_held_out_is_learnt_in_training_and_texts_are_short(split):
    train, held_out = (words(prompt.prompt for prompt in all_prompts(each)) for each in ("train", split))
    assert held_out <= train
    assert max(len(prompt.prompt.split()) for each in ("train", split) for prompt in all_prompts(each)) <= 14


def test_the_vocabulary_is_the_words_of_prompts_and_texts():
    known = Shapes().words()
    assert list(known) == sorted(set(known))
    assert known == Shapes("stories").words() == Shapes("edits").words() == vocabulary()
    spoken = words(prompt.prompt for prompt in all_prompts("train"))
    planned = words([*PLACES, *COLOURS, *SHAPES, "some", "shape", "."])
    stories, edits = (find("train").values() for find in (stories_by_length, edits_by_type))
    told = words(story.prompt for found in stories for story in found)
    edited = words(text for found in edits for prompt in found for text in prompt.instructions)
    reflected = {"see", "fine", "wrong"}
    assert set(known) == spoken | planned | told | edited | reflected | words([QUESTION])
    assert len(known) < 70


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
    assert GenEvalPrompt.from_json(line) == prompt
    assert ("exclude" in json.loads(line)) == (prompt.tag == "counting")
    assert hash(GenEvalPrompt.from_json(line)) == hash(prompt)


def test_an_official_line_is_read():
    line = (
        '{"tag": "position", "include": [{"class": "bench", "count": 1}, {"class": "dog", "count": 1, '
        '"position": ["right of", 0]}], "prompt": "a photo of a dog right of a bench"}'
    )
    prompt = GenEvalPrompt.from_json(line)
    assert prompt.include[1]["position"] == ["right of", 0]
    assert json.loads(prompt.to_json()) == json.loads(line)


@pytest.mark.parametrize("line", ["[]", "{}", "not json", '{"tag": "x", "include": []}'])
def test_a_malformed_line_is_refused(line):
    with pytest.raises(ValueError, match=r"[Ee]xpect"):
        GenEvalPrompt.from_json(line)


def test_keys_are_unique_and_stable():
    keys = [prompt.key for split in SPLITS for prompt in all_prompts(split)]
    assert len(set(keys)) == len(keys)
    assert GenEvalPrompt("colors", (), (), "a red circle").key == "colors-99575e45"


def test_the_official_proportions_can_be_chosen_but_for_single_objects_and_are_spread_over_meanings():
    """Of 50 forms of single objects in the test no 80 can be chosen, which is said."""
    with pytest.raises(ValueError, match="single_object: expected 0 to 50 prompts, got 80"):
        select("test", tuple(OFFICIAL_COUNTS.values()))
    counts = OFFICIAL_COUNTS | {"single_object": 50}
    chosen = select("test", tuple(counts.values()))
    assert dict(collections.Counter(prompt.tag for prompt in chosen)) == counts
    assert chosen == select("test", (50, 99, 80, 94, 100, 100))
    for task in TASKS:
        every = collections.Counter(repr(prompt.include) for prompt in by_task("test")[task])
        used = collections.Counter(repr(prompt.include) for prompt in chosen if prompt.tag == task)
        assert max(used.values()) - min(used[each] for each in every) <= 1
    assert list(by_task("test")) == list(TASKS)


@pytest.mark.parametrize("counts", [(1, 2), (1, 1, 1, 1, 1, 10**6), (-1, 0, 0, 0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        select("test", counts)


@pytest.mark.parametrize("find", [by_task, stories_by_length, edits_by_type])
def test_an_unknown_split_is_refused(find):
    with pytest.raises(ValueError, match="expected one of train, validation, test, got 'dev'"):
        find("dev")


@given(plans())
def test_thinking_round_trip_in_reading_order(plan):
    text = write_thinking(plan)
    parsed = parse_thinking(text)
    assert parsed is not None
    assert sorted(parsed, key=repr) == sorted(plan, key=repr)
    assert [planned.place for planned in parsed] == [place for place in PLACES if place in {p.place for p in plan}]
    assert write_thinking(parsed) == text
    assert set(text.split()) <= set(vocabulary())


@given(st.lists(st.sampled_from(vocabulary()), max_size=24).map(" ".join) | st.text())
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
    assert not plan_satisfies(parse_thinking(text), by_task("test")["single_object"][0])


def test_vague_words_and_empty_thinking_are_understood():
    assert parse_thinking("") == ()
    assert parse_thinking("bottom right some shape .") == (Planned("bottom right", None, None),)
