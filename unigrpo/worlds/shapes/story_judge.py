"""Judges a told story: every step, the structure, and InterleavedBench's five aspects, all exactly.

The aspects judge what is there; what is missing costs helpfulness, and an aspect with nothing to judge is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from unigrpo.rollout.decoded import ImagePart, TextPart
from unigrpo.worlds.shapes.edit_judge import judge_change
from unigrpo.worlds.shapes.judge import Sight, see
from unigrpo.worlds.shapes.things import match, planned_things
from unigrpo.worlds.shapes.thinking import Plan, parse_thinking

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes, End
    from unigrpo.worlds.shapes.stories import Story


@dataclass(frozen=True, slots=True)
class Said:
    """A text of the policy and how it ended."""

    text: str
    end: End
    turn: int

    @property
    def plan(self) -> Plan | None:
        """What a well-formed step of a story states: a plan of something, to be generated."""
        return (parse_thinking(self.text) or None) if self.end == "image" else None

    @property
    def closes(self) -> bool:
        """Whether it ends the story as it should: without a word."""
        return self.end == "stop" and not self.text


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of the policy, seen."""

    sight: Sight
    turn: int


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """What the judge says of one step asked for, each in [0, 1]; a missing step is all 0."""

    text: float = 0.0
    """Does the text state what the step asks, given the plan before?"""
    faithful: float = 0.0
    """Does the image show what its text says?"""
    asked: float = 0.0
    """Does the image show what the prompt asks of this step, and nothing else?"""
    coherence: float = 0.0
    """Is what the step does not touch as in the image before? 1 for the first image."""

    @property
    def visual(self) -> float:
        """Mean of ``faithful`` and ``asked``."""
        return (self.faithful + self.asked) / 2


@dataclass(frozen=True, slots=True)
class StoryVerdict:
    """What the judge says of a whole story; the five aspects from 0 to 5."""

    steps: tuple[StepVerdict, ...]
    """One per step asked for."""
    structure: float
    """1 exactly for a plan and an image in turn, as often as asked, and then the end; in [0, 1]."""
    structure_gains: tuple[float, ...]
    """What each text and image, in their order, added to ``structure``: nothing for an end too soon, a loss for a
    turn too many."""
    text_quality: float
    """Are the texts well-formed, and do they state what is asked?"""
    perceptual_quality: float
    """Are the images clean? 5 for clean ones, 0 for noise."""
    image_coherence: float
    """Do things that no step touches stay the same from image to image?"""
    text_image_coherence: float
    """Does each image show what its own text says?"""
    helpfulness: float
    """Are all steps done that are asked for, exactly, and no more?"""
    reason: str
    """What is wrong, in words; empty if nothing is."""

    @property
    def mean(self) -> float:
        """Of the five aspects."""
        return fmean(
            (
                self.text_quality,
                self.perceptual_quality,
                self.image_coherence,
                self.text_image_coherence,
                self.helpfulness,
            )
        )


def judge_story(story: Story, events: Iterable[Said | Shown]) -> StoryVerdict:
    """Judge what was said and shown, turn by turn."""
    events = tuple(events)
    said = {event.turn: event for event in events if isinstance(event, Said)}
    shown = {event.turn: event.sight for event in events if isinstance(event, Shown)}
    steps = tuple(_step(story, step, said, shown) for step in range(story.steps))
    told = [turn for turn, event in said.items() if not event.closes]
    running = [_structure(story, events[:count]) for count in range(len(events) + 1)]
    return StoryVerdict(
        steps=steps,
        structure=running[-1],
        structure_gains=tuple(after - before for before, after in pairwise(running)),
        text_quality=_aspect(steps[turn].text if turn < story.steps else 0.0 for turn in told),
        perceptual_quality=_aspect(sight.quality for sight in shown.values()),
        image_coherence=_aspect(step.coherence for turn, step in enumerate(steps) if turn and turn in shown),
        text_image_coherence=_aspect(_faithful(said[turn].plan, shown.get(turn)) for turn in told),
        helpfulness=5 * sum(step.asked == 1 for step in steps) / (story.steps + _extra(story, events)),
        reason="; ".join(_reasons(steps, shown, running[-1])),
    )


def _structure(story: Story, events: Sequence[Said | Shown]) -> float:
    said = {event.turn: event for event in events if isinstance(event, Said)}
    formed = sum(
        isinstance(event, Shown) and event.turn < story.steps and bool(said[event.turn].plan) for event in events
    )
    closed = story.steps in said and said[story.steps].closes
    return (formed + closed) / (story.steps + 1 + _extra(story, events))


def _extra(story: Story, events: Sequence[Said | Shown]) -> int:
    """Turns told beyond those asked for."""
    return sum(isinstance(event, Said) and event.turn >= story.steps and not event.closes for event in events)


def _step(story: Story, step: int, said: dict[int, Said], shown: dict[int, Sight]) -> StepVerdict:
    if step not in said:
        return StepVerdict()
    wanted, plan, sight = story.wanted[step], said[step].plan, shown.get(step)
    plan_before = said[step - 1].plan if step - 1 in said else None
    if plan is None:
        text = 0.0
    elif plan_before is None:
        text = match(wanted, planned_things(plan))
    else:
        text = judge_change(story.edits[step - 1], planned_things(plan_before), planned_things(plan)).score
    if sight is None:
        return StepVerdict(text)
    return StepVerdict(
        text=text,
        faithful=_faithful(plan, sight),
        asked=match(wanted, sight.things),
        coherence=_coherence(story, step, shown),
    )


def _faithful(plan: Plan | None, sight: Sight | None) -> float:
    return match(planned_things(plan), sight.things) if plan and sight else 0.0


def _coherence(story: Story, step: int, shown: dict[int, Sight]) -> float:
    if step == 0:
        return 1.0
    before = shown[step - 1].things if step - 1 in shown else ()
    return judge_change(story.edits[step - 1], before, shown[step].things).preserved if before else 0.0


def _aspect(scores: Iterable[float]) -> float:
    judged = tuple(scores)
    return 5 * fmean(judged) if judged else 0.0


def _reasons(steps: Sequence[StepVerdict], shown: dict[int, Sight], structure: float) -> Iterable[str]:
    for turn, step in enumerate(steps):
        if turn not in shown:
            yield f"picture {turn + 1} is missing"
            continue
        if step.text < 1:
            yield f"text {turn + 1} does not state what is asked"
        if step.asked < 1:
            yield f"picture {turn + 1} shows {shown[turn]}"
        if step.coherence < 1:
            yield f"picture {turn + 1} changes what was to stay"
    if structure < 1:
        yield "malformed"


def judge_stories(decoded: DecodedEpisodes) -> list[StoryVerdict]:
    """One verdict per episode."""
    import torch

    events: list[list[Said | Shown]] = [[] for _ in decoded.prompts]
    painted = [part for part in decoded.parts if isinstance(part, ImagePart) and not part.given]
    seen = iter(see(torch.cat([part.pixels[torch.tensor(part.alive)] for part in painted])) if painted else ())
    for part in decoded.parts:
        for row, alive in enumerate(part.alive):
            if part.given or not alive:
                continue
            if isinstance(part, TextPart):
                events[row].append(Said(part.texts[row], part.ends[row], part.turn))
            else:
                events[row].append(Shown(next(seen), part.turn))
    return [judge_story(prompt.meta["story"], told) for prompt, told in zip(decoded.prompts, events, strict=True)]
