"""GenEval's rules on a list of objects, whoever found them: the detector, the scene itself, or a plan.

The official verdict follows the official evaluation script.  It asks only that the required objects be there, and a
policy learns to add objects as insurance; hence the strict verdict: official, and nothing beyond what was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from unigrpo.worlds.shapes.grammar import PLACES, QUADRANT, SIZES, Box, Item, Scene
from unigrpo.worlds.shapes.prompts import RELATIONS, Clause, GenEvalPrompt
from unigrpo.worlds.shapes.thinking import Plan

MAX_PER_CLASS = 16
POSITION_MARGIN = 0.1
DIRECTION_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """One object of an image; shape None is something that is no known shape."""

    shape: str | None
    colour: str | None
    box: Box
    score: float = 1.0
    """Confidence; the most confident objects of a class are looked at first."""

    def __str__(self) -> str:
        return f"{self.colour or 'uncertain'} {self.shape or 'blob'}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rules say of one list of objects; soft scores in [0, 1], 1 exactly where the verdict is true."""

    official: bool
    official_soft: float
    extra: int
    reason: str

    @property
    def strict(self) -> bool:
        """Official, and no object beyond those asked for."""
        return self.official and self.extra == 0

    @property
    def strict_soft(self) -> float:
        """The official soft score, divided by one more than the number of extra objects."""
        return self.official_soft / (1 + self.extra)


def relations(subject: Box, reference: Box) -> frozenset[str]:
    """The relations in which ``subject`` stands to ``reference``: none, one, or one horizontal and one vertical.

    GenEval's rule: the offset of the centres is reduced on each axis by 0.1 of the summed sizes (not below zero) and
    divided by the length of the *original* offset; a component beyond 0.5 is a relation.
    """
    reduced, original = [], []
    for axis in (0, 1):
        offset = (subject[axis] + subject[axis + 2] - reference[axis] - reference[axis + 2]) / 2
        sizes = subject[axis + 2] - subject[axis] + reference[axis + 2] - reference[axis]
        original.append(offset)
        reduced.append(math.copysign(max(abs(offset) - POSITION_MARGIN * sizes, 0.0), offset))
    if not any(reduced):
        return frozenset()
    length = math.hypot(*original)
    found = set()
    for component, before, after in zip(reduced, ("left of", "above"), ("right of", "below"), strict=True):
        if abs(component) / length > DIRECTION_THRESHOLD:
            found.add(before if component < 0 else after)
    return frozenset(found)


def check_clauses(prompt: GenEvalPrompt) -> None:
    """See that the rules can be applied to every clause of ``prompt``.

    Raises:
        ValueError: no clause, a count below 1, a relation to a clause that does not come before, or a field that is
            missing or of another type; names prompt, clause and field.
    """
    if not prompt.include and not prompt.exclude:
        raise ValueError(f"{prompt.prompt!r}: expected a clause in include or exclude, got none")
    for kind, clauses in (("include", prompt.include), ("exclude", prompt.exclude)):
        for number, clause in enumerate(clauses):
            for name, (expected, fits) in _CLAUSE.items():
                if name not in clause and name in _OPTIONAL:
                    continue
                if name not in clause or not fits(clause[name], number):
                    got = f"got {clause[name]!r:.80}" if name in clause else "which is missing"
                    raise ValueError(f"{prompt.prompt!r}: {kind}[{number}]: {name}: expected {expected}, {got}")


def _is_count(value: object, _: int) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: object, _: int) -> bool:
    return isinstance(value, str)


def _is_position(value: object, number: int) -> bool:
    """A relation and the index of a clause before ``number``; an index from the end would be another clause."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    relation, index = value
    return isinstance(relation, str) and relation in RELATIONS and type(index) is int and 0 <= index < number


_OPTIONAL = ("color", "position")
#: Field of a clause -> what is expected of it, and whether a value is that in the clause of a number.
_CLAUSE: Mapping[str, tuple[str, Callable[[object, int], bool]]] = {
    "class": ("a name", _is_text),
    "count": ("a whole number from 1", _is_count),
    "color": ("a name", _is_text),
    "position": (f"[{' | '.join(RELATIONS)}, index of a clause before it]", _is_position),
}


def apply_rules(objects: Sequence[Found], prompt: GenEvalPrompt) -> Outcome:
    """Judge ``objects`` against ``prompt``.

    The soft score is the mean over the terms of all clauses.  Unlike the public reward server's it stays in [0, 1]
    however many objects there are, a wrong position is worth nothing, and ``exclude`` clauses are terms too.

    Raises:
        ValueError: the prompt has a clause that says nothing, as of ``check_clauses``.
    """
    check_clauses(prompt)
    ranked = sorted(objects, key=lambda found: -found.score)
    terms: list[float] = []
    reasons: list[str] = []
    taken: list[list[Found]] = []
    passed: list[bool] = []
    for clause in prompt.include:
        chosen = [found for found in ranked if found.shape == clause["class"]][:MAX_PER_CLASS][: clause["count"]]
        clause_terms = list(_clause_terms(clause, chosen, taken, passed))
        taken.append(chosen)
        passed.append(all(term == 1 for term, _ in clause_terms))
        terms += [term for term, _ in clause_terms]
        reasons += [reason for term, reason in clause_terms if term < 1]
    for clause in prompt.exclude:
        count = min(sum(found.shape == clause["class"] for found in ranked), MAX_PER_CLASS)
        surplus = max(count - clause["count"] + 1, 0)
        terms.append(max(1 - surplus / max(clause["count"] - 1, 1), 0.0))
        if surplus:
            reasons.append(f"expected fewer than {clause['count']} x {clause['class']}, found {count}")
    return Outcome(
        official=not reasons,
        official_soft=1.0 if not reasons else sum(terms) / len(terms),
        extra=_extra(ranked, prompt),
        reason="; ".join(reasons),
    )


def _clause_terms(
    clause: Clause, chosen: list[Found], taken: list[list[Found]], passed: list[bool]
) -> Iterable[tuple[float, str]]:
    """(Score, what is wrong) of each demand of one include clause."""
    count, name = clause["count"], clause["class"]
    yield len(chosen) / count, f"expected {count} x {name}, found {len(chosen)}"
    if "color" in clause:
        right = sum(found.colour == clause["color"] for found in chosen)
        colours = ", ".join(found.colour or "uncertain" for found in chosen) or "none"
        yield right / count, f"expected {clause['color']} {name}, found colour {colours}"
    if "position" in clause:
        relation, index = clause["position"]
        reference = taken[index]
        if not passed[index]:
            yield 0.0, f"no right {_reference_name(reference)} for {name} to be {relation}"
            return
        pairs = [relation in relations(one.box, other.box) for one in chosen for other in reference]
        where = f"expected {name} {relation} {_reference_name(reference)}"
        yield (sum(pairs) / (count * len(reference)) if pairs else 0.0), where


def _reference_name(reference: list[Found]) -> str:
    return reference[0].shape or "reference" if reference else "reference"


def _extra(objects: Sequence[Found], prompt: GenEvalPrompt) -> int:
    """Objects beyond those asked for: the surplus of each shape, and blobs that cannot be failed attempts at an object.

    A blob of no known shape stands for a missing object as long as one is missing, and is an extra object after that.
    """
    asked: dict[str, int] = {clause["class"]: clause["count"] for clause in prompt.include}
    counts: dict[str | None, int] = {}
    for found in objects:
        counts[found.shape] = counts.get(found.shape, 0) + 1
    blobs = counts.pop(None, 0)
    surplus = sum(max(count - asked.get(str(shape), 0), 0) for shape, count in counts.items())
    missing = sum(max(count - counts.get(shape, 0), 0) for shape, count in asked.items())
    return surplus + max(blobs - missing, 0)


def objects_of(items: Iterable[Item]) -> list[Found]:
    """What a perfect detector finds in a scene of ``items``."""
    return [Found(item.shape, item.colour, item.box) for item in items]


def scene_satisfies(scene: Scene, prompt: GenEvalPrompt) -> bool:
    """Whether ``scene``, seen exactly, meets ``prompt`` strictly."""
    return apply_rules(objects_of(scene.items), prompt).strict


def plan_satisfies(plan: Plan | None, prompt: GenEvalPrompt) -> bool:
    """Whether ``plan`` meets ``prompt`` strictly, each object in the middle of its place; a malformed plan does not."""
    if plan is None:
        return False
    middle, half = QUADRANT / 2, SIZES[len(SIZES) // 2] / 2
    objects = []
    for planned in plan:
        x, y = (corner + middle for corner in PLACES[planned.place])
        objects.append(Found(planned.shape, planned.colour, (x - half, y - half, x + half, y + half)))
    return apply_rules(objects, prompt).strict
