"""Whole episodes for the supervised warm-up, wrong in known proportions: five kinds, all lists of plain events.

All prompts are drawn from the training side of the splits.  Texts may be wrong (the picture follows them), pictures
may depart from their texts, untouched objects may jump, stories may be malformed and verdicts false, so that a policy
trained on them does each thing well, but not always, and reinforcement learning has room.  Behind a wrong picture the
next edit of a chain meets other objects than were drawn, which may be a pair of the test side.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from unigrpo.worlds.shapes.edit_prompts import TURNS, random_edit_prompt
from unigrpo.worlds.shapes.edits import EDITS, apply_edit
from unigrpo.worlds.shapes.examples import corrupt_plan, draw_plan, faulty_example, misdraw
from unigrpo.worlds.shapes.grammar import PLACES, Scene, random_item
from unigrpo.worlds.shapes.prompts import by_task
from unigrpo.worlds.shapes.reflection import Reflection
from unigrpo.worlds.shapes.rules import scene_satisfies
from unigrpo.worlds.shapes.stories import STEPS, random_story
from unigrpo.worlds.shapes.thinking import Plan, plan_of, write_thinking

#: To be answered by a plan.
QUESTION = "what is in the picture"


@dataclass(frozen=True)
class Text:
    """A block of text; ``stop`` and ``generate_image`` are the tokens that may end it."""

    words: str
    given: bool
    end: Literal["stop", "paint"]
    turn: int


@dataclass(frozen=True)
class Picture:
    """A picture of ``scene``."""

    scene: Scene
    given: bool
    turn: int


WarmupEpisode = tuple[Text | Picture, ...]


@dataclass(frozen=True)
class Faults:
    """Shares of what goes wrong."""

    plan_corruption: float = 0.4
    """Of the single-round plans with one thing wrong or vague."""
    misdrawn: float = 0.2
    """Of all pictures in which one thing differs from the text."""
    wrong_step: float = 0.2
    """Of the texts of stories, edits and reflections with one thing wrong or vague."""
    displaced: float = 0.15
    """Of the pictures of stories and edits in which an object that was to stay is elsewhere."""
    malformed: float = 0.3
    """Of the stories that stop early, go on too long or hold a broken text."""
    wrong_verdict: float = 0.3
    """Of the reflections that find a right picture wrong or a wrong one fine."""


def _given(words: str, turn: int = 0) -> Text:
    return Text(words, given=True, end="stop", turn=turn)


def _thought(plan: Plan, turn: int = 0) -> Text:
    return Text(write_thinking(plan), given=False, end="stop", turn=turn)


def _displace(scene: Scene, rng: random.Random) -> Scene:
    """An object jumps: within its place or to another one."""
    item = rng.choice(scene.items)
    rest = scene.remove(item)
    return rest.add(random_item(rng, rng.choice(rest.free_places), item.shape, item.colour))


def _step(wanted: Scene, rng: random.Random, faults: Faults) -> tuple[Plan, Scene, Scene]:
    """A text, the scene that it means and the scene painted, each with its share of faults."""
    plan = plan_of(wanted)
    if rng.random() < faults.wrong_step:
        plan = corrupt_plan(plan, rng)
        wanted = draw_plan(plan, rng, wanted)
    shown = wanted
    if rng.random() < faults.displaced:
        shown = _displace(shown, rng)
    if rng.random() < faults.misdrawn:
        shown = misdraw(shown, rng)
    return plan, wanted, shown


def _image(rng: random.Random, faults: Faults) -> WarmupEpisode:
    prompt = rng.choice(rng.choice(tuple(by_task("train").values())))
    _, plan, shown = faulty_example(prompt, rng, faults.plan_corruption, faults.misdrawn)
    return _given(prompt.prompt), _thought(plan), Picture(shown, given=False, turn=0)


def _description(rng: random.Random, faults: Faults) -> WarmupEpisode:
    """Descriptions are always true."""
    places = rng.sample(tuple(PLACES), rng.randint(1, len(PLACES)))
    scene = Scene(tuple(random_item(rng, place) for place in places))
    return Picture(scene, given=True, turn=0), _given(QUESTION), _thought(plan_of(scene))


def _story(rng: random.Random, faults: Faults) -> WarmupEpisode:
    story, scenes = random_story("train", rng.choice(STEPS), rng)
    fault = rng.choice(("early", "late", "broken")) if rng.random() < faults.malformed else None
    steps = story.steps + (fault == "late") - (fault == "early")
    broken = rng.randrange(steps) if fault == "broken" else None
    events: list[Text | Picture] = [_given(story.prompt)]
    meant = scenes[0]
    for turn in range(steps):
        if 0 < turn < story.steps:
            # the chain that makes sense as a whole, unless a wrong text has left it
            on_course = meant == scenes[turn - 1]
            meant = scenes[turn] if on_course else apply_edit(story.edits[turn - 1], meant, rng)
        plan, meant, shown = _step(meant, rng, faults)
        words = write_thinking(plan).split()
        if turn == broken:
            del words[rng.randrange(len(words))]
        events.append(Text(" ".join(words), given=False, end="paint", turn=turn))
        events.append(Picture(shown, given=False, turn=turn))
    return *events, Text("", given=False, end="stop", turn=steps)


def _edit(rng: random.Random, faults: Faults) -> WarmupEpisode:
    prompt = random_edit_prompt("train", rng.choice(tuple(EDITS)), rng)
    shown = prompt.source
    events: list[Text | Picture] = [Picture(shown, given=True, turn=0)]
    for turn, edit in enumerate(prompt.edits[: rng.randint(1, TURNS)]):
        plan, _, shown = _step(apply_edit(edit, shown, rng), rng, faults)
        events += [_given(str(edit), turn), _thought(plan, turn), Picture(shown, given=False, turn=turn)]
    return tuple(events)


def _reflected(rng: random.Random, faults: Faults) -> WarmupEpisode:
    prompt = rng.choice(rng.choice(tuple(by_task("train").values())))
    right, plan, shown = faulty_example(prompt, rng, faults.plan_corruption, faults.misdrawn)
    events: list[Text | Picture] = [_given(prompt.prompt), _thought(plan), Picture(shown, given=False, turn=0)]
    for turn in range(1, 1 + rng.choice((1, 2))):
        fine = scene_satisfies(shown, prompt) != (rng.random() < faults.wrong_verdict)
        seen = plan_of(shown)
        if rng.random() < faults.wrong_step:
            seen = corrupt_plan(seen, rng)
        if fine:
            return *events, Text(str(Reflection(seen, None)), given=False, end="stop", turn=turn)
        repair, _, shown = _step(draw_plan(plan_of(right), rng, shown), rng, replace(faults, displaced=0.0))
        events.append(Text(str(Reflection(seen, repair)), given=False, end="paint", turn=turn))
        events.append(Picture(shown, given=False, turn=turn))
    return tuple(events)


KINDS: Mapping[str, Callable[[random.Random, Faults], WarmupEpisode]] = {
    "images": _image,
    "describe": _description,
    "stories": _story,
    "edits": _edit,
    "reflect": _reflected,
}


def episodes(kind: str, rng: random.Random, n: int, faults: Faults) -> list[WarmupEpisode]:
    """``n`` episodes.

    Args:
        kind: ``images`` (prompt, thinking, picture), ``describe`` (picture, question, plan), ``stories`` (prompt, then
            text and picture in turn, then an empty text that stops), ``edits`` (picture, then instruction, thinking and
            picture in turn) or ``reflect`` (prompt, thinking, picture, then reflection and picture in turn).
        rng: source of all randomness.
        n: how many.
        faults: what goes wrong how often.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    return [KINDS[kind](rng, faults) for _ in range(n)]
