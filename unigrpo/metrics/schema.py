"""What the evaluations of a run find, told by its configuration alone: for plans, and for ``metrics_schema.json``."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

from unigrpo.metrics.metric import Quantity

if TYPE_CHECKING:
    from unigrpo.config import RunConfig
    from unigrpo.metrics.metric import Metric

#: How far the policy has moved from where it started.
DRIFT = (
    Quantity("drift/latent_kl", "latent KL", "Drift", "neither"),
    Quantity("drift/velocity_mse", "velocity MSE", "Drift", "neither"),
    Quantity("drift/text_kl", "text KL", "Drift", "neither"),
    Quantity("drift/image_kl", "image KL", "Drift", "neither"),
)


def evaluated(config: RunConfig) -> list[Quantity]:
    """What the final evaluation finds, in the order of columns: of the metrics, of kept skills, drift, and guided.

    Raises:
        ConfigError: a dataset that suggests metrics cannot be read.
    """
    own, scale = list(_quantities(config.measured)), config.evaluation.guidance_scale
    guidance = None if scale == 1 else scale  # at 1 there are rows already
    return [
        *own,
        *(quantity.under("retention", "Retention") for quantity in kept(config)),
        *DRIFT,
        *(quantity.under("guided", "Guided", guidance) for quantity in own if quantity.headline),
    ]


def kept(config: RunConfig) -> list[Quantity]:
    """What is measured on the prompts of ``evaluation.retention``: headlines alone."""
    return [q for q in _quantities(config.measured_of_retention) if q.headline]


def described(config: RunConfig, values: Container[str]) -> list[Quantity]:
    """The entries of ``metrics_schema.json``: of the final ``values``, and of what is measured of rollouts."""
    found = [quantity for quantity in evaluated(config) if quantity.name in values]
    of_rollouts = (
        quantity for quantity in _quantities(config.measured_in_training) if quantity.row_field and not quantity.rows
    )
    names = {quantity.name for quantity in found}
    return [*found, *(quantity for quantity in of_rollouts if quantity.name not in names)]


def names(config: RunConfig) -> set[str]:
    """Every name that a final value may have; costs apart, which every run has."""
    return {quantity.name for quantity in evaluated(config)} | {
        f"guided/{q.name}" for q in _quantities(config.measured)
    }


def _quantities(metrics: Iterable[Metric]) -> Iterator[Quantity]:
    for metric in metrics:
        yield from metric.quantities
