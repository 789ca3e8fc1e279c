"""The one rollout: everything that moves a policy over an episode goes through here.

:class:`Rollout` advances a policy's context over segments.  Sampling draws an action and then *advances* over it;
replay advances over the recorded one.  Old log-probabilities, current ones and the reference's are therefore results of
the same operations on the same shapes, and the ratio before the first update is exactly 1.

A text is sampled token by token against the cached context, then fed to the context afresh as one block, as BAGEL does.
A picture enters the context when something follows it, whoever made it.  Episodes of a batch may end at different
times: the rows that are over stay in the batch, masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unigrpo.checks import ShapeError
from unigrpo.models.policy import Context, Policy
from unigrpo.rollout.sampling import choose, log_prob
from unigrpo.rollout.trajectory import Cost, ImageSegment, Score, Segment, TextScore, TextSegment, Trajectory

#: Keyed draws: (what is drawn, shape of one row) -> [B, *shape].  What: (segment index, "text"), (segment index,
#: "initial") or (segment index, "step", step index); text draws are uniform, the others standard normal.
Draw = Callable[[tuple[int | str, ...], Sequence[int]], Tensor]


@dataclass(frozen=True)
class RolloutSpec:
    """What a rollout needs to know besides the policy; fixed for one update.

    Attributes:
        points: [N + 1] schedule from 1 to 0.
        dynamics: strategy of slot ``dynamics``, used on the stochastic steps.
        stochastic: indices of the steps that are sampled from it and trained; the others are Euler steps.
        guidance: strategy of slot ``guidance``.
        temperature: of text sampling and of text log-probabilities.
        bos, eos, pad: token ids that frame a text block.
        image: token id that ends a text block by asking for a picture.
        head: strategy of slot ``image_head``.
        context_grad: whether a segment's loss reaches the other modality's expert through the keys and values of its
            context; within a modality of text it always does.
        update: number of the update, for episodes that change from one to the next.
    """

    points: Tensor
    dynamics: Any
    stochastic: tuple[int, ...]
    guidance: Any
    temperature: float
    bos: int
    eos: int
    pad: int
    image: int
    head: Any
    context_grad: bool = False
    update: int = 0


class Rollout:
    """A policy on its way through a batch of episodes.

    Args:
        policy: implements :class:`~unigrpo.models.policy.Policy`.
        spec: of this update.
        batch: rows.
        train_text: whether gradients through the text blocks are wanted; False saves the backward graph.

    Attributes:
        groups: rows at the start, one per prompt.
        context: everything covered so far.
        unconditional: the same without texts; None if nothing is guided.
        segments: covered so far, one score each.
        active: [rows] bool, which episodes go on.
        turn: number of the turn, which episodes count.
        unseen: a picture that is to enter the context when something follows it, for that costs a forward pass.
        cost: of the work so far.
    """

    def __init__(self, policy: Policy, spec: RolloutSpec, batch: int, *, train_text: bool = True):
        self.policy, self.spec, self.train_text, self.groups = policy, spec, train_text, batch
        self.context = policy.start(batch)
        self.unconditional = policy.start(batch) if spec.guidance.name != "cfg_free" else None
        self.segments: list[Segment] = []
        self.scores: list[Score] = []
        self.active = torch.ones(batch, dtype=torch.bool, device=self.context.valid.device)
        self.turn = 0
        self.pending_image: ImageSegment | None = None
        self.cost = Cost()

    def repeat(self, times: int) -> None:
        """Turn every row into a group of ``times`` rows; what was covered so far is computed once and shared."""
        self._encode_pending_image()
        self.context = self.context.repeat(times)
        self.active = self.active.repeat_interleave(times, 0)
        if self.unconditional is not None:
            self.unconditional = self.unconditional.repeat(times)

    def condition_on(self, segment: Segment) -> None:
        """Take over a segment that the policy did not make, one row per episode or per group.

        Raises:
            ShapeError: another number of rows, which would pair it with episodes that it does not belong to.
        """
        if segment.rows not in (self.groups, self.context.batch):
            raise ShapeError(
                f"given segment: expected a row for each of {self.groups} prompts or {self.context.batch} episodes,"
                f" got {segment.rows}"
            )
        given = replace(_repeated(segment, self.context.batch // segment.rows), given=True, turn=self.turn)
        self._advance(given)

    def replay(self, segment: Segment) -> None:
        """Go over a recorded segment, scoring it if the policy made it; rows are repeated where groups part."""
        self._part(segment)
        self._advance(segment)

    def append(self, segment: Segment) -> None:
        """Record a segment without scoring it."""
        self._part(segment)
        self._encode_pending_image()
        self._record(segment, None, pending_image=isinstance(segment, ImageSegment))

    def generate_text(self, limit: int, draw: Draw) -> TextSegment:
        """Let the policy say at most ``limit`` tokens, up to and including the end of text; one uniform per token."""
        return self._generate_text(limit, draw, (self.spec.eos,))

    def generate_text_or_stop(self, limit: int, draw: Draw) -> bool:
        """Let the policy say something and choose how to end it: by asking for a picture, or for good.

        The episodes that did not ask for a picture, be it that they went on beyond the limit, are over.

        Returns:
            Whether any episode goes on.
        """
        said = self._generate_text(limit, draw, (self.spec.eos, self.spec.image))
        self.active = ((said.tokens == self.spec.image) & said.mask).any(1)
        return bool(self.active.any())

    def generate_image(self, draw: Draw) -> ImageSegment:
        """Let the policy paint a picture."""
        self._encode_pending_image()
        segment, score = self.spec.head.generate_image(self, draw)
        segment = replace(segment, turn=self.turn)
        self._record(segment, score, pending_image=self.spec.head.deferred)
        return segment

    def noise(self, draw: Draw, what: tuple[int | str, ...], shape: Sequence[int]) -> Tensor:
        """Keyed draws [rows, *shape]; before the members of a group part, those of its first member."""
        draws = draw(what, shape).to(self.context.valid.device)
        # Contiguous, as replay will see what is made of them.
        return draws[:: len(draws) // self.context.batch].contiguous()

    def cross_modal_context(self, context: Context) -> Context:
        """``context`` as the other modality sees it: gradients pass only if the rules say so."""
        return context if self.spec.context_grad else context.detach()

    def _generate_text(self, limit: int, draw: Draw, ends: tuple[int, ...]) -> TextSegment:
        self._encode_pending_image()
        uniform = self.noise(draw, (len(self.segments), "text"), (limit,))
        context, spec, saying = self.context, self.spec, self.active
        token = torch.full((context.batch,), spec.bos, device=uniform.device)
        stops = torch.tensor(ends, device=uniform.device)
        tokens, masks = [], []
        for k in range(limit):
            logits, context = self.policy.extend_text(context, token[:, None], saying[:, None])
            token = choose(logits[:, 0], spec.temperature, uniform[:, k]).where(saying, spec.pad)
            tokens.append(token)
            masks.append(saying)
            saying = saying & ~torch.isin(token, stops)
            if not saying.any():
                break
        segment = TextSegment(torch.stack(tokens, 1), torch.stack(masks, 1), turn=self.turn)
        self.cost += Cost(tokens=int(segment.mask.sum()))
        self._advance(segment)
        return segment

    def _record(self, segment: Segment, score: Score, *, pending_image: bool = False) -> None:
        self.segments.append(segment)
        self.scores.append(score)
        self.pending_image = segment if pending_image and isinstance(segment, ImageSegment) else None

    def _part(self, segment: Segment) -> None:
        if segment.rows != self.context.batch:
            self.repeat(segment.rows // self.context.batch)

    def _encode_pending_image(self) -> None:
        picture, self.pending_image = self.pending_image, None
        if picture is None:
            return
        walked = self.context
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.spec.context_grad):
            self.spec.head.encode(self, picture)
        if not self.spec.context_grad:
            # The picture passes no gradient; the texts before it still learn from the texts after it.
            self.context = walked.followed_by(self.context)

    def _advance(self, segment: Segment) -> None:
        """Move over a segment and record it with its score."""
        self._encode_pending_image()
        if isinstance(segment, TextSegment):
            self._record(segment, self._advance_text(segment))
        elif segment.given:
            self._record(segment, None, pending_image=True)
        else:
            self._record(segment, self.spec.head.score(self, segment), pending_image=self.spec.head.deferred)

    def _advance_text(self, segment: TextSegment) -> TextScore | None:
        spec = self.spec
        first = torch.full_like(segment.tokens[:, :1], spec.bos)
        tokens = torch.cat((first, segment.tokens), 1)
        mask = torch.cat((segment.alive[:, None], segment.mask), 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_text):
            logits, self.context = self.policy.extend_text(self.context, tokens, mask)
            self.cost += Cost(tokens=int(mask.sum()))
            if segment.given:
                return None
            scores = log_prob(logits[:, :-1], spec.temperature, segment.tokens)
            return TextScore(scores.where(segment.mask, 0.0))


def _repeated(segment: Segment, times: int) -> Segment:
    if times == 1:
        return segment
    if isinstance(segment, TextSegment):
        return replace(
            segment, tokens=segment.tokens.repeat_interleave(times, 0), mask=segment.mask.repeat_interleave(times, 0)
        )
    return replace(
        segment, latents=segment.latents.repeat_interleave(times, 0), alive=segment.alive.repeat_interleave(times, 0)
    )


def replay(
    policy: Policy, spec: RolloutSpec, trajectory: Trajectory, *, images: bool = True, train_text: bool = True
) -> Rollout:
    """A finished walk of ``policy`` over a recorded batch; its ``scores`` are one per segment.

    Gradients flow as the caller's grad mode says, through text blocks only with ``train_text``.  Without ``images`` the
    pictures' steps are left out (their score is None), which saves the velocities.
    """
    rollout = Rollout(policy, spec, len(trajectory.prompts), train_text=train_text)
    for segment in trajectory.segments:
        if images or isinstance(segment, TextSegment):
            rollout.replay(segment)
        else:
            rollout.append(segment)
    return rollout
