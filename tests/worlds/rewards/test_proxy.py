from __future__ import annotations

import itertools
import math
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks.geneval.noise_curve import proxy_agreement
from tests.worlds.scenes import prompts, right_scenes, scenes
from unigrpo.worlds.shapes.dataset import Shapes, image_prompt
from unigrpo.worlds.shapes.examples import faulty_examples, satisfying_scene
from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES, random_item
from unigrpo.worlds.shapes.judge import judge
from unigrpo.worlds.shapes.prompts import GenEvalPrompt, by_task
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.rewards import ProxyReward, train_proxy
from unigrpo.worlds.shapes.rewards.classifier import WEIGHTS, Classifier, classify
from unigrpo.worlds.shapes.rewards.proxy import probability


def certain(scene) -> tuple[torch.Tensor, torch.Tensor]:
    """What a classifier without doubt would say of ``scene``."""
    shapes, colours = torch.zeros(1, 4, 6), torch.full((1, 4, 6), 1 / 6)
    shapes[..., -1] = 1
    for item in scene.items:
        place = list(PLACES).index(item.place)
        shapes[0, place] = torch.eye(6)[SHAPES.index(item.shape)]
        colours[0, place] = torch.eye(6)[list(COLOURS).index(item.colour)]
    return shapes, colours


@st.composite
def doubts(draw) -> tuple[torch.Tensor, torch.Tensor]:
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return tuple((2 * torch.randn(1, 4, 6, generator=seed)).softmax(2) for _ in range(2))


@given(right_scenes("single_object", "two_object", "counting", "colors", "color_attr"))
def test_a_classifier_without_doubt_is_sure_of_right_scenes(right):
    prompt, scene = right
    for verdict in ("strict", "official"):
        assert probability(*certain(scene), [prompt], verdict).item() == 1
        assert probability(*certain(scene.remove(scene.items[0])), [prompt], verdict).item() == 0


@given(right_scenes("single_object", "two_object", "colors", "color_attr"), st.integers(0, 2**32))
def test_extra_objects_cost_all_under_the_strict_rule_and_nothing_under_the_official_one(right, seed):
    prompt, scene = right
    crowded = scene.add(random_item(random.Random(seed), scene.free_places[0]))
    assert probability(*certain(crowded), [prompt], "strict").item() == 0
    assert probability(*certain(crowded), [prompt], "official").item() == 1


@given(doubts(), prompts())
def test_the_strict_rule_is_the_sum_over_all_pictures_that_meet_it(doubt, prompt):
    shapes, colours = (each[0] for each in doubt)
    chances = [
        shapes[:, SHAPES.index(one["class"])] * (colours[:, list(COLOURS).index(one["color"])] if "color" in one else 1)
        for one in prompt.include
    ]
    wanted = sorted(k for k, one in enumerate(prompt.include) for _ in range(one["count"]))
    relation = next((one["position"][0] for one in prompt.include if "position" in one), None)
    expected = 0.0
    for picture in itertools.product((*range(len(chances)), None), repeat=4):
        if sorted(k for k in picture if k is not None) != wanted:
            continue
        if relation is not None:
            (x0, y0), (x1, y1) = ([*PLACES.values()][picture.index(k)] for k in (0, 1))
            if not {"left of": x1 < x0, "right of": x1 > x0, "above": y1 < y0, "below": y1 > y0}[relation]:
                continue
        expected += math.prod(float(shapes[i, -1] if k is None else chances[k][i]) for i, k in enumerate(picture))
    assert probability(*doubt, [prompt]).item() == pytest.approx(expected, abs=1e-6)


def test_position_looks_at_the_places():
    prompt = next(p for p in by_task("test")["position"] if p.include[1]["position"][0] == "left of")
    reference, subject = (one["class"] for one in prompt.include)
    rng = random.Random(0)
    for (i, here), (j, there) in itertools.permutations(enumerate(PLACES), 2):
        scene = type(satisfying_scene(prompt, rng))(
            (random_item(rng, here, subject), random_item(rng, there, reference))
        )
        assert probability(*certain(scene), [prompt]).item() == (i % 2 < j % 2)


@given(doubts(), prompts("counting"))
def test_counting_is_the_poisson_binomial(doubt, prompt):
    (one,) = prompt.include
    chances = doubt[0][0, :, SHAPES.index(one["class"])].tolist()
    expected = sum(
        math.prod(p if i in chosen else 1 - p for i, p in enumerate(chances))
        for chosen in itertools.combinations(range(4), one["count"])
    )
    assert probability(*doubt, [prompt], "official").item() == pytest.approx(expected, abs=1e-6)


@given(doubts(), prompts("color_attr"))
def test_two_clauses_take_the_best_pair_of_places(doubt, prompt):
    shapes, colours = (each[0] for each in doubt)
    columns = [(SHAPES.index(one["class"]), list(COLOURS).index(one["color"])) for one in prompt.include]
    chances = [shapes[:, shape] * colours[:, colour] for shape, colour in columns]
    expected = max(float(chances[0][i] * chances[1][j]) for i, j in itertools.permutations(range(4), 2))
    assert probability(*doubt, [prompt], "official").item() == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(doubts(), prompts()), min_size=1, max_size=5))
def test_a_batch_is_its_rows_and_stays_in_the_unit_interval(rows):
    shapes, colours = (torch.cat([doubt[i] for doubt, _ in rows]) for i in (0, 1))
    together = probability(shapes, colours, [prompt for _, prompt in rows])
    assert together.shape == (len(rows),)
    assert ((together >= 0) & (together <= 1)).all()
    alone = torch.cat([probability(*doubt, [prompt]) for doubt, prompt in rows])
    torch.testing.assert_close(together, alone)


def test_prompts_of_another_world_are_refused():
    shapes, colours = torch.full((2, 1, 4, 6), 1 / 6)
    with pytest.raises(ValueError, match="does not have"):
        probability(shapes, colours, [GenEvalPrompt("single_object", ({"class": "bench", "count": 1},), (), "a bench")])
    three = tuple({"class": shape, "count": 1} for shape in SHAPES[:3])
    with pytest.raises(ValueError, match="expected one clause"):
        probability(shapes, colours, [GenEvalPrompt("other", three, (), "three things")])


@given(scenes(), prompts())
def test_the_places_of_a_picture_are_read_in_reading_order(scene, prompt):
    shapes, colours = classify(torch.from_numpy(render([scene])))
    assert shapes.shape == colours.shape == (1, 4, 6)
    torch.testing.assert_close(shapes.sum(2), torch.ones(1, 4))
    for item in scene.items:
        place = list(PLACES).index(item.place)
        assert colours[0, place].argmax() == list(COLOURS).index(item.colour)
    for place in scene.free_places:
        assert shapes[0, list(PLACES).index(place)].argmax() == len(SHAPES)


def test_the_shipped_proxy_agrees_with_the_judge_on_most_clean_pictures_and_on_fewer_noisy_ones():
    agreement, right, wrong = proxy_agreement(600, 0.0, seed=5)
    assert agreement > 0.85
    assert right > 0.7 > 0.1 > wrong
    assert proxy_agreement(600, 0.3, seed=5)[0] < agreement


def test_the_proxy_is_small_and_differs_from_the_judge():
    """It is meant to be hackable: something it accepts is wrong."""
    assert sum(weight.numel() for weight in load_file(WEIGHTS).values()) < 8000
    examples = faulty_examples(np.random.default_rng(0), 500)
    pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
    asked = [example.prompt for example in examples]
    scores = ProxyReward().score(0.45 * pictures, list(map(image_prompt, asked)))[:, 0]
    ghosts = [
        score for score, verdict in zip(scores, judge(0.45 * pictures, asked), strict=True) if not verdict.official
    ]
    assert max(ghosts) > 0.5


def test_bad_shapes_are_refused():
    prompt = Shapes().prompts("test")["colors"][0]
    with pytest.raises(ValueError, match="one prompt per image"):
        ProxyReward().score(torch.zeros(2, 3, 32, 32), [prompt])
    with pytest.raises(ValueError, match=r"expected \[B, 3, 32, 32\]"):
        ProxyReward().score(torch.zeros(1, 3, 24, 24), [prompt])


def test_training_the_proxy_is_seeded_and_learns(tmp_path, monkeypatch):
    one, other, untrained = (train_proxy.train(seed=1, steps=steps) for steps in (40, 40, 0))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    quadrants, _, colours = train_proxy.batch(torch.Generator().manual_seed(0), 500)
    with torch.no_grad():
        right, before = ((net(quadrants)[1].argmax(1) == colours).float().mean() for net in (one, untrained))
    assert right > before + 0.2
    monkeypatch.setattr(train_proxy, "train", lambda seed: one)
    monkeypatch.setattr(sys, "argv", ["train_proxy", "--output", str(tmp_path / "proxy.safetensors")])
    train_proxy.main()
    Classifier().load_state_dict(load_file(tmp_path / "proxy.safetensors"))
