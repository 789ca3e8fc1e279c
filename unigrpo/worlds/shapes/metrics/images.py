"""Single images: GenEval's rules, and what no reward trains on; of several rounds the last one, and the change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from unigrpo.metrics.metric import Measured, Quantity, Row, by_tag, named
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes
    from unigrpo.worlds.shapes.judge import Verdict

_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
_CLEAN = "distance to clean (lower is cleaner)"
_CLEAN_PHRASE = "distance to clean pictures (lower is cleaner)"


def _of_task(verdict: str, task: str, label: str, group: str) -> Quantity:
    return Quantity(f"geneval/{verdict}/{task}", label, group, row_field=verdict, rows=(("tag", task),))


@register("metric", "geneval_mini", source="GenEval (arXiv 2310.11513), its rules by the exact judge")
@dataclass(frozen=True)
class ImageMetric:
    """GenEval's rules by the exact judge, called GenEval-mini: not GenEval; with the rounds of a reflecting policy."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"include"})
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            "geneval/strict",
            "strict",
            "Overall",
            headline=True,
            row_field="strict",
            phrase="strict overall score",
            bounds=(0, 1),
        ),
        Quantity(
            "geneval/official",
            "official",
            "Overall",
            headline=True,
            row_field="official",
            phrase="official overall score",
            bounds=(0, 1),
        ),
        *(_of_task("strict", task, task.replace("_", " "), "Strict, by task") for task in _TASKS),
        *(_of_task("official", task, f"official, {task.replace('_', ' ')}", "") for task in _TASKS),
        Quantity("geneval/strict_soft", "strict, in part", "", row_field="strict_soft"),
        Quantity("geneval/official_soft", "official, in part", "", row_field="official_soft"),
        Quantity("reflect/first_strict", "first right", "Reflection", row_field="first"),
        Quantity("reflect/repaired", "wrong repaired", "Reflection"),
        Quantity("reflect/kept", "right kept", "Reflection"),
        Quantity("reflect/described", "picture described", "Reflection", row_field="described"),
        Quantity("reflect/verdict", "verdict right", "Reflection"),
        Quantity("reflect/rounds", "rounds", "Generated", "neither", row_field="rounds"),
        Quantity(
            "heldout/distance_to_clean",
            _CLEAN,
            "Held out",
            "lower",
            headline=True,
            row_field="distance_to_clean",
            phrase=_CLEAN_PHRASE,
        ),
        Quantity("heldout/proxy", "proxy", "Held out", "neither", row_field="proxy", bounds=(0, 1)),
        Quantity("heldout/extra_objects", "extra objects", "Held out", "lower", row_field="extra"),
        Quantity("thinking/faithful", "faithful", "Thinking", row_field="faithful"),
        Quantity("thinking/length", "length", "Thinking", "neither", row_field="length"),
    )

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """GenEval's scores are means over tasks, all others over episodes."""
        rows = [row for batch in episodes for row in image_rows(batch, per_prompt)]
        return Measured(_summary(rows), rows)


def image_rows(episodes: DecodedEpisodes, per_prompt: int) -> Iterator[Row]:
    """One row per episode."""
    from unigrpo.worlds.shapes.judge import judge_images
    from unigrpo.worlds.shapes.prompts import geneval_prompt
    from unigrpo.worlds.shapes.rewards.proxy import ProxyReward
    from unigrpo.worlds.shapes.rules import plan_satisfies
    from unigrpo.worlds.shapes.thinking import parse_thinking

    learned, prompts = ProxyReward(), episodes.prompts
    last = episodes.of_last(
        lambda segment: episodes.verdicts(judge_images, segment), lambda images: judge_images(images, prompts)
    )
    proxy = episodes.of_last(
        lambda segment: learned.scores_of(segment, episodes)[:, 0].tolist(),
        lambda images: learned.score(images, prompts)[:, 0].tolist(),
    )
    first = episodes.verdicts(judge_images, episodes.images[0][0])
    thinking = episodes.texts[0][1] if episodes.texts else None
    described = _described(episodes, first) if len(episodes.texts) > 1 else []
    for k, verdict in enumerate(last):
        thought = thinking.texts[k] if thinking else ""
        row = named(episodes, k, per_prompt) | {
            "thinking": thought,
            "length": thinking.lengths[k] if thinking else 0,
            "faithful": int(plan_satisfies(parse_thinking(thought), geneval_prompt(prompts[k]))),
            "strict": int(verdict.strict),
            "official": int(verdict.official),
            "strict_soft": verdict.strict_soft,
            "official_soft": verdict.official_soft,
            "distance_to_clean": verdict.distance_to_clean,
            "extra": verdict.extra,
            "proxy": proxy[k],
            "reason": verdict.reason,
        }
        if described:
            row["described"] = described[k]
            row["rounds"] = sum(part.alive[k] for _, part in episodes.images)
            row["first"] = int(first[k].strict)
            row["stopped"] = int(episodes.texts[1][1].ends[k] == "stop")
        yield row


def _described(episodes: DecodedEpisodes, first: Sequence[Verdict]) -> list[float]:
    """How truly each row's first reflection says what its first image shows, in [0, 1]."""
    from unigrpo.worlds.shapes.prompts import geneval_prompt
    from unigrpo.worlds.shapes.reflection import judge_reflection

    _, reflection = episodes.texts[1]
    prompts, sights = map(geneval_prompt, episodes.prompts), [verdict.sight for verdict in first]
    said = zip(prompts, reflection.texts, reflection.ends, sights, strict=True)
    return [judge_reflection(*each).description for each in said]


def _summary(rows: Sequence[Row]) -> dict[str, float]:
    values = {}
    for verdict in ("strict", "official"):
        scores = by_tag(rows, verdict)
        values[f"geneval/{verdict}"] = fmean(scores.values())
        values |= {f"geneval/{verdict}/{tag}": score for tag, score in scores.items()}
        values[f"geneval/{verdict}_soft"] = fmean(row[f"{verdict}_soft"] for row in rows)
    for name, key in (
        ("heldout/distance_to_clean", "distance_to_clean"),
        ("heldout/proxy", "proxy"),
        ("heldout/extra_objects", "extra"),
        ("thinking/faithful", "faithful"),
        ("thinking/length", "length"),
    ):
        values[name] = fmean(row[key] for row in rows)
    return values | (_rounds(rows) if "rounds" in rows[0] else {})


def _rounds(rows: Sequence[Row]) -> dict[str, float]:
    """What reflection did: a share without cases is left out."""
    right = [row for row in rows if row["first"]]
    wrong = [row for row in rows if not row["first"]]
    values = {
        "reflect/rounds": fmean(row["rounds"] for row in rows),
        "reflect/first_strict": fmean(by_tag(rows, "first").values()),
        "reflect/described": fmean(row["described"] for row in rows),
        # A reflection that was cut off neither stops nor finds fault: nothing is generated after it.
        "reflect/verdict": fmean(row["stopped"] if row["first"] else row["rounds"] > 1 for row in rows),
    }
    if right:
        values["reflect/kept"] = fmean(row["stopped"] for row in right)
    if wrong:
        values["reflect/repaired"] = fmean(row["strict"] for row in wrong)
    return values
