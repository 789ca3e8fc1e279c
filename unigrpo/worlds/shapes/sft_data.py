"""Whole episodes for supervised fine-tuning, wrong in known proportions: five kinds.

All prompts are drawn from the training side of the splits.  Texts may be wrong (the image follows them), images
may depart from their texts, untouched objects may jump, stories may be malformed and verdicts false, so that a policy
trained on them does each thing well, but not always, and reinforcement learning has room.  Behind a wrong image the
next edit of a chain meets other objects than were drawn, which may be a pair of the test side.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from unigrpo.data.prompt import Block, ImageBlock, TextBlock
from unigrpo.worlds.shapes.dataset import Drawn
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


#: One example: what is given, and what is to be learnt.
Example = tuple[Block, ...]


@dataclass(frozen=True)
class Faults:
    """Shares of what goes wrong."""

    plan_corruption: float = 0.4
    """Of the single-round plans with one thing wrong or vague."""
    misdrawn: float = 0.2
    """Of all images in which one thing differs from the text."""
    wrong_step: float = 0.2
    """Of the texts of stories, edits and reflections with one thing wrong or vague."""
    displaced: float = 0.15
    """Of the images of stories and edits in which an object that was to stay is elsewhere."""
    malformed: float = 0.3
    """Of the stories that stop early, go on too long or hold a broken text."""
    wrong_verdict: float = 0.3
    """Of the reflections that find a right image wrong or a wrong one fine."""


def _given(words: str, turn: int = 0) -> TextBlock:
    return TextBlock(words, given=True, turn=turn)


def _thought(plan: Plan, turn: int = 0) -> TextBlock:
    return TextBlock(write_thinking(plan), turn=turn)


def _picture(scene: Scene, turn: int = 0, *, given: bool = False) -> ImageBlock:
    return ImageBlock(Drawn(scene), given, turn)


def _displace(scene: Scene, rng: random.Random) -> Scene:
    """An object jumps: within its place or to another one."""
    item = rng.choice(scene.items)
    rest = scene.remove(item)
    return rest.add(random_item(rng, rng.choice(rest.free_places), item.shape, item.colour))


def _step(wanted: Scene, rng: random.Random, faults: Faults) -> tuple[Plan, Scene, Scene]:
    """A text, the scene that it means and the scene generated, each with its share of faults."""
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


def _image(rng: random.Random, faults: Faults) -> Example:
    prompt = rng.choice(rng.choice(tuple(by_task("train").values())))
    _, plan, shown = faulty_example(prompt, rng, faults.plan_corruption, faults.misdrawn)
    return _given(prompt.prompt), _thought(plan), _picture(shown)


def _description(rng: random.Random, faults: Faults) -> Example:
    """Descriptions are always true."""
    places = rng.sample(tuple(PLACES), rng.randint(1, len(PLACES)))
    scene = Scene(tuple(random_item(rng, place) for place in places))
    return _picture(scene, given=True), _given(QUESTION), _thought(plan_of(scene))


def _story(rng: random.Random, faults: Faults) -> Example:
    story, scenes = random_story("train", rng.choice(STEPS), rng)
    fault = rng.choice(("early", "late", "broken")) if rng.random() < faults.malformed else None
    steps = story.steps + (fault == "late") - (fault == "early")
    broken = rng.randrange(steps) if fault == "broken" else None
    events: list[Block] = [_given(story.prompt)]
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
        events.append(TextBlock(" ".join(words), end="image", turn=turn))
        events.append(_picture(shown, turn))
    return *events, TextBlock("", turn=steps)


def _edit(rng: random.Random, faults: Faults) -> Example:
    prompt = random_edit_prompt("train", rng.choice(tuple(EDITS)), rng)
    shown = prompt.source
    events: list[Block] = [_picture(shown, given=True)]
    for turn, edit in enumerate(prompt.edits[: rng.randint(1, TURNS)]):
        plan, _, shown = _step(apply_edit(edit, shown, rng), rng, faults)
        events += [_given(str(edit), turn), _thought(plan, turn), _picture(shown, turn)]
    return tuple(events)


def _reflected(rng: random.Random, faults: Faults) -> Example:
    prompt = rng.choice(rng.choice(tuple(by_task("train").values())))
    right, plan, shown = faulty_example(prompt, rng, faults.plan_corruption, faults.misdrawn)
    events: list[Block] = [_given(prompt.prompt), _thought(plan), _picture(shown)]
    for turn in range(1, 1 + rng.choice((1, 2))):
        fine = scene_satisfies(shown, prompt) != (rng.random() < faults.wrong_verdict)
        seen = plan_of(shown)
        if rng.random() < faults.wrong_step:
            seen = corrupt_plan(seen, rng)
        if fine:
            return *events, TextBlock(str(Reflection(seen, None)), turn=turn)
        repair, _, shown = _step(draw_plan(plan_of(right), rng, shown), rng, replace(faults, displaced=0.0))
        events.append(TextBlock(str(Reflection(seen, repair)), end="image", turn=turn))
        events.append(_picture(shown, turn))
    return tuple(events)


KINDS: Mapping[str, Callable[[random.Random, Faults], Example]] = {
    "images": _image,
    "describe": _description,
    "stories": _story,
    "edits": _edit,
    "reflect": _reflected,
}


def episodes(kind: str, rng: random.Random, n: int, faults: Faults) -> list[Example]:
    """``n`` episodes.

    Args:
        kind: ``images`` (prompt, thinking, image), ``describe`` (image, question, plan), ``stories`` (prompt, then
            text and image in turn, then an empty text that stops), ``edits`` (image, then instruction, thinking and
            image in turn) or ``reflect`` (prompt, thinking, image, then reflection and image in turn).
        rng: source of all randomness.
        n: how many.
        faults: what goes wrong how often.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    return [KINDS[kind](rng, faults) for _ in range(n)]


def drawn_examples(shares: Mapping[str, float], count: int, seed: int, faults: Faults) -> dict[str, list[Example]]:
    """Kind -> its examples, about ``count`` of all kinds together, by their shares."""
    whole = sum(shares.values())
    return {
        kind: episodes(kind, random.Random(f"{seed} {kind}"), round(count * share / whole), faults)
        for kind, share in shares.items()
    }
