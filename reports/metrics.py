"""What the logged quantities are called, which way is better, and how many digits they deserve."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

ASPECTS = {
    "text_quality": "text quality",
    "perceptual_quality": "perceptual quality",
    "image_coherence": "image coherence",
    "text_image_coherence": "text-image coherence",
    "helpfulness": "helpfulness",
}

EDITS = ("add", "remove", "replace", "recolour", "move", "count")


@dataclass(frozen=True)
class Metric:
    """A final quantity: ``label`` within its ``group`` of columns, and which way is better."""

    name: str
    label: str
    group: str
    better: Better = "higher"

    @property
    def arrow(self) -> str:
        """An arrow in the better direction, empty if there is none."""
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    @property
    def full_label(self) -> str:
        """Group and label in one."""
        return f"{self.group}: {self.label}"


METRICS: tuple[Metric, ...] = (
    Metric("geneval/strict", "strict", "Overall"),
    Metric("geneval/official", "official", "Overall"),
    *(Metric(f"geneval/strict/{task}", task.replace("_", " "), "Strict, by task") for task in TASKS),
    Metric("interleaved/mean", "mean", "Interleaved, 0–5"),
    *(Metric(f"interleaved/{aspect}", label, "Interleaved, 0–5") for aspect, label in ASPECTS.items()),
    Metric("interleaved/structure", "structure", "Form"),
    Metric("interleaved/pictures", "pictures", "Form", "neither"),
    *(Metric(f"editing/{name}", name, "Editing, 0–10") for name in ("O", "SC", "PQ")),
    *(Metric(f"editing/O/{edit}", edit, "Editing O by type") for edit in EDITS),
    *(Metric(f"editing/turn/{turn}/O", f"turn {turn}", "Editing O by turn") for turn in (1, 2, 3)),
    Metric("reflect/first_strict", "first right", "Reflection"),
    Metric("reflect/repaired", "wrong repaired", "Reflection"),
    Metric("reflect/kept", "right kept", "Reflection"),
    Metric("reflect/described", "picture described", "Reflection"),
    Metric("reflect/verdict", "verdict right", "Reflection"),
    Metric("reflect/rounds", "rounds", "Painted", "neither"),
    Metric("retention/geneval/strict", "strict", "Retention"),
    Metric("retention/geneval/official", "official", "Retention"),
    Metric("heldout/distance_to_clean", "distance to clean (lower is cleaner)", "Held out", "lower"),
    Metric("heldout/proxy", "proxy", "Held out", "neither"),
    Metric("heldout/extra_objects", "extra objects", "Held out", "lower"),
    Metric("heldout/diversity", "diversity", "Held out"),
    Metric("thinking/faithful", "faithful", "Thinking"),
    Metric("thinking/length", "length", "Thinking", "neither"),
    Metric("drift/latent_kl", "latent KL", "Drift", "neither"),
    Metric("drift/velocity_mse", "velocity MSE", "Drift", "neither"),
    Metric("drift/text_kl", "text KL", "Drift", "neither"),
    Metric("drift/image_kl", "image KL", "Drift", "neither"),
    Metric("guided/geneval/strict", "strict", "Guided"),
    Metric("guided/geneval/official", "official", "Guided"),
    Metric("guided/interleaved/mean", "mean", "Guided"),
    Metric("guided/editing/O", "O", "Guided"),
    Metric("guided/heldout/distance_to_clean", "distance to clean (lower is cleaner)", "Guided", "lower"),
    Metric("cost/cpu_s", "CPU s", "Cost", "neither"),
)

COSTS: tuple[Metric, ...] = (
    Metric("cost/cpu_s", "CPU s", "Cost", "lower"),
    Metric("cost/wall_s", "wall s", "Cost", "lower"),
    Metric("cost/nfe_rollout", "NFE rollout", "Cost", "lower"),
    Metric("cost/nfe_train", "NFE training", "Cost", "lower"),
    Metric("cost/nfe_reference", "NFE reference", "Cost", "lower"),
    Metric("cost/nfe_eval", "NFE evaluation", "Cost", "lower"),
    Metric("cost/images", "images", "Cost", "lower"),
    Metric("cost/tokens", "tokens", "Cost", "lower"),
    Metric("cost/peak_mb", "peak MB", "Cost", "lower"),
)

_KNOWN = {metric.name: metric for metric in (*METRICS, *COSTS)}
_KNOWN |= {
    f"geneval/official/{task}": Metric(f"geneval/official/{task}", task.replace("_", " "), "Official, by task")
    for task in TASKS
}


def meant(name: str) -> str:
    """The known name that ``name``, which is none, is nearly: a slip of the pen, or a former name; empty otherwise."""
    known = [*_KNOWN, *(f"guided/{known}" for known in _KNOWN)]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    return "" if name in known or not close else close[0]


def metric(name: str) -> Metric:
    """The metric called ``name``; an unknown one keeps its name as label, and nobody knows which way is better."""
    return _KNOWN.get(name) or Metric(name, name, "Other", "neither")


def phrase(name: str) -> str:
    """The metric's name inside a sentence."""
    known = {
        "geneval/strict": "strict overall score",
        "geneval/official": "official overall score",
        "interleaved/mean": "mean of the five aspects",
        "editing/O": "editing score O",
        "heldout/distance_to_clean": "distance to clean pictures (lower is cleaner)",
    }
    found = metric(name)
    group = found.group[:1].lower() + found.group[1:]
    return known.get(name) or (name if group == "other" else f"{found.label} ({group})")


def opening(words: str) -> str:
    """``words`` as they open a sentence or a title: unlike ``str.capitalize``, with all later capitals kept."""
    return words[:1].upper() + words[1:]


def row_field(name: str) -> str:
    """The field of a per-prompt row, of a sample's scores and of the training rollouts that a metric is a mean of."""
    return name.rpartition("/")[2]


def digits(values: Iterable[float]) -> int | None:
    """Decimals that suit a column of ``values``; None asks for scientific notation."""
    largest = max((abs(value) for value in values), default=1.0)
    if 0 < largest < 0.01:
        return None
    return 3 if largest == 0 or 0.1 <= largest < 2 else max(0, 2 - math.floor(math.log10(largest)))


def number(value: float | None, decimals: int | None = 3, *, signed: bool = False) -> str:
    """``value`` with thin-space thousands and a true minus; a dash for None."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{value:{sign}.1e}" if decimals is None else f"{value:{sign},.{decimals}f}"
    if decimals is not None and float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace(",", "\u2009").replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with two significant digits, never 0."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
