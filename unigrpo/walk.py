"""The one walker: everything that moves a policy over an episode goes through here.

:class:`Walk` advances a policy's context over segments.  Sampling draws an action and then *advances* over it; replay
advances over the recorded one.  Old log-probabilities, current ones and the reference's are therefore results of the
same operations on the same shapes, and the ratio before the first update is exactly 1.

A text is sampled token by token against the cached context, then fed to the context afresh as one block, as BAGEL does;
a picture's denoising steps all share the context built before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unigrpo.flow.dynamics import Ode
from unigrpo.models.policy import Context, Policy
from unigrpo.trajectory import (
    Cost,
    DenoisingStep,
    ImageScore,
    ImageSegment,
    Score,
    Segment,
    StepScore,
    TextScore,
    TextSegment,
    Trajectory,
)

#: Outside the window.
_EULER = Ode()

#: Keyed draws: (what is drawn, shape of one row) -> [B, *shape].  What: (segment index, "text"), (segment index,
#: "initial") or (segment index, "step", step index); text draws are uniform, the others standard normal.
Draw = Callable[[tuple[int | str, ...], Sequence[int]], Tensor]


@dataclass(frozen=True)
class Rules:
    """What a walk needs to know besides the policy; fixed for one update.

    Attributes:
        points: [N + 1] schedule from 1 to 0.
        dynamics: strategy of slot ``dynamics``, used on the stochastic steps.
        stochastic: indices of the steps that are sampled from it and trained; the others are Euler steps.
        guidance: strategy of slot ``guidance``.
        temperature: of text sampling and of text log-probabilities.
        bos, eos, pad: token ids that frame a text block.
        context_grad: whether a picture's loss reaches the experts through the keys and values of its context.
    """

    points: Tensor
    dynamics: Any
    stochastic: tuple[int, ...]
    guidance: Any
    temperature: float
    bos: int
    eos: int
    pad: int
    context_grad: bool = False


class Walk:
    """A policy on its way through a batch of episodes.

    Args:
        policy: implements :class:`~unigrpo.models.policy.Policy`.
        rules: of this update.
        batch: rows.
        train_text: whether gradients through the text blocks are wanted; False saves the backward graph.
    """

    def __init__(self, policy: Policy, rules: Rules, batch: int, *, train_text: bool = True):
        self.policy, self.rules, self.train_text = policy, rules, train_text
        self.context = policy.start(batch)
        self.unconditional = policy.start(batch) if rules.guidance.name != "cfg_free" else None
        self.segments: list[Segment] = []
        self.scores: list[Score] = []
        self.looked = 0
        self.cost = Cost()

    def repeat(self, times: int) -> None:
        """Turn every row into a group of ``times`` rows; the context walked so far is computed once and shared."""
        self.context = self.context.repeat(times)
        if self.unconditional is not None:
            self.unconditional = self.unconditional.repeat(times)

    def give(self, segment: Segment) -> None:
        """Take over a segment that the policy did not make."""
        self._record(segment, self._advance(segment))

    def follow(self, segment: Segment) -> None:
        """Go over a recorded segment, scoring it if the policy made it; rows are repeated where groups part."""
        rows = (segment.tokens if isinstance(segment, TextSegment) else segment.latents).shape[0]
        if rows != self.context.batch:
            self.repeat(rows // self.context.batch)
        self._record(segment, self._advance(segment))

    def skip(self, segment: Segment) -> None:
        """Record a segment without scoring it."""
        self._record(segment, None)

    def say(self, limit: int, draw: Draw) -> TextSegment:
        """Let the policy say at most ``limit`` tokens, up to and including the end of text; one uniform per token."""
        self._look()
        uniform = draw((len(self.segments), "text"), (limit,)).to(self.context.valid.device)
        context, rules = self.context, self.rules
        token = torch.full((context.batch,), rules.bos, device=uniform.device)
        saying = torch.ones_like(token, dtype=torch.bool)
        tokens, masks = [], []
        for k in range(limit):
            logits, context = self.policy.extend_text(context, token[:, None], saying[:, None])
            heap = (logits[:, 0].float() / rules.temperature).softmax(-1).cumsum(-1)
            # The last sum is 1 only up to rounding: a draw beyond it takes the last token.
            token = (heap <= uniform[:, k, None]).sum(-1).clamp(max=heap.shape[-1] - 1)
            token = token.where(saying, rules.pad)
            tokens.append(token)
            masks.append(saying)
            saying = saying & (token != rules.eos)
            if not saying.any():
                break
        segment = TextSegment(torch.stack(tokens, 1), torch.stack(masks, 1))
        self.cost += Cost(tokens=int(segment.mask.sum()))
        self._record(segment, self._advance(segment))
        return segment

    def paint(self, draw: Draw) -> ImageSegment:
        """Let the policy paint a picture: all steps of the schedule, the stochastic ones recorded and scored."""
        self._look()
        points, index = self.rules.points, len(self.segments)
        x = draw((index, "initial"), self.policy.latent_shape).to(self.context.valid.device)
        recorded, scores = [], []
        for k in range(len(points) - 1):
            velocity = self._velocity(x, k)
            if k in self.rules.stochastic:
                transition = self._transition(x, velocity, k)
                noise = draw((index, "step", k), self.policy.latent_shape).to(x.device)
                recorded.append(DenoisingStep(k, x, transition.sample(noise)))
                scores.append(self._score(recorded[-1], velocity, transition))
                x = recorded[-1].x_next
            else:
                x = _EULER.transition(x, velocity, points[k], points[k + 1], points[1]).mean
        segment = ImageSegment(tuple(recorded), x)
        self._record(segment, ImageScore(tuple(scores)))
        return segment

    def _record(self, segment: Segment, score: Score) -> None:
        self.segments.append(segment)
        self.scores.append(score)

    def _look(self) -> None:
        """Let the picture walked last enter the context: when something follows it, for it costs a forward pass."""
        last = self.segments[-1] if self.segments else None
        if not isinstance(last, ImageSegment) or self.looked == len(self.segments):
            return
        self.looked = len(self.segments)
        self.context = self.policy.extend_image(self.context, last.latents)
        if self.unconditional is not None:
            self.unconditional = self.policy.extend_image(self.unconditional, last.latents)

    def _advance(self, segment: Segment) -> Score:
        self._look()
        if isinstance(segment, TextSegment):
            return self._advance_text(segment)
        return None if segment.given else ImageScore(tuple(self._score_step(step) for step in segment.steps))

    def _advance_text(self, segment: TextSegment) -> TextScore | None:
        rules = self.rules
        first = torch.full_like(segment.tokens[:, :1], rules.bos)
        tokens = torch.cat((first, segment.tokens), 1)
        mask = torch.cat((torch.ones_like(first, dtype=torch.bool), segment.mask), 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_text):
            logits, self.context = self.policy.extend_text(self.context, tokens, mask)
            self.cost += Cost(tokens=int(mask.sum()))
            if segment.given:
                return None
            log_prob = (logits[:, :-1].float() / rules.temperature).log_softmax(-1)
            chosen = log_prob.gather(-1, segment.tokens[..., None])[..., 0]
            return TextScore(chosen.where(segment.mask, 0.0))

    def _score_step(self, step: DenoisingStep) -> StepScore:
        velocity = self._velocity(step.x, step.index)
        return self._score(step, velocity, self._transition(step.x, velocity, step.index))

    def _score(self, step: DenoisingStep, velocity: Tensor, transition: Any) -> StepScore:
        points = self.rules.points
        return StepScore(
            index=step.index,
            velocity=velocity,
            mean=transition.mean,
            std=transition.std,
            dt=float(points[step.index] - points[step.index + 1]),
            log_prob=self.rules.dynamics.log_prob(step.x_next, transition),
        )

    def _transition(self, x: Tensor, velocity: Tensor, k: int) -> Any:
        points = self.rules.points
        return self.rules.dynamics.transition(x, velocity, points[k], points[k + 1], points[1])

    def _velocity(self, x: Tensor, k: int) -> Tensor:
        """The velocity that moves the picture at step ``k``, fp32, guided where the guidance says so."""
        t = self.rules.points[k]
        velocity = self.policy.velocity(self._seen(self.context), x, t).float()
        self.cost += Cost(nfe=x.shape[0])
        if self.unconditional is None or not self.rules.guidance.guides(float(t)):
            return velocity
        self.cost += Cost(nfe=x.shape[0])
        return self.rules.guidance.combine(velocity, self.policy.velocity(self._seen(self.unconditional), x, t).float())

    def _seen(self, context: Context) -> Context:
        return context if self.rules.context_grad else context.detach()


def replay(
    policy: Policy, rules: Rules, trajectory: Trajectory, *, images: bool = True, train_text: bool = True
) -> Walk:
    """A finished walk of ``policy`` over a recorded batch; its ``scores`` are one per segment.

    Gradients flow as the caller's grad mode says, through text blocks only with ``train_text``.  Without ``images`` the
    pictures' steps are left out (their score is None), which saves the velocities.
    """
    walk = Walk(policy, rules, len(trajectory.prompts), train_text=train_text)
    for segment in trajectory.segments:
        if images or isinstance(segment, TextSegment):
            walk.follow(segment)
        else:
            walk.skip(segment)
    return walk
