"""How a latent goes from time t to t' < t: the step's distribution, and the log-probability of a step taken.

Convention: ``x_t = (1-t) x_0 + t e`` with noise e, velocity ``v = e - x_0``; t falls from 1 to 0, ``dt = t - t' > 0``.
``transition`` is the one kernel: sampling draws from it, replay scores with it, so an unchanged policy has ratio 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from unigrpo.checks import Reduction, over_elements, per_row, same_shape, upcast
from unigrpo.registry import Configuration, register

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """The isotropic Gaussian of one step.

    Attributes:
        mean: [B, ...], fp32 (fp64 if the latent was).
        std: 0-d or [B], same dtype; 0 where the step is deterministic.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The next latent [B, ...] for standard normal ``noise`` [B, ...]."""
        same_shape(mean=self.mean, noise=noise)
        return self.mean + per_row(self.std, self.mean) * noise


class Dynamics(Protocol):
    """What a strategy of slot ``dynamics`` offers.

    Attributes:
        stochastic: whether a step has noise, hence a log-probability.
        gaussian: whether that is the log-density of the step's Gaussian.
        dt_in_variance: whether the step's variance is ``sigma^2 dt``, as a diffusion's is.
    """

    stochastic: ClassVar[bool]
    gaussian: ClassVar[bool]
    dt_in_variance: ClassVar[bool]

    @property
    def reduction(self) -> Reduction:
        """How log-probabilities are reduced over a row's elements; only stochastic steps have some."""
        ...

    def transition(self, x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, t_second: Tensor) -> Transition:
        """The step's distribution."""

    def log_prob(self, x_next: Tensor, transition: Transition) -> Tensor:
        """Of a step taken, [B]."""


class _Sde(ABC):
    """Euler-Maruyama steps of ``dx = [v + sigma^2/(2t) (x + (1-t) v)] dt + sigma dw``, which has the ODE's marginals.

    The drift adds to v the score term that the noise takes away again (Flow-GRPO eq. 9); subclasses choose sigma.
    """

    a: float
    reduction: Reduction
    stochastic: ClassVar[bool] = True
    gaussian: ClassVar[bool] = True
    dt_in_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError(f"a={self.a}: expected a noise level of 0 or more")

    @abstractmethod
    def sigma(self, t: Tensor, t_second: Tensor) -> Tensor:
        """Noise level at time t (fp64, shape of t)."""

    def transition(self, x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, t_second: Tensor) -> Transition:
        """The step from t to t_next: mean ``x - dt [v + sigma^2/(2t) (x + (1-t) v)]``, std ``sigma sqrt(dt)``.

        Args:
            x: latent [B, ...].
            v: velocity at (x, t), [B, ...].
            t: time, 0-d or [B], in (0, 1].
            t_next: time after the step, 0-d or [B], in [0, t).
            t_second: the schedule's second point, 0-d or [B].

        Raises:
            ShapeError: a shape that does not fit.
            ValueError: times out of order.
        """
        x, v, t, t_next = _step(x, v, t, t_next)
        sigma, dt = self.sigma(t, t_second.to(t)), t - t_next
        std = (sigma * dt.sqrt()).to(x)
        t, dt, sigma = per_row(t, x), per_row(dt, x), per_row(sigma, x)
        return Transition(x - dt * (v + sigma**2 / (2 * t) * (x + (1 - t) * v)), std)

    def log_prob(self, x_next: Tensor, transition: Transition) -> Tensor:
        """Gaussian log-density of ``x_next`` [B, ...] -> [B], mean or sum over its elements.

        A mean-reduced ratio is the true ratio to the power 1/D.

        Raises:
            ValueError: a step without noise has no density.
        """
        x_next, std = _taken(x_next, transition)
        z = (x_next - transition.mean) / std
        return over_elements(-z.square() / 2 - std.log() - math.log(2 * math.pi) / 2, self.reduction)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why the noise level cannot be 0."""
        if self.a == 0:
            yield "a=0 leaves no noise to explore with; use dynamics=ode or a > 0"


@register("dynamics", "flow_sde", source="Flow-GRPO (2505.05470) eq. 9")
@dataclass(frozen=True)
class FlowSde(_Sde):
    """SDE with noise ``sigma = a sqrt(t / (1-t))``, large at the start and small at the end."""

    a: float = 0.8
    reduction: Literal["mean", "sum"] = "mean"

    def sigma(self, t: Tensor, t_second: Tensor) -> Tensor:
        """``a sqrt(t / (1-t))``; at t = 1, where it is infinite, 1-t is that of the schedule's second point."""
        return self.a * (t / (1 - t_second.where(t == 1, t))).sqrt()


@register("dynamics", "dance_sde", source="DanceGRPO (2505.07818)")
@dataclass(frozen=True)
class DanceSde(_Sde):
    """SDE with constant noise ``sigma = a``."""

    a: float = 0.3
    reduction: Literal["mean", "sum"] = "mean"

    def sigma(self, t: Tensor, t_second: Tensor) -> Tensor:
        """``a`` at every time."""
        return t.new_full(t.shape, self.a)


@register("dynamics", "cps", source="Flow-CPS (2509.05952)")
@dataclass(frozen=True)
class Cps:
    """Step that keeps the interpolation's coefficients: part of the recovered noise is replaced by fresh noise.

    Its "log-probability" is the negative squared distance, without the variance (with it training diverges), hence not
    a density: ratios that rest on a Gaussian refuse it.  The last step (t' = 0) has no noise and cannot be trained.
    """

    eta: float = 0.7
    reduction: Literal["mean", "sum"] = "mean"
    stochastic: ClassVar[bool] = True
    gaussian: ClassVar[bool] = False
    dt_in_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: expected a share of noise in [0, 1]")

    def transition(self, x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, t_second: Tensor) -> Transition:
        """Mean ``(1-t') x0_hat + t' cos(eta pi/2) x1_hat``, std ``t' sin(eta pi/2)``; arguments as for ``flow_sde``."""
        x, v, t, t_next = _step(x, v, t, t_next)
        kept, fresh = math.cos(self.eta * math.pi / 2), math.sin(self.eta * math.pi / 2)
        std = (t_next * fresh).to(x)
        t, t_next = per_row(t, x), per_row(t_next, x)
        x0, x1 = x - t * v, x + (1 - t) * v
        return Transition((1 - t_next) * x0 + t_next * kept * x1, std)

    def log_prob(self, x_next: Tensor, transition: Transition) -> Tensor:
        """``-||x_next - mean||^2``, mean or sum over the elements: [B, ...] -> [B].

        Raises:
            ValueError: the last step has no noise.
        """
        x_next, _ = _taken(x_next, transition)
        return over_elements(-(x_next - transition.mean).square(), self.reduction)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why there must be noise, and none is trained on at the last step."""
        if self.eta == 0:
            yield "eta=0 leaves no noise to explore with; use dynamics=ode or eta > 0"
        steps = config.sampler.steps
        if config.modalities.image and config.window.end(steps, config.optim.updates) >= steps:
            yield (
                f"its last step has no noise, and window={config.window.name} trains it;"
                f" use window=random_window with high <= {steps - 1}"
            )


@register("dynamics", "ode", source="flow matching (2210.02747); Euler step")
@dataclass(frozen=True)
class Ode:
    """Deterministic Euler step ``x - dt v``; no log-probability, so it explores by its initial noise only."""

    stochastic: ClassVar[bool] = False
    gaussian: ClassVar[bool] = False
    dt_in_variance: ClassVar[bool] = False
    reduction: ClassVar[Reduction] = "mean"  # of no log-probability

    def transition(self, x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, t_second: Tensor) -> Transition:
        """Mean ``x - dt v``, std 0; arguments as for ``flow_sde``."""
        x, v, t, t_next = _step(x, v, t, t_next)
        dt = t - t_next
        return Transition(x - per_row(dt, x) * v, (0 * dt).to(x))

    def log_prob(self, x_next: Tensor, transition: Transition) -> Tensor:
        """Never defined.

        Raises:
            ValueError: always.
        """
        raise ValueError("an ODE step has no log-probability; use a stochastic dynamics for trained steps")


def _step(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checked inputs of a step: latents in fp32 or better, times in fp64 (fp32 would cost digits of dt and sigma)."""
    same_shape(x=x, v=v)
    (x,) = upcast(x=x)
    t, t_next = t.double(), t_next.double()
    if not bool(((t <= 1) & (t_next < t) & (t_next >= 0)).all()):
        raise ValueError(f"expected times 1 >= t > t_next >= 0, got t={t.tolist()}, t_next={t_next.tolist()}")
    return x, v.to(x.dtype), t, t_next


def _taken(x_next: Tensor, transition: Transition) -> tuple[Tensor, Tensor]:
    """The step that was taken, as data, and the std per row.

    Detached: where a sample is drawn from the mean being scored, its gradient would cancel that of the mean.
    """
    same_shape(x_next=x_next, mean=transition.mean)
    if not bool((transition.std > 0).all()):
        raise ValueError("a step without noise has no log-probability")
    return x_next.detach().to(transition.mean.dtype), per_row(transition.std, transition.mean)
