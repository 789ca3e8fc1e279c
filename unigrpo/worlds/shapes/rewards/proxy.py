"""A reward that can be hacked: a small learned classifier in place of the exact judge.

It stands for the learned scorers that real training uses (preference models, detectors, VLM judges), which a policy
learns to satisfy without doing what was asked.  What the judge says meanwhile shows the hacking.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from unigrpo.registry import register
from unigrpo.rewards.reward import ImageReward

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.data.prompt import Prompt
    from unigrpo.rollout.decoded import DecodedEpisodes
    from unigrpo.worlds.shapes.prompts import Clause, GenEvalPrompt


@register("reward", "proxy", source="this project: a learned scorer in miniature, meant to be hackable")
@dataclass(frozen=True)
class ProxyReward(ImageReward):
    """Probability, by a small CNN that looks at one quadrant at a time, that the prompt is met."""

    needs: ClassVar[frozenset[str]] = frozenset({"include"})

    verdict: Literal["strict", "official"] = "strict"
    """``strict`` asks that all other quadrants be empty; ``official`` asks only for presence (except in counting),
    which the text policy learns to game."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """One component."""
        return ("proxy",)

    @property
    def component_weights(self) -> tuple[float, ...]:
        """One weight of 1."""
        return (1.0,)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Probabilities [B, 1] fp32 of images [B, 3, 32, 32] in [-1, 1]."""
        from unigrpo.worlds.shapes.prompts import geneval_prompt
        from unigrpo.worlds.shapes.rewards.classifier import classify

        if len(images) != len(prompts):
            raise ValueError(f"expected one prompt per image, got {len(prompts)} prompts, {len(images)} images")
        shapes, colours = classify(images)
        return probability(shapes, colours, list(map(geneval_prompt, prompts)), self.verdict)[:, None]

    def scores_of(self, segment: int, decoded: DecodedEpisodes) -> Tensor:
        """Probabilities for one segment's images, which the measures read too."""
        return decoded.once((self, segment), lambda: super(ProxyReward, self).scores_of(segment, decoded))


def probability(
    shapes: Tensor, colours: Tensor, prompts: Sequence[GenEvalPrompt], verdict: Literal["strict", "official"] = "strict"
) -> Tensor:
    """Probability [B] that each prompt is met, places being independent.

    Strict: the sum over all ways to put what was asked for into places, the other places empty.  Official: counting is
    the probability of exactly the number asked for whatever else there is, and every other task the best way to put one
    or two clauses into places, the maximum over placements that satisfy the relation.

    Args:
        shapes: [B, 4, 6] probabilities of each shape, and of none, in each place.
        colours: [B, 4, 6] probabilities of each colour.
        prompts: B prompts.
        verdict: which of the judge's two rules is estimated.

    Raises:
        ValueError: a prompt that is not of one of the six tasks' forms.
    """
    import torch

    if not prompts:
        return shapes.new_zeros(0)
    empty, ones = shapes[:, :, -1], shapes.new_ones(*shapes.shape[:2], 1)
    # a clause without a colour, and a prompt without a second clause, take the certain last column
    shapes, colours = torch.cat((shapes, ones), 2), torch.cat((colours, ones), 2)
    rows = [_question(prompt) for prompt in prompts]
    shape, colour, allowed, count = (torch.tensor(column, device=shapes.device) for column in zip(*rows, strict=True))
    every = torch.arange(len(prompts), device=shapes.device)[:, None]
    clauses = (shapes.mT[every, shape] * colours.mT[every, colour]).unbind(1)
    pairs = clauses[0][:, :, None] * clauses[1][:, None, :] * allowed
    if verdict == "official":
        counted = _counts(clauses[0], 1 - clauses[0]).gather(1, count[:, None])[:, 0]
        return pairs.flatten(1).amax(1).where(count == 0, counted)
    counted = _counts(clauses[0], empty).gather(1, count.clamp(min=1)[:, None])[:, 0]
    elsewhere = empty[:, None, None, :].where(_elsewhere(empty.shape[1]).to(empty.device), 1.0).prod(-1)
    return (pairs * elsewhere).flatten(1).sum(1).where(shape[:, 1] < shapes.shape[2] - 1, counted)


def _counts(success: Tensor, failure: Tensor) -> Tensor:
    """Probabilities [B, n + 1] that k of n independent places succeed and the others fail, each given as [B, n].

    With ``failure = 1 - success`` this is the Poisson-binomial distribution.
    """
    from torch.nn.functional import pad

    counts = success.new_ones(len(success), 1)
    for hit, miss in zip(success[:, :, None].unbind(1), failure[:, :, None].unbind(1), strict=True):
        counts = pad(counts * miss, (0, 1)) + pad(counts * hit, (1, 0))
    return counts


def _elsewhere(places: int) -> Tensor:
    """[n, n, n] bool: whether the third place is neither the first nor the second."""
    import torch

    first, second, third = torch.meshgrid(*(torch.arange(places),) * 3, indexing="ij")
    return (third != first) & (third != second)


_Question = tuple[tuple[int, int], tuple[int, int], list[list[float]], int]


def _question(prompt: GenEvalPrompt) -> _Question:
    """(Shape and colour columns of two clauses, which pairs of places are allowed, the exact number or 0)."""
    clauses = prompt.include
    if len(clauses) > 2 or (len(clauses) == 2 and any(clause["count"] != 1 for clause in clauses)):
        raise ValueError(f"proxy: expected one clause, or two of count 1, got {clauses} for {prompt.prompt!r}")
    first, second = _columns(clauses[0]), _columns(clauses[1] if len(clauses) == 2 else None)
    relation = clauses[1]["position"][0] if len(clauses) == 2 and "position" in clauses[1] else None
    count = clauses[0]["count"] if prompt.exclude else 0
    return (first[0], second[0]), (first[1], second[1]), _allowed(relation), count


def _columns(clause: Clause | None) -> tuple[int, int]:
    from unigrpo.worlds.shapes.grammar import COLOURS, SHAPES

    certain = (len(SHAPES) + 1, len(COLOURS))
    if clause is None:
        return certain
    try:
        colour = list(COLOURS).index(clause["color"]) if "color" in clause else certain[1]
        return SHAPES.index(clause["class"]), colour
    except ValueError as error:
        raise ValueError(f"proxy: {clause} names what the world shapes does not have ({error})") from error


@cache
def _allowed(relation: str | None) -> list[list[float]]:
    """[4, 4]: 1 where the reference in the first place and the subject in the second stand in ``relation``."""
    from unigrpo.worlds.shapes.grammar import PLACES, QUADRANT, Box
    from unigrpo.worlds.shapes.rules import relations

    boxes: list[Box] = [(x, y, x + QUADRANT / 2, y + QUADRANT / 2) for x, y in PLACES.values()]
    allowed = [[0.0] * len(boxes) for _ in boxes]
    for (i, reference), (j, subject) in itertools.permutations(enumerate(boxes), 2):
        allowed[i][j] = float(relation is None or relation in relations(subject, reference))
    return allowed
