"""Pictures by flow matching: the actions are denoising steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unigrpo.flow.dynamics import Ode
from unigrpo.heads.head import ImageHead
from unigrpo.registry import register
from unigrpo.trajectory import Cost, DenoisingStep, ImageScore, ImageSegment, StepScore

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.walk import Draw, Walk

#: Outside the window.
_EULER = Ode()


@register("image_head", "flow", source="BAGEL (arXiv 2505.14683); Flow-GRPO (2505.05470)")
@dataclass(frozen=True)
class Flow(ImageHead):
    """Continuous latents, painted by denoising; all steps of a picture share the context built before it."""

    denoises: ClassVar[bool] = True
    deferred: ClassVar[bool] = True

    def paint(self, walk: Walk, draw: Draw) -> tuple[ImageSegment, ImageScore]:
        """All steps of the schedule from keyed noise, the stochastic ones recorded and scored."""
        rules, shape, index = walk.rules, walk.policy.latent_shape, len(walk.segments)
        x = walk.drawn(draw, (index, "initial"), shape)
        recorded, scores = [], []
        for k in range(len(rules.points) - 1):
            velocity = self._velocity(walk, x, k, walk.active)
            if k in rules.stochastic:
                transition = _transition(rules, x, velocity, k)
                noise = walk.drawn(draw, (index, "step", k), shape)
                recorded.append(DenoisingStep(k, x, transition.sample(noise)))
                scores.append(_score(rules, recorded[-1], velocity, transition))
                x = recorded[-1].x_next
            else:
                x = _EULER.transition(x, velocity, rules.points[k], rules.points[k + 1], rules.points[1]).mean
        return ImageSegment(tuple(recorded), x, walk.active), ImageScore(tuple(scores))

    def score(self, walk: Walk, segment: ImageSegment) -> ImageScore:
        """The recorded steps under the walk's policy."""
        scores = []
        for recorded in segment.steps:
            x, x_next = _blank(recorded.x, segment.made), _blank(recorded.x_next, segment.made)
            step = DenoisingStep(recorded.index, x, x_next)
            velocity = self._velocity(walk, x, step.index, segment.made)
            scores.append(_score(walk.rules, step, velocity, _transition(walk.rules, x, velocity, step.index)))
        return ImageScore(tuple(scores))

    def look(self, walk: Walk, segment: ImageSegment) -> None:
        """Let a finished picture enter the context as clean latents (t = 0)."""
        latents = _blank(segment.latents, segment.made)
        walk.context = walk.policy.extend_image(walk.context, latents, segment.made)
        if walk.unconditional is not None:
            walk.unconditional = walk.policy.extend_image(walk.unconditional, latents, segment.made)

    def _velocity(self, walk: Walk, x: Tensor, k: int, made: Tensor) -> Tensor:
        """The velocity that moves the pictures at step ``k``, fp32, guided where the guidance says so."""
        t, guidance = walk.rules.points[k], walk.rules.guidance
        velocity = walk.policy.velocity(walk.seen(walk.context), x, t).float()
        work = Cost(nfe=int(made.sum()))
        walk.cost += work
        if walk.unconditional is None or not guidance.guides(float(t)):
            return velocity
        walk.cost += work
        free: Tensor = walk.policy.velocity(walk.seen(walk.unconditional), x, t).float()
        guided: Tensor = guidance.combine(velocity, free)
        return guided


def _blank(x: Tensor, made: Tensor) -> Tensor:
    """Zeros in the rows whose episode was over: were there NaN, a gradient of 0 times it would be NaN for all rows."""
    return x.where(made[:, None, None, None], 0.0)


def _transition(rules: Any, x: Tensor, velocity: Tensor, k: int) -> Any:
    return rules.dynamics.transition(x, velocity, rules.points[k], rules.points[k + 1], rules.points[1])


def _score(rules: Any, step: DenoisingStep, velocity: Tensor, transition: Any) -> StepScore:
    return StepScore(
        index=step.index,
        velocity=velocity,
        mean=transition.mean,
        std=transition.std,
        dt=float(rules.points[step.index] - rules.points[step.index + 1]),
        log_prob=rules.dynamics.log_prob(step.x_next, transition),
    )
