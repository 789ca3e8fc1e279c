"""Single pictures: GenEval's rules, and what no reward trains on; of several rounds the last one, and the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from unigrpo import registry
from unigrpo.metrics.metric import Row, by_tag, named
from unigrpo.rollout.decoded import DecodedEpisodes


class ImageMeasure:
    """GenEval-mini, with the rounds of a reflecting policy."""

    version = 1
    train_metrics = ("strict", "official", "proxy", "length")
    headline = ("geneval/strict", "geneval/official", "heldout/distance_to_clean")

    def __init__(self, world: Any):
        self.world = world
        self.proxy = registry.find("reward", "proxy")()

    def rows(self, decoded: DecodedEpisodes, per_prompt: int) -> list[Row]:
        """One row per episode."""
        prompts, judge = decoded.prompts, self.world.judge
        last = decoded.of_last(lambda segment: decoded.verdicts(judge, segment), lambda pixels: judge(pixels, prompts))
        proxy = decoded.of_last(
            lambda segment: self.proxy.scores_of(segment, decoded, self.world)[:, 0].tolist(),
            lambda pixels: self.proxy.score(pixels, prompts, self.world)[:, 0].tolist(),
        )
        first = decoded.verdicts(judge, decoded.pictures[0][0])
        thinking = decoded.words[0][1] if decoded.words else None
        described = self._described(decoded, first) if len(decoded.words) > 1 else []
        rows = []
        for k, verdict in enumerate(last):
            said = thinking.texts[k] if thinking else ""
            row = named(decoded, k, per_prompt) | {
                "thinking": said,
                "length": thinking.lengths[k] if thinking else 0,
                "faithful": int(self.world.plan_satisfies(said, prompts[k])),
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
                row["rounds"] = sum(part.alive[k] for _, part in decoded.pictures)
                row["first"] = int(first[k].strict)
                row["stopped"] = int(decoded.words[1][1].ends[k] == "stop")
            rows.append(row)
        return rows

    def _described(self, decoded: DecodedEpisodes, first: Sequence[Any]) -> list[float]:
        """How truly each row's first reflection says what its first picture shows, in [0, 1]."""
        reflection = decoded.words[1][1]
        sights = [verdict.sight for verdict in first]
        said = zip(decoded.prompts, reflection.texts, reflection.ends, sights, strict=True)
        return [self.world.judge_reflection(*each).description for each in said]

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """GenEval's scores are means over tasks, all others over episodes."""
        metrics = {}
        for verdict in ("strict", "official"):
            scores = by_tag(rows, verdict)
            metrics[f"geneval/{verdict}"] = fmean(scores.values())
            metrics |= {f"geneval/{verdict}/{tag}": score for tag, score in scores.items()}
            metrics[f"geneval/{verdict}_soft"] = fmean(row[f"{verdict}_soft"] for row in rows)
        for name, key in (
            ("heldout/distance_to_clean", "distance_to_clean"),
            ("heldout/proxy", "proxy"),
            ("heldout/extra_objects", "extra"),
            ("thinking/faithful", "faithful"),
            ("thinking/length", "length"),
        ):
            metrics[name] = fmean(row[key] for row in rows)
        return metrics | (_rounds(rows) if "rounds" in rows[0] else {})


def _rounds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What reflection did: a share without cases is left out."""
    right = [row for row in rows if row["first"]]
    wrong = [row for row in rows if not row["first"]]
    metrics = {
        "reflect/rounds": fmean(row["rounds"] for row in rows),
        "reflect/first_strict": fmean(by_tag(rows, "first").values()),
        "reflect/described": fmean(row["described"] for row in rows),
        # A reflection that was cut off neither stops nor finds fault: nothing is painted after it.
        "reflect/verdict": fmean(row["stopped"] if row["first"] else row["rounds"] > 1 for row in rows),
    }
    if right:
        metrics["reflect/kept"] = fmean(row["stopped"] for row in right)
    if wrong:
        metrics["reflect/repaired"] = fmean(row["strict"] for row in wrong)
    return metrics
