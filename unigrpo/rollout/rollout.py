"""The one rollout: everything that moves a policy over an episode goes through here.

:class:`Rollout` advances a policy's context over segments.  Sampling draws an action and then *advances* over it;
replay advances over the recorded one.  Old log-probabilities, current ones and the reference's are therefore results of
the same operations on the same sizes, and the ratio before the first update is exactly 1.

A text is sampled token by token against the cached context, then fed to the context afresh as one block, as BAGEL does.
An image, given or generated, enters the context when something follows it, and with it what a vision encoder sees in
it.  Episodes of a batch may end at different times: the rows that are over stay in the batch, masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from unigrpo.checks import ShapeError
from unigrpo.noise import Draw, Key
from unigrpo.rollout.coverage import COVERAGES, WHOLE, Coverage
from unigrpo.rollout.sampling import choose, log_prob
from unigrpo.rollout.trajectory import Cost, ImageSegment, Score, Segment, TextScore, TextSegment, Trajectory

if TYPE_CHECKING:
    from unigrpo.flow.dynamics import Dynamics
    from unigrpo.flow.guidance import Guidance
    from unigrpo.models.policy import Context, Policy, VisionPolicy
    from unigrpo.rollout.heads.head import ImageHead


def _any_row(flags: Tensor) -> bool:
    return bool(flags.any())


@dataclass(frozen=True)
class RolloutSpec:
    """What a rollout needs to know besides the policy; fixed for one update.

    Attributes:
        points: [N + 1] schedule from 1 to 0.
        dynamics: strategy of slot ``dynamics``, used on the stochastic steps.
        stochastic: indices of the steps that are sampled from it and trained; the others are Euler steps.
        guidance: strategy of slot ``guidance``.
        temperature: of text sampling and of text log-probabilities.
        bos: token id that begins a text block.
        eos: token id that ends a text block.
        pad: token id that fills ragged blocks.
        image: token id that ends a text block by asking for an image.
        head: strategy of slot ``image_head``.
        latent_shape: (C, H, W) of the latents of a generated image.
        context_grad: whether a segment's loss reaches the other modality's expert through the context; within a
            modality of text it always does.
        update: number of the update, for episodes that change from one to the next.
        prompt: token id that begins a given text block, where that is another than ``bos``.
        system: token ids of a text block that every context begins with, without what begins it; empty for none.
        stops: token ids that end a generated text block besides ``eos``.
        anywhere: whether a flag [B] of rows that go on is set, in this process or, where all compute in step, in any.
        see: what makes the features of a generated image when it enters the context; None without a vision encoder,
            and in a replay, which reads the recorded ones.
    """

    points: Tensor
    dynamics: Dynamics
    stochastic: tuple[int, ...]
    guidance: Guidance
    temperature: float
    bos: int
    eos: int
    pad: int
    image: int
    head: ImageHead
    latent_shape: tuple[int, int, int]
    context_grad: bool = False
    update: int = 0
    prompt: int | None = None
    system: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()
    anywhere: Callable[[Tensor], bool] = _any_row
    see: Callable[[ImageSegment], Tensor] | None = None

    def cross_modal_context(self, context: Context) -> Context:
        """``context`` as the other modality sees it: gradients pass only with ``context_grad``."""
        return context if self.context_grad else context.detach()

    @property
    def begin(self) -> int:
        """The token that begins a given text block."""
        return self.bos if self.prompt is None else self.prompt


@dataclass(frozen=True)
class SegmentNoise:
    """The keyed draws of one segment, on the policy's device.

    Attributes:
        draw: of the batch.
        segment: index of the segment.
        rows: of the context; before the members of a group part, the draws are those of its first member.
        device: of the policy.
    """

    draw: Draw
    segment: int
    rows: int
    device: torch.device

    def uniform(self, what: Key, shape: Sequence[int]) -> Tensor:
        """Draws [rows, *shape] in [0, 1)."""
        return self._placed(self.draw.uniform((self.segment, *what), shape))

    def normal(self, what: Key, shape: Sequence[int], *, shareable: bool = False) -> Tensor:
        """Standard normal draws [rows, *shape]; a group may have ``shareable`` ones in common."""
        return self._placed(self.draw.normal((self.segment, *what), shape, shareable=shareable))

    def _placed(self, draws: Tensor) -> Tensor:
        draws = draws.to(self.device)
        # Contiguous, as replay will see what is made of them.
        return draws[:: len(draws) // self.rows].contiguous()


class Rollout:
    """A policy on its way through a batch of episodes.

    Args:
        policy: implements :class:`~unigrpo.models.policy.Policy`.
        spec: of this update.
        batch: rows.
        train_text: whether gradients through the text blocks are wanted; False saves the backward graph.

    Attributes:
        groups: rows at the start, one per prompt.
        contexts: everything covered so far, and for each branch of the guidance what that one leaves of it.
        segments: covered so far, one score each.
        alive: [rows] bool, which episodes go on.
        turn: number of the turn, which episodes count.
        pending_image: an image that is to enter the contexts when something follows it, as that costs a forward pass.
        pending_features: an image whose features are to enter then, behind it.
        cost: of the work so far.
    """

    def __init__(self, policy: Policy, spec: RolloutSpec, batch: int, *, train_text: bool = True):
        self.policy, self.spec, self.train_text, self.groups = policy, spec, train_text, batch
        self._coverages = (WHOLE, *(COVERAGES[branch] for branch in spec.guidance.branches))
        self.cost = Cost()
        self.contexts: tuple[Context, ...] = (self._start(),) * len(self._coverages)
        self.segments: list[Segment] = []
        self.scores: list[Score] = []
        self.alive = torch.ones(batch, dtype=torch.bool, device=policy.device)
        self.turn = 0
        self.pending_image: ImageSegment | None = None
        self.pending_features: ImageSegment | None = None

    @property
    def rows(self) -> int:
        """Of the contexts: one per prompt, or per episode once groups have parted."""
        return self.contexts[0].batch

    def repeat(self, times: int) -> None:
        """Turn every row into a group of ``times`` rows; what was covered so far is computed once and shared."""
        self._encode_pending_image()
        self.contexts = tuple(context.repeat(times) for context in self.contexts)
        self.alive = self.alive.repeat_interleave(times, 0)

    def condition_on(self, segment: Segment) -> None:
        """Take over a segment that the policy did not make, one row per episode or per group.

        Raises:
            ShapeError: another number of rows, which would pair it with episodes that it does not belong to.
        """
        if segment.rows not in (self.groups, self.rows):
            raise ShapeError(
                f"given segment: expected a row for each of {self.groups} prompts or {self.rows} episodes,"
                f" got {segment.rows}"
            )
        given = replace(_repeated(segment, self.rows // segment.rows), given=True, turn=self.turn)
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
        """Let the policy generate at most ``limit`` tokens, the end of text included; one uniform draw per token."""
        return self._generate_text(limit, draw, (self.spec.eos, *self.spec.stops))

    def generate_text_or_stop(self, limit: int, draw: Draw) -> bool:
        """Let the policy generate a text and choose how to end it: by asking for an image, or for good.

        The episodes that did not ask for an image, be it that they went on beyond the limit, are over.

        Returns:
            Whether any episode goes on.
        """
        text = self._generate_text(limit, draw, (self.spec.eos, *self.spec.stops, self.spec.image))
        self.alive = ((text.tokens == self.spec.image) & text.mask).any(1)
        return self.spec.anywhere(self.alive)

    def generate_image(self, draw: Draw) -> ImageSegment:
        """Let the policy generate an image."""
        self._encode_pending_image()
        head = self.spec.head
        segment, score, contexts, cost = head.generate_image(
            self.policy, self.spec, self.contexts, self.noise(draw), self.alive
        )
        self._go_on(contexts, cost)
        segment = replace(segment, turn=self.turn)
        self._record(segment, score, pending_image=head.deferred)
        return segment

    def noise(self, draw: Draw) -> SegmentNoise:
        """The draws of the next segment."""
        return SegmentNoise(draw, len(self.segments), self.rows, self.alive.device)

    def _generate_text(self, limit: int, draw: Draw, ends: tuple[int, ...]) -> TextSegment:
        self._encode_pending_image()
        uniform = self.noise(draw).uniform(("text",), (limit,))
        context, spec, unfinished = self.contexts[0], self.spec, self.alive
        token = torch.full((context.batch,), spec.bos, device=uniform.device)
        stops = torch.tensor(ends, device=uniform.device)
        rows = torch.arange(context.batch, device=uniform.device)
        tokens, masks = [], []
        for k in range(limit):
            going = unfinished[rows]
            # Finished rows cost what others cost.  Leaving them out copies the context: not before half are.
            if 0 < 2 * int(going.sum()) <= len(rows):
                rows, context = rows[going], context.rows(going.nonzero()[:, 0])
            logits, context = self.policy.extend_text(context, token[rows, None], unfinished[rows, None])
            chosen = choose(logits[:, 0], spec.temperature, uniform[rows, k])
            token = torch.full_like(token, spec.pad).index_copy(0, rows, chosen).where(unfinished, spec.pad)
            tokens.append(token)
            masks.append(unfinished)
            unfinished = unfinished & ~torch.isin(token, stops)
            if not self.spec.anywhere(unfinished):
                break
        segment = TextSegment(torch.stack(tokens, 1), torch.stack(masks, 1), turn=self.turn)
        self.cost += Cost(tokens=int(segment.mask.sum()))
        self._advance(segment)
        return segment

    def _start(self) -> Context:
        """The context before the first segment: empty, or that of the system prompt."""
        start, system = self.policy.start(self.groups), self.spec.system
        if not system:
            return start
        tokens = torch.tensor([self.spec.begin, *system], device=self.policy.device).expand(self.groups, -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_text):
            _, context = self.policy.extend_text(start, tokens, torch.ones_like(tokens, dtype=torch.bool), logits=False)
        self.cost += Cost(tokens=tokens.numel())
        return context

    def _record(self, segment: Segment, score: Score, *, pending_image: bool = False) -> None:
        self.segments.append(segment)
        self.scores.append(score)
        self.pending_features = segment if isinstance(segment, ImageSegment) else None
        self.pending_image = self.pending_features if pending_image else None

    def _part(self, segment: Segment) -> None:
        if segment.rows != self.rows:
            self.repeat(segment.rows // self.rows)

    def _encode_pending_image(self) -> None:
        image, seen = self.pending_image, self.pending_features
        self.pending_image = self.pending_features = None
        if image is not None:
            self._enter_image(image)
        if seen is not None:
            self._enter_features(seen)

    def _enter_image(self, image: ImageSegment) -> None:
        before = self._of_images()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.spec.context_grad):
            contexts, cost = self.spec.head.encode(self.policy, self.spec, before, image)
        if not self.spec.context_grad:
            # The image passes no gradient; the texts before it still learn from the texts after it.
            contexts = (before[0].followed_by(contexts[0]), *contexts[1:])
        self._lengthen(contexts)
        self.cost += cost

    def _of_images(self) -> tuple[Context, ...]:
        """The contexts that cover images, the conditional one first."""
        pairs = zip(self.contexts, self._coverages, strict=True)
        return tuple(context for context, coverage in pairs if coverage.images)

    def _lengthen(self, contexts: Sequence[Context]) -> None:
        """Go on with ``contexts`` for those of :meth:`_of_images`."""
        longer, whole = iter(contexts), contexts[0]
        self.contexts = tuple(
            next(longer) if coverage.images else whole if coverage.renewed else context
            for coverage, context in zip(self._coverages, self.contexts, strict=True)
        )

    def _enter_features(self, image: ImageSegment) -> None:
        """Let the text policy read what a vision encoder sees in the image before, if there is one."""
        if image.features is None and self.spec.see is not None:
            image = replace(image, features=self.spec.see(image))
            self.segments[-1] = image
        if image.features is None:
            return
        # As of latents: what rows hold whose episode is over means nothing, and may be NaN.
        features = image.features.where(image.alive[:, None, None], 0.0)
        reader = cast("VisionPolicy", self.policy)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_text):
            longer = [reader.extend_features(context, features, image.alive) for context in self._of_images()]
        self._lengthen(longer)
        self.cost += Cost(tokens=int(image.alive.sum()) * features.shape[1] * len(longer))

    def _go_on(self, contexts: Sequence[Context], cost: Cost) -> None:
        """Go on with the contexts as a head left them, in those that cover images."""
        if not self.spec.head.deferred:
            pairs = zip(contexts, self._coverages, strict=True)
            self._lengthen([context for context, coverage in pairs if coverage.images])
        self.cost += cost

    def _advance(self, segment: Segment) -> None:
        """Move over a segment and record it with its score."""
        self._encode_pending_image()
        if isinstance(segment, TextSegment):
            self._record(segment, self._advance_text(segment))
        elif segment.given:
            self._record(segment, None, pending_image=True)
        else:
            score, contexts, cost = self.spec.head.score(self.policy, self.spec, self.contexts, segment)
            self._go_on(contexts, cost)
            self._record(segment, score, pending_image=self.spec.head.deferred)

    def _advance_text(self, segment: TextSegment) -> TextScore | None:
        spec = self.spec
        first = torch.full_like(segment.tokens[:, :1], spec.begin if segment.given else spec.bos)
        tokens = torch.cat((first, segment.tokens), 1)
        mask = torch.cat((segment.alive[:, None], segment.mask), 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_text):
            # Nobody reads the logits of a given text, nor those of a branch.
            logits, context = self.policy.extend_text(self.contexts[0], tokens, mask, logits=not segment.given)
            branches = [
                self.policy.extend_text(branch, self._as_read(coverage, tokens), mask, logits=False)[1]
                if coverage.reads(segment)
                else self.contexts[0]
                if coverage.renewed and segment.given
                else branch
                for coverage, branch in zip(self._coverages[1:], self.contexts[1:], strict=True)
            ]
            self.contexts = (context, *branches)
            self.cost += Cost(tokens=int(mask.sum()) * sum(coverage.reads(segment) for coverage in self._coverages))
            if segment.given:
                return None
            scores = log_prob(logits[:, :-1], spec.temperature, segment.tokens)
            return TextScore(scores.where(segment.mask, 0.0))

    def _as_read(self, coverage: Coverage, tokens: Tensor) -> Tensor:
        """Tokens [B, L] as a branch reads them: one that is padded is told nothing of the words but their number."""
        spec = self.spec
        return tokens.where(tokens == spec.begin, spec.pad) if coverage.padded else tokens


def _repeated(segment: Segment, times: int) -> Segment:
    if times == 1:
        return segment
    if isinstance(segment, TextSegment):
        return replace(
            segment, tokens=segment.tokens.repeat_interleave(times, 0), mask=segment.mask.repeat_interleave(times, 0)
        )
    return replace(
        segment,
        latents=segment.latents.repeat_interleave(times, 0),
        alive=segment.alive.repeat_interleave(times, 0),
        features=None if segment.features is None else segment.features.repeat_interleave(times, 0),
    )


def replay(
    policy: Policy, spec: RolloutSpec, trajectory: Trajectory, *, images: bool = True, train_text: bool = True
) -> Rollout:
    """``policy`` over a recorded batch; its ``scores`` are one per segment.

    The caller's grad mode holds; gradients flow through text blocks only with ``train_text``.  Without ``images`` their
    steps are left out (the score is None), which saves the velocities.
    """
    rollout = Rollout(policy, replace(spec, see=None), len(trajectory.prompts), train_text=train_text)
    for segment in trajectory.segments:
        if images or isinstance(segment, TextSegment):
            rollout.replay(segment)
        else:
            rollout.append(segment)
    return rollout
