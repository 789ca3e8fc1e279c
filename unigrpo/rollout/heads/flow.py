"""Pictures by flow matching: the actions are denoising steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.flow.dynamics import Ode
from unigrpo.registry import register
from unigrpo.rollout.heads.head import ImageHead
from unigrpo.rollout.trajectory import Cost, DenoisingStep, ImageScore, ImageSegment, StepScore

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.flow.dynamics import Transition
    from unigrpo.models.policy import Context, Policy
    from unigrpo.rollout.rollout import RolloutSpec, SegmentNoise

#: Outside the window.
_EULER = Ode()


@register("image_head", "flow", source="BAGEL (arXiv 2505.14683); Flow-GRPO (2505.05470)")
@dataclass(frozen=True)
class Flow(ImageHead):
    """Continuous latents, painted by denoising; all steps of a picture share the contexts built before it."""

    denoises: ClassVar[bool] = True
    deferred: ClassVar[bool] = True

    def generate_image(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], noise: SegmentNoise, alive: Tensor
    ) -> tuple[ImageSegment, ImageScore, Sequence[Context], Cost]:
        """All steps of the schedule from keyed noise, the stochastic ones recorded and scored."""
        cost, recorded, scores = Cost(), [], []
        x = noise.normal(("initial",), spec.latent_shape, shareable=True)
        for k in range(len(spec.points) - 1):
            velocity, work = _velocity(policy, spec, contexts, x, k, alive)
            cost += work
            if k in spec.stochastic:
                transition = _transition(spec, x, velocity, k)
                step_noise = noise.normal(("step", k), spec.latent_shape)
                recorded.append(DenoisingStep(k, x, transition.sample(step_noise)))
                scores.append(_score(spec, recorded[-1], velocity, transition))
                x = recorded[-1].x_next
            else:
                x = _EULER.transition(x, velocity, spec.points[k], spec.points[k + 1], spec.points[1]).mean
        return ImageSegment(tuple(recorded), x, alive), ImageScore(tuple(scores)), contexts, cost

    def score(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[ImageScore, Sequence[Context], Cost]:
        """The recorded steps under ``policy``."""
        cost, scores = Cost(), []
        for recorded in segment.steps:
            x, x_next = _blank(recorded.x, segment.alive), _blank(recorded.x_next, segment.alive)
            step = DenoisingStep(recorded.index, x, x_next)
            velocity, work = _velocity(policy, spec, contexts, x, step.index, segment.alive)
            cost += work
            scores.append(_score(spec, step, velocity, _transition(spec, x, velocity, step.index)))
        return ImageScore(tuple(scores)), contexts, cost

    def encode(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[Sequence[Context], Cost]:
        """Let a finished picture enter the contexts as clean latents (t = 0)."""
        latents = _blank(segment.latents, segment.alive)
        return [policy.extend_image(context, latents, segment.alive) for context in contexts], Cost()


def _velocity(
    policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], x: Tensor, k: int, alive: Tensor
) -> tuple[Tensor, Cost]:
    """The velocity that moves the pictures at step ``k``, fp32, guided where the guidance says so."""
    t = spec.points[k]
    asked = contexts if spec.guidance.guides(float(t)) else contexts[:1]
    velocities = [policy.velocity(spec.cross_modal_context(context), x, t).float() for context in asked]
    cost = Cost(nfe=int(alive.sum()) * len(velocities))
    return velocities[0] if len(velocities) == 1 else spec.guidance.combine(*velocities), cost


def _blank(x: Tensor, alive: Tensor) -> Tensor:
    """Zeros in the rows whose episode was over: were there NaN, a gradient of 0 times it would be NaN for all rows."""
    return x.where(alive[:, None, None, None], 0.0)


def _transition(spec: RolloutSpec, x: Tensor, velocity: Tensor, k: int) -> Transition:
    return spec.dynamics.transition(x, velocity, spec.points[k], spec.points[k + 1], spec.points[1])


def _score(spec: RolloutSpec, step: DenoisingStep, velocity: Tensor, transition: Transition) -> StepScore:
    return StepScore(
        index=step.index,
        velocity=velocity,
        mean=transition.mean,
        std=transition.std,
        dt=float(spec.points[step.index] - spec.points[step.index + 1]),
        log_prob=spec.dynamics.log_prob(step.x_next, transition),
    )
