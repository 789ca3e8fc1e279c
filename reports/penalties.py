"""The weight that each drift penalty gives to a squared velocity difference, by denoising step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.records import Arm
from reports.runs import Floats


@dataclass(frozen=True)
class Profile:
    """A penalty's weights w(t) on the squared velocity difference, and the strength it was used with.

    The one-step KL of a Gaussian step is ``(dt/2) (sigma (1-t)/(2t) + 1/sigma)^2 |dv|^2``: velocity MSE with another
    weighting in time. Both are per element of the latent, whatever the reduction.
    """

    arm: str
    kind: str
    times: Floats
    """[steps], the time at the start of each step."""
    weights: Floats
    """[steps]"""
    strength: float
    """The configured weight."""


def time_points(steps: int, shift: float) -> Floats:
    """The [steps + 1] time points of the schedule, from 1 to 0."""
    t = np.linspace(1.0, 0.0, steps + 1)
    return np.asarray(shift * t / (1 + (shift - 1) * t))


def latent_kl_weights(times: Floats, a: float, *, constant_sigma: bool = False) -> Floats:
    """Weight [steps] of the exact one-step KL on the squared velocity difference at ``times`` [steps + 1].

    Args:
        times: descending from 1 to 0.
        a: noise level.
        constant_sigma: ``sigma = a`` (DanceGRPO) instead of ``a sqrt(t / (1 - t))`` (Flow-GRPO), where 1 - t is taken
            at the second time point for the first step.
    """
    t, dt = times[:-1], -np.diff(times)
    rest = np.where(t < 1, 1 - t, 1 - times[1])
    sigma = np.full_like(t, a) if constant_sigma else a * np.sqrt(t / rest)
    return np.asarray(dt / 2 * (sigma * (1 - t) / (2 * t) + 1 / sigma) ** 2)


def profiles(arms: Iterable[Arm]) -> list[Profile]:
    """A profile for every arm whose penalty and dynamics have known weights."""
    found: list[Profile] = []
    for arm in arms:
        config = arm.config
        regularizer = config.get("regularizer", {})
        kind = regularizer.get("name")
        if kind not in ("latent_kl", "velocity_mse"):
            continue
        times = time_points(config["sampler"]["steps"], config["sampler"]["shift"])
        weights = np.ones(len(times) - 1) if kind == "velocity_mse" else _kl(times, config["dynamics"])
        if weights is None:
            continue
        label = kind
        if kind == "latent_kl" and not regularizer.get("dt_in_denominator", True):
            weights, label = weights * -np.diff(times), "latent_kl without dt"
        found.append(Profile(arm.name, label, times[:-1], weights, float(regularizer.get("weight", 0.0))))
    return found


def _kl(times: Floats, dynamics: Mapping[str, Any]) -> Floats | None:
    if dynamics["name"] not in ("flow_sde", "dance_sde"):
        return None
    return latent_kl_weights(times, float(dynamics["a"]), constant_sigma=dynamics["name"] == "dance_sde")
