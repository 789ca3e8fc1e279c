"""Reflections: what the policy says of its own image.

``see top left red circle . fine`` ends the episode; ``see top left red square . wrong top left red circle .`` says what
to generate instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unigrpo.worlds.shapes.rules import apply_rules, plan_satisfies
from unigrpo.worlds.shapes.things import match, planned_things
from unigrpo.worlds.shapes.thinking import Plan, parse_thinking, write_thinking

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import End
    from unigrpo.worlds.shapes.judge import Sight
    from unigrpo.worlds.shapes.prompts import GenEvalPrompt

SEE, FINE, WRONG = "see", "fine", "wrong"


@dataclass(frozen=True, slots=True)
class Reflection:
    """What is seen, and what to generate instead; None if it is fine as it is."""

    seen: Plan
    repair: Plan | None

    def __str__(self) -> str:
        verdict = FINE if self.repair is None else f"{WRONG} {write_thinking(self.repair)}"
        return " ".join(f"{SEE} {write_thinking(self.seen)} {verdict}".split())


def parse_reflection(text: str) -> Reflection | None:
    """The reflection that ``text`` states, or None if it is malformed; never raises, whatever the words."""
    first, *words = text.split() or [""]
    at = next((at for at, word in enumerate(words) if word in (FINE, WRONG)), None)
    if first != SEE or at is None:
        return None
    seen, repair = (parse_thinking(" ".join(part)) for part in (words[:at], words[at + 1 :]))
    if words[at] == FINE:
        return Reflection(seen, None) if seen is not None and repair == () else None
    return Reflection(seen, repair) if seen is not None and repair else None


@dataclass(frozen=True, slots=True)
class ReflectionVerdict:
    """What the judge says of one reflection; a malformed one is false and 0 in every respect."""

    well_formed: bool = False
    """It can be parsed, and ends as its verdict demands: a fine image is the last, a wrong one is generated again."""
    description: float = 0.0
    """Does it say what the image shows? In [0, 1]."""
    verdict: bool = False
    """Does it call the image fine exactly if that meets the prompt strictly?"""
    repair: bool = False
    """Does what it says to generate instead meet the prompt strictly?"""


def judge_reflection(prompt: GenEvalPrompt, text: str, end: End, sight: Sight) -> ReflectionVerdict:
    """Judge what is said of an image against what is seen of it; vague words describe nothing."""
    reflection = parse_reflection(text)
    if reflection is None or end != ("stop" if reflection.repair is None else "image"):
        return ReflectionVerdict()
    fine = reflection.repair is None
    return ReflectionVerdict(
        well_formed=True,
        description=match(sight.things, planned_things(reflection.seen)),
        verdict=fine == apply_rules(sight.objects, prompt).strict,
        repair=plan_satisfies(reflection.repair, prompt),
    )
