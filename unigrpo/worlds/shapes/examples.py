"""Triples of prompt, thinking and image for supervised fine-tuning, wrong in known proportions.

Part of the plans is vague or wrong, and the image follows the plan; part of the images departs from the plan.  A
model trained on them plans and draws well, but not always, so that reinforcement learning of either modality has room.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES, Scene, random_item
from unigrpo.worlds.shapes.prompts import GenEvalPrompt, by_task
from unigrpo.worlds.shapes.render import Floats, render
from unigrpo.worlds.shapes.rules import relations
from unigrpo.worlds.shapes.thinking import Plan, Planned, plan_of, write_thinking


@dataclass(frozen=True, eq=False)
class Example:
    """One triple; ``scene`` is what the image [3, 32, 32] shows."""

    prompt: GenEvalPrompt
    thinking: str
    scene: Scene
    picture: Floats


def satisfying_scene(prompt: GenEvalPrompt, rng: random.Random) -> Scene:
    """A random scene that meets ``prompt`` strictly: the objects asked for and no other, the rest free."""
    wanted = [(clause["class"], clause.get("color")) for clause in prompt.include for _ in range(clause["count"])]
    relation = next((clause["position"][0] for clause in prompt.include if "position" in clause), None)
    while True:
        places = rng.sample(tuple(PLACES), len(wanted))
        items = [random_item(rng, place, *want) for place, want in zip(places, wanted, strict=True)]
        if relation is None or relation in relations(items[1].box, items[0].box):
            return Scene(tuple(items))


def draw_plan(plan: Plan, rng: random.Random, before: Scene | None = None) -> Scene:
    """A random scene that follows ``plan``; what the plan leaves vague is drawn at random.

    Objects of ``before`` that the plan states as they were stay as they were.
    """
    old = dict(zip(plan_of(before), before.items, strict=True)) if before else {}
    return Scene(tuple(old.get(one) or random_item(rng, one.place, one.shape, one.colour) for one in plan))


def _other(choices: Sequence[str], current: str, rng: random.Random) -> str:
    return rng.choice([choice for choice in choices if choice != current])


def _free(plan: Sequence[Planned]) -> list[str]:
    taken = {planned.place for planned in plan}
    return [place for place in PLACES if place not in taken]


def _drop(plan: list[Planned], at: int, rng: random.Random) -> None:
    if len(plan) > 1:
        del plan[at]
    else:
        _wrong_shape(plan, at, rng)


def _add(plan: list[Planned], at: int, rng: random.Random) -> None:
    free = _free(plan)
    if free:
        plan.append(Planned(rng.choice(free), rng.choice(tuple(COLOURS)), rng.choice(SHAPES)))
    else:
        _drop(plan, at, rng)


def _wrong_colour(plan: list[Planned], at: int, rng: random.Random) -> None:
    plan[at] = replace(plan[at], colour=_other(tuple(COLOURS), str(plan[at].colour), rng))


def _wrong_shape(plan: list[Planned], at: int, rng: random.Random) -> None:
    plan[at] = replace(plan[at], shape=_other(SHAPES, str(plan[at].shape), rng))


def _wrong_place(plan: list[Planned], at: int, rng: random.Random) -> None:
    """Move an object, to the place of another one (which takes its place) if there is one."""
    if len(plan) > 1:
        to = rng.choice([index for index in range(len(plan)) if index != at])
        plan[at], plan[to] = (replace(plan[at], place=plan[to].place), replace(plan[to], place=plan[at].place))
    else:
        plan[at] = replace(plan[at], place=rng.choice(_free(plan)))


def _vague_colour(plan: list[Planned], at: int, rng: random.Random) -> None:
    plan[at] = replace(plan[at], colour=None)


def _vague_shape(plan: list[Planned], at: int, rng: random.Random) -> None:
    plan[at] = replace(plan[at], shape=None)


_CORRUPTIONS: tuple[Callable[[list[Planned], int, random.Random], None], ...] = (
    _drop,
    _add,
    _wrong_colour,
    _wrong_shape,
    _wrong_place,
    _vague_colour,
    _vague_shape,
)


def corrupt_plan(plan: Plan, rng: random.Random) -> Plan:
    """``plan`` with one thing wrong or vague (which may happen not to matter to the prompt)."""
    changed = list(plan)
    rng.choice(_CORRUPTIONS)(changed, rng.randrange(len(changed)), rng)
    return tuple(changed)


def misdraw(scene: Scene, rng: random.Random) -> Scene:
    """``scene`` with one item wrong: another colour, another shape, missing, or one too many."""
    item = rng.choice(scene.items)
    fault = rng.choice(("colour", "shape", "missing", "extra"))
    if fault == "colour":
        return scene.change(item, colour=_other(tuple(COLOURS), item.colour, rng))
    if fault == "extra" and scene.free_places:
        return scene.add(random_item(rng, rng.choice(scene.free_places)))
    if fault in ("missing", "extra") and len(scene.items) > 1:
        return scene.remove(item)
    return scene.change(item, shape=_other(SHAPES, item.shape, rng))


def faulty_example(
    prompt: GenEvalPrompt, rng: random.Random, plan_corruption: float, misdrawn: float
) -> tuple[Scene, Plan, Scene]:
    """A right scene, a plan that may have one thing wrong, and a scene that follows it but for one thing, perhaps."""
    right = satisfying_scene(prompt, rng)
    plan, shown = plan_of(right), right
    if rng.random() < plan_corruption:
        plan = corrupt_plan(plan, rng)
        shown = draw_plan(plan, rng)
    if rng.random() < misdrawn:
        shown = misdraw(shown, rng)
    return right, plan, shown


def faulty_examples(
    rng: np.random.Generator, n: int, plan_corruption: float = 0.4, misdrawn: float = 0.2
) -> list[Example]:
    """``n`` examples of training prompts, tasks equally often.

    Args:
        rng: source of all randomness.
        n: how many.
        plan_corruption: probability that the plan has one thing wrong or vague.
        misdrawn: probability that the image departs from the plan in one item.

    Returns:
        Examples whose images are views into one array.
    """
    quick = random.Random(int(rng.integers(2**63)))
    tasks = tuple(by_task("train").values())
    drawn = []
    for _ in range(n):
        prompt = quick.choice(quick.choice(tasks))
        _, plan, scene = faulty_example(prompt, quick, plan_corruption, misdrawn)
        drawn.append((prompt, write_thinking(plan), scene))
    pictures = render([scene for _, _, scene in drawn])
    return [Example(*triple, picture) for triple, picture in zip(drawn, pictures, strict=True)]
