"""Pictures by flow matching: the actions are denoising steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unigrpo.flow.dynamics import Ode
from unigrpo.registry import register
from unigrpo.rollout.heads.head import ImageHead
from unigrpo.rollout.trajectory import Cost, DenoisingStep, ImageScore, ImageSegment, StepScore

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.rollout.rollout import Draw, Rollout

#: Outside the window.
_EULER = Ode()


@register("image_head", "flow", source="BAGEL (arXiv 2505.14683); Flow-GRPO (2505.05470)")
@dataclass(frozen=True)
class Flow(ImageHead):
    """Continuous latents, painted by denoising; all steps of a picture share the context built before it."""

    denoises: ClassVar[bool] = True
    deferred: ClassVar[bool] = True

    def generate_image(self, rollout: Rollout, draw: Draw) -> tuple[ImageSegment, ImageScore]:
        """All steps of the schedule from keyed noise, the stochastic ones recorded and scored."""
        spec, shape, index = rollout.spec, rollout.policy.latent_shape, len(rollout.segments)
        x = rollout.noise(draw, (index, "initial"), shape)
        recorded, scores = [], []
        for k in range(len(spec.points) - 1):
            velocity = self._velocity(rollout, x, k, rollout.active)
            if k in spec.stochastic:
                transition = _transition(spec, x, velocity, k)
                noise = rollout.noise(draw, (index, "step", k), shape)
                recorded.append(DenoisingStep(k, x, transition.sample(noise)))
                scores.append(_score(spec, recorded[-1], velocity, transition))
                x = recorded[-1].x_next
            else:
                x = _EULER.transition(x, velocity, spec.points[k], spec.points[k + 1], spec.points[1]).mean
        return ImageSegment(tuple(recorded), x, rollout.active), ImageScore(tuple(scores))

    def score(self, rollout: Rollout, segment: ImageSegment) -> ImageScore:
        """The recorded steps under the rollout's policy."""
        scores = []
        for recorded in segment.steps:
            x, x_next = _blank(recorded.x, segment.alive), _blank(recorded.x_next, segment.alive)
            step = DenoisingStep(recorded.index, x, x_next)
            velocity = self._velocity(rollout, x, step.index, segment.alive)
            scores.append(_score(rollout.spec, step, velocity, _transition(rollout.spec, x, velocity, step.index)))
        return ImageScore(tuple(scores))

    def encode(self, rollout: Rollout, segment: ImageSegment) -> None:
        """Let a finished picture enter the context as clean latents (t = 0)."""
        latents = _blank(segment.latents, segment.alive)
        rollout.context = rollout.policy.extend_image(rollout.context, latents, segment.alive)
        if rollout.unconditional is not None:
            rollout.unconditional = rollout.policy.extend_image(rollout.unconditional, latents, segment.alive)

    def _velocity(self, rollout: Rollout, x: Tensor, k: int, alive: Tensor) -> Tensor:
        """The velocity that moves the pictures at step ``k``, fp32, guided where the guidance says so."""
        t, guidance = rollout.spec.points[k], rollout.spec.guidance
        velocity = rollout.policy.velocity(rollout.cross_modal_context(rollout.context), x, t).float()
        work = Cost(nfe=int(alive.sum()))
        rollout.cost += work
        if rollout.unconditional is None or not guidance.guides(float(t)):
            return velocity
        rollout.cost += work
        free: Tensor = rollout.policy.velocity(rollout.cross_modal_context(rollout.unconditional), x, t).float()
        guided: Tensor = guidance.combine(velocity, free)
        return guided


def _blank(x: Tensor, alive: Tensor) -> Tensor:
    """Zeros in the rows whose episode was over: were there NaN, a gradient of 0 times it would be NaN for all rows."""
    return x.where(alive[:, None, None, None], 0.0)


def _transition(spec: Any, x: Tensor, velocity: Tensor, k: int) -> Any:
    return spec.dynamics.transition(x, velocity, spec.points[k], spec.points[k + 1], spec.points[1])


def _score(spec: Any, step: DenoisingStep, velocity: Tensor, transition: Any) -> StepScore:
    return StepScore(
        index=step.index,
        velocity=velocity,
        mean=transition.mean,
        std=transition.std,
        dt=float(spec.points[step.index] - spec.points[step.index + 1]),
        log_prob=spec.dynamics.log_prob(step.x_next, transition),
    )
