"""How much of an arm's spread over seeds is noise of the evaluation: a table, and a warning where it is much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from reports import statistics
from reports.metrics import number
from reports.records import Arm, Sweep
from reports.statistics import Spread

#: Share of the variance over seeds that may be the evaluation's without a warning.
_MUCH = 0.25

#: A score and the mean of its images may differ by this much, by rounding.
_SAME = 1e-6


def spreads(sweep: Sweep) -> dict[str, Spread]:
    """Arm -> the parts of its variance of the primary measure, for the arms whose rows by image give them."""
    found = {arm.name: _spread(arm, sweep.primary) for arm in sweep.trained if not arm.unstable}
    return {name: spread for name, spread in found.items() if spread is not None}


def _spread(arm: Arm, primary: str) -> Spread | None:
    """None with one seed or one image, if cells differ in prompts or images, or if rows do not make the measure."""
    cells = [cell for cell in arm.done if primary in cell.metrics]
    keys = sorted(cells[0].prompts) if cells else []
    counts = {len(prompt.images) for cell in cells for prompt in cell.prompts.values()}
    if len(cells) < 2 or not keys or len(counts) != 1 or min(counts) < 2:
        return None
    if any(sorted(cell.prompts) != keys for cell in cells):
        return None
    table = np.array([[cell.prompts[key].images for key in keys] for cell in cells])
    tags, meanings = ([getattr(cells[0].prompts[key], name) for key in keys] for name in ("tag", "meaning"))
    scores = table.mean(axis=2) @ statistics.prompt_weights(tags)
    if not np.allclose(scores, [cell.metrics[primary] for cell in cells], rtol=0, atol=_SAME):
        return None
    return statistics.variance_split(table, tags, meanings)


def warnings(sweep: Sweep, found: Mapping[str, Spread]) -> Iterator[str]:
    """That more images would do more than more seeds, where they would."""
    shares = {arm: spread.share for arm, spread in found.items() if spread.share > _MUCH}
    if shares:
        listed = ", ".join(f"{100 * shares[arm]:.0f} % ({arm})" for arm in sorted(shares, key=lambda arm: -shares[arm]))
        yield (
            f"Much of the spread is evaluation: of the variance of {sweep.schema.metric_phrase(sweep.primary)} over"
            f" seeds, noise of the images makes {listed}. More images per prompt before more seeds:"
            f" evaluation.images_per_prompt, now {sweep.evaluated.images[0]}."
        )


@dataclass(frozen=True)
class SpreadRow:
    """The parts of one arm's spread as standard deviations, formatted."""

    arm: str
    seeds: str
    training: str
    evaluation: str
    share: str
    prompts: str


def rows(found: Mapping[str, Spread]) -> list[SpreadRow]:
    """One row per arm."""
    return [
        SpreadRow(
            arm,
            seeds=number(spread.seeds**0.5),
            training=number(spread.training**0.5),
            evaluation=number(spread.evaluation**0.5),
            share=f"{100 * spread.share:.0f} %",
            prompts=number(None if spread.prompts is None else spread.prompts**0.5),
        )
        for arm, spread in found.items()
    ]
