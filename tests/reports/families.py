"""What the runs of each kind of episode leave behind: pictures, stories, edits, pictures looked at again."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unigrpo.config import EvaluationConfig, RunConfig
from unigrpo.metrics import Diversity, Metric, Quantity
from unigrpo.metrics.schema import evaluated
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.metrics import EditMetric, ImageMetric, StoryMetric

Row = dict[str, Any]
Random = np.random.Generator

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
ASPECTS = ("text_quality", "perceptual_quality", "image_coherence", "text_image_coherence", "helpfulness")
EDITS = ("add", "remove", "replace", "recolour", "move", "count")
COLOURS = {"red": (200, 60, 50), "blue": (60, 90, 200), "green": (60, 150, 80), "yellow": (220, 190, 60)}
EVIL = "a red <script>alert('boo')</script> circle & a blue square"


@dataclass(frozen=True)
class Family:
    """How runs of one kind look, given their quality: the share of right pictures that they are made to reach."""

    primary: str
    secondary: tuple[str, ...]
    rows: Callable[[Random, float], list[Row]]
    """One evaluation, row by row."""
    finals: Callable[[list[Row]], dict[str, float]]
    """Final metrics of those rows."""
    logged: Callable[[float, float], dict[str, float]]
    """What one update logs of its rollouts at the quality and the reward reached."""
    samples: Callable[[Random, float], list[Row]]
    """Entries of the index, pictures as bytes."""
    schema: tuple[Quantity, ...]
    """What evaluations may find."""


def _schema(*metrics: Metric) -> tuple[Quantity, ...]:
    """What runs say that measure the episodes by ``metrics``, and by single pictures what the model could do before."""
    evaluation = EvaluationConfig(retention=Shapes())
    return tuple(evaluated(RunConfig(evaluation=evaluation, metrics=(*metrics, ImageMetric(), Diversity()))))


def _given(turn: int, **what: Any) -> Row:
    return {"turn": turn, "given": True} | what


def _made(turn: int, **what: Any) -> Row:
    return {"turn": turn, "given": False} | what


def _by_tag(rows: list[Row], field: str) -> dict[str, float]:
    tags = dict.fromkeys(row["tag"] for row in rows)
    return {tag: fmean(row[field] for row in rows if row["tag"] == tag) for tag in tags}


def _score(rng: Random, top: float, quality: float) -> float:
    return float(np.clip(top * quality + rng.normal() * top / 8, 0, top))


def _picture_rows(rng: Random, quality: float) -> list[Row]:
    rows = []
    for t, task in enumerate(TASKS):
        for p in range(6):
            for image in range(2):
                hit = int(rng.random() < np.clip(quality + 0.3 - 0.12 * t + 0.1 * np.sin(p + t), 0, 1))
                row = {"prompt": f"{task}-{p}", "tag": task, "text": EVIL, "image": image, "strict": hit, "official": 1}
                rows.append(row | {"distance_to_clean": 0.1, "proxy": 0.6, "thinking": EVIL, "reason": "fine"})
    return rows


def _picture_finals(rows: list[Row]) -> dict[str, float]:
    tags = _by_tag(rows, "strict")
    overall = fmean(tags.values())
    return {
        "geneval/strict": overall,
        "geneval/official": min(1.0, overall + 0.06),
        "geneval/strict_soft": overall + 0.05,
        "geneval/official_soft": overall + 0.1,
        **{f"geneval/strict/{task}": score for task, score in tags.items()},
        **{f"geneval/official/{task}": min(1.0, score + 0.06) for task, score in tags.items()},
        "thinking/faithful": 0.7 + 0.2 * overall,
        "guided/geneval/strict": overall + 0.04,
        "guided/geneval/official": overall + 0.08,
    }


def _picture_samples(rng: Random, quality: float) -> list[Row]:
    prompts = (
        EVIL,
        "a blue square and a red circle",
        "three green triangles",
        "a yellow star",
        "a red circle left of a blue square",
        "a green square and a yellow circle",
    )
    samples = []
    for task, prompt in zip(TASKS, prompts, strict=True):
        ok = bool(rng.random() < quality + 0.2)
        thinking = _made(0, text=f"{prompt}: circle red at top left")
        strip = [_given(0, text=prompt), thinking, _made(0, picture=picture(rng, ok))]
        reason = "as asked" if ok else "1 object too many"
        scores = {"strict": ok, "official": True}
        samples.append({"prompt": prompt, "tag": task, "scores": scores, "reason": reason, "strip": strip})
    return samples


PICTURES = Family(
    primary="geneval/strict",
    secondary=("heldout/distance_to_clean", "heldout/proxy", "drift/latent_kl"),
    rows=_picture_rows,
    finals=_picture_finals,
    logged=lambda quality, reward: {"train/strict": quality, "train/official": quality + 0.1, "train/proxy": reward},
    samples=_picture_samples,
    schema=_schema(),
)


def _reflect_finals(rows: list[Row]) -> dict[str, float]:
    found = _picture_finals(rows)
    overall = found["geneval/strict"]
    return found | {
        "reflect/first_strict": overall - 0.1,
        "reflect/repaired": overall - 0.2,
        "reflect/kept": 0.6 + overall / 2,
        "reflect/verdict": 0.5 + overall / 2,
        "reflect/rounds": 1.5,
    }


def _reflect_samples(rng: Random, quality: float) -> list[Row]:
    samples = _picture_samples(rng, quality)
    for sample in samples:
        if sample["scores"]["strict"]:
            sample["strip"].append(_made(1, text="see red circle fine"))
        else:
            seen = _made(1, text=f"see {EVIL} wrong blue square")
            sample["strip"] += [seen, _made(1, picture=picture(rng, ok=True))]
    return samples


REFLECT = Family(
    primary="geneval/strict",
    secondary=("reflect/repaired", "reflect/kept"),
    rows=_picture_rows,
    finals=_reflect_finals,
    logged=lambda quality, reward: (
        PICTURES.logged(quality, reward) | {"train/turn/1/reward": reward, "train/turn/2/reward": reward / 4}
    ),
    samples=_reflect_samples,
    schema=_schema(),
)


def _story_rows(rng: Random, quality: float) -> list[Row]:
    rows = []
    for steps in (2, 3):
        for p in range(6):
            for image in range(2):
                aspects = {aspect: _score(rng, 5, quality - 0.03 * i) for i, aspect in enumerate(ASPECTS)}
                row = {"prompt": f"story-{steps}-{p}", "tag": f"steps-{steps}", "text": EVIL, "image": image, **aspects}
                rows.append(row | {"mean": fmean(aspects.values()), "structure": _score(rng, 1, quality)})
    return rows


def _story_finals(rows: list[Row]) -> dict[str, float]:
    found = {f"interleaved/{name}": fmean(_by_tag(rows, name).values()) for name in (*ASPECTS, "mean", "structure")}
    share = found["interleaved/mean"] / 5
    steps = {
        f"interleaved/step/{step}/{name}": share * 0.9**step + 0.05 * i
        for step in (1, 2, 3)
        for i, name in enumerate(("asked", "faithful", "text", "coherence"))
    }
    return found | steps | {"retention/geneval/strict": 0.36, "retention/geneval/official": 0.41}


def _story_samples(rng: Random, quality: float) -> list[Row]:
    samples = []
    for n, prompt in enumerate((f"tell in three pictures {EVIL}", "tell in two pictures a star then remove it")):
        steps = 3 if rng.random() < quality + 0.3 else 2
        strip = [_given(0, text=prompt)]
        for step in range(steps):
            strip += [_made(step, text=f"top left {EVIL} ."), _made(step, picture=picture(rng, ok=step < 2))]
        strip.append(_made(steps, text=""))
        scores = {"mean": 5 * quality, **dict.fromkeys(ASPECTS, 5 * quality), "structure": 1}
        samples.append({"prompt": prompt, "tag": f"steps-{3 - n}", "scores": scores, "reason": EVIL, "strip": strip})
    return samples


STORIES = Family(
    primary="interleaved/mean",
    secondary=("interleaved/structure", "retention/geneval/strict"),
    rows=_story_rows,
    finals=_story_finals,
    logged=lambda quality, reward: {
        "train/mean": 5 * quality,
        **{f"train/{aspect}": 5 * quality for aspect in ASPECTS},
        "train/reward/text": reward,
        "train/reward/visual": reward - 0.1,
        "train/reward/structure": 0.9,
    },
    samples=_story_samples,
    schema=_schema(StoryMetric()),
)


def _edit_rows(rng: Random, quality: float) -> list[Row]:
    rows = []
    for e, edit in enumerate(EDITS):
        for p in range(4):
            for turn in (1, 2, 3):
                own = EDITS[(e + p * turn - p) % len(EDITS)]
                made, kept, clean = (_score(rng, 10, q) for q in (quality * 0.9**turn, 0.8 * 0.9**turn, 0.9))
                scores = {"success": made, "preserved": kept, "SC": min(made, kept), "PQ": clean}
                row = {"prompt": f"{edit}-{p}", "tag": own, "turn": turn, **scores}
                rows.append(row | {"O": (scores["SC"] * clean) ** 0.5})
    return rows


def _edit_finals(rows: list[Row]) -> dict[str, float]:
    found = {f"editing/{name}": fmean(_by_tag(rows, name).values()) for name in ("O", "SC", "PQ")}
    found |= {f"editing/O/{edit}": score for edit, score in _by_tag(rows, "O").items()}
    for turn in (1, 2, 3):
        there = [row for row in rows if row["turn"] == turn]
        found |= {f"editing/turn/{turn}/{n}": fmean(_by_tag(there, n).values()) for n in ("O", "SC", "PQ")}
    return found | {"retention/geneval/strict": 0.37, "retention/geneval/official": 0.4, "guided/editing/O": 6.0}


def _edit_samples(rng: Random, quality: float) -> list[Row]:
    samples = []
    source = picture(np.random.default_rng(0), ok=True)
    for edit in EDITS[:2]:
        strip = [_given(0, picture=source)]
        for turn, instruction in enumerate((f"{edit} a red circle", f"then {EVIL}", "turn the square green")):
            thinking = _made(turn, text="top left red circle .")
            strip += [_given(turn, text=instruction), thinking, _made(turn, picture=picture(rng, turn < 1))]
        scores = {"O": 10 * quality, "SC": 10 * quality, "PQ": 9.0}
        prompt = f"{edit} a red circle"
        samples.append({"prompt": prompt, "tag": edit, "scores": scores, "reason": "over-edited", "strip": strip})
    return samples


EDITING = Family(
    primary="editing/O",
    secondary=("editing/turn/3/O", "retention/geneval/strict"),
    rows=_edit_rows,
    finals=_edit_finals,
    logged=lambda quality, reward: {
        "train/O": 10 * quality,
        "train/SC": 10 * quality,
        "train/PQ": 9.0,
        **{f"train/turn/{turn}/reward": reward * 0.9**turn for turn in (1, 2, 3)},
    },
    samples=_edit_samples,
    schema=_schema(EditMetric()),
)


def picture(rng: Random, ok: bool) -> bytes:
    """A PNG of two objects, or of one too many."""
    image = Image.new("RGB", (32, 32), (235, 235, 230))
    draw = ImageDraw.Draw(image)
    for colour in list(COLOURS.values())[: 2 if ok else 3]:
        x, y = rng.integers(2, 20, size=2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((int(x), int(y), int(x) + 9, int(y) + 9), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
