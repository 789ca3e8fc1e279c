from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import prompts, right_scenes, scenes
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import COLOURS, SHAPES, Item, Scene, random_item
from unigrpo.worlds.shapes.judge import detect, distance_to_clean, judge
from unigrpo.worlds.shapes.prompts import TASKS, by_task
from unigrpo.worlds.shapes.render import PALETTE, bank, quadrants, render
from unigrpo.worlds.shapes.rules import apply_rules, objects_of

ANY = by_task("test")["single_object"][0]


def inventory(objects) -> list[tuple[object, ...]]:
    return sorted((one.shape, one.colour, one.box) for one in objects)


@given(scenes(least=0))
def test_the_judge_sees_exactly_what_was_drawn(scene):
    assert inventory(*detect(render([scene]))) == inventory(objects_of(scene.items))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_shape_in_every_placement_and_colour_is_seen(shape, colour):
    drawn = bank()[SHAPES.index(shape)]
    pictures = np.zeros((len(drawn), 3, 32, 32), dtype=np.float32)
    pictures[:, :, 16:, :16] = PALETTE[list(COLOURS).index(colour)][:, None, None] * drawn[:, None]
    assert [[(one.shape, one.colour) for one in objects] for objects in detect(pictures)] == [[(shape, colour)]] * 77


@pytest.mark.parametrize("task", TASKS)
def test_clean_right_pictures_of_every_task_pass(task):
    rng = random.Random(task)
    chosen = [prompt for split in ("train", "test") for prompt in rng.choices(by_task(split)[task], k=500)]
    verdicts = judge(render([satisfying_scene(prompt, rng) for prompt in chosen]), chosen)
    assert sum(verdict.strict for verdict in verdicts) >= 0.995 * len(chosen)


@given(scenes(), prompts())
def test_the_verdict_on_a_picture_is_that_on_its_scene(scene, prompt):
    (verdict,) = judge(render([scene]), [prompt])
    outcome = apply_rules(objects_of(scene.items), prompt)
    # of two circles the judge may look at the other one first, where only one is asked for
    if len({item.shape for item in scene.items}) == len(scene.items):
        assert (verdict.official, verdict.strict, verdict.extra) == (outcome.official, outcome.strict, outcome.extra)
        assert verdict.official_soft == outcome.official_soft
    assert verdict.distance_to_clean < 1e-3


@given(right_scenes(), st.integers(0, 2**32))
def test_noise_of_a_tenth_does_not_disturb_the_judge(right, seed):
    prompt, scene = right
    noisy = render([scene]) + 0.1 * np.random.default_rng(seed).standard_normal((1, 3, 32, 32))
    (verdict,) = judge(noisy, [prompt])
    assert verdict.strict
    assert 0.06 < verdict.distance_to_clean < 0.11


def test_an_extra_object_is_named_in_the_reason():
    scene = Scene((Item("circle", "red", "top left", 9, 3, 3), Item("square", "blue", "top right", 9, 20, 3)))
    prompt = next(p for p in by_task("test")["single_object"] if p.include[0]["class"] == "circle")
    (verdict,) = judge(render([scene]), [prompt])
    assert (verdict.official, verdict.strict, verdict.extra) == (True, False, 1)
    assert verdict.reason.startswith("1 more than asked for")
    assert "blue square" in verdict.reason


@given(right_scenes())
def test_faint_and_off_palette_drawings_are_not_seen(right):
    prompt, scene = right
    clean = render([scene])
    grey_ghosts, orange = 0.4 * clean, clean.copy()
    coverage = np.abs(clean).max(1, keepdims=True) > 0.5
    orange[:] = np.where(coverage, np.array([0.9, 0.0, -0.9])[:, None, None], 0)
    assert detect(grey_ghosts.astype(np.float32)) == [[]]
    assert {one.shape for one in detect(grey_ghosts + 0.6 * clean)[0]} == {item.shape for item in scene.items}
    assert not judge(grey_ghosts, [prompt])[0].official


def test_a_large_smear_is_a_blob_and_no_shape():
    picture = np.zeros((1, 3, 32, 32), dtype=np.float32)
    picture[0, :, 2:8, 2:30] = PALETTE[0][:, None, None]
    ((blob,),) = detect(picture)
    assert (blob.shape, blob.colour, blob.box) == (None, "red", (2, 2, 30, 8))
    assert str(blob) == "red blob"


def test_specks_are_not_objects():
    picture = np.zeros((1, 3, 32, 32), dtype=np.float32)
    picture[0, :, 4:8, 4:8] = PALETTE[0][:, None, None]
    assert detect(picture) == [[]]


@given(st.lists(right_scenes(), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_pictures_of_a_batch_are_judged_independently(right, rng):
    asked, drawn = zip(*right, strict=True)
    pictures = render(drawn)
    order = list(range(len(right)))
    rng.shuffle(order)
    shuffled = judge(pictures[order], [asked[index] for index in order])
    alone = [judge(pictures[index : index + 1], [asked[index]])[0] for index in order]
    for one, other in zip(shuffled, alone, strict=True):
        assert (one.strict, one.reason, one.objects) == (other.strict, other.reason, other.objects)
        assert one.distance_to_clean == pytest.approx(other.distance_to_clean, abs=1e-4)


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_the_distance_to_clean_is_that_to_the_nearest_clean_quadrants(seed, noise):
    """Against a search over every shape, size, position and colour of each quadrant."""
    rng = np.random.default_rng(seed)
    scene = Scene((random_item(random.Random(seed), "bottom left"),))
    picture = (render([scene]) + noise * rng.standard_normal((1, 3, 32, 32))).astype(np.float32)
    candidates = bank().reshape(-1, 1, 1, 256) * PALETTE[None, :, :, None]
    candidates = np.concatenate([candidates.reshape(-1, 768), np.zeros((1, 768), dtype=np.float32)])
    squares = [((candidates - part.reshape(-1)) ** 2).sum(1).min() for part in quadrants(picture)[0]]
    assert distance_to_clean(picture)[0] == pytest.approx(np.sqrt(sum(squares) / 3072), rel=1e-3, abs=1e-4)


def test_tensors_of_any_dtype_and_values_out_of_range_are_read():
    rng = random.Random(3)
    prompt = by_task("test")["color_attr"][0]
    clean = render([satisfying_scene(prompt, rng)])
    for pictures in (torch.from_numpy(clean).bfloat16(), torch.from_numpy(clean).double().requires_grad_(), 3 * clean):
        assert judge(pictures, [prompt])[0].strict


def test_an_empty_batch_has_no_verdicts():
    assert judge(np.zeros((0, 3, 32, 32), dtype=np.float32), []) == []


@pytest.mark.parametrize(
    ("pictures", "count", "message"),
    [
        (np.zeros((1, 3, 16, 16)), 1, r"expected \[B, 3, 32, 32\], got \[1, 3, 16, 16\]"),
        (np.zeros((3, 32, 32)), 1, r"expected \[B, 3, 32, 32\]"),
        (np.full((1, 3, 32, 32), np.nan), 1, "finite"),
        (np.zeros((2, 3, 32, 32)), 1, "1 prompts and 2 images"),
    ],
)
def test_bad_input_is_refused_by_name(pictures, count, message):
    with pytest.raises(ValueError, match=message):
        judge(pictures, [ANY] * count)
