"""What a rollout recorded: typed segments, in order, of a batch of episodes.

Rows are prompt-major: row ``prompt * group_size + member``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.data.prompt import Prompt


@dataclass(frozen=True)
class TextSegment:
    """A block of text.

    Attributes:
        tokens: [B, L] int64, right-padded, without the leading bos; the token that ended it is included if it was said.
        mask: [B, L] bool, True where a token was said; all False in a row whose episode was over.
        given: whether it was given (a prompt) or said by the policy.
        turn: number of the turn that it belongs to, from 0.
    """

    tokens: Tensor
    mask: Tensor
    given: bool = False
    turn: int = 0

    @property
    def rows(self) -> int:
        """Episodes; or prompts, where the members of a group had not parted yet."""
        return self.tokens.shape[0]

    @property
    def alive(self) -> Tensor:
        """[rows] bool, False where the episode was over before."""
        return self.mask.any(1)


@dataclass(frozen=True)
class DenoisingStep:
    """One stochastic step: its index in the schedule, the latents before and after, [B, C, H, W] fp32."""

    index: int
    x: Tensor
    x_next: Tensor


@dataclass(frozen=True)
class ImageSegment:
    """A picture: given, painted by denoising, or painted token by token.

    Attributes:
        steps: the stochastic denoising steps, the only ones with a log-probability, in order.
        latents: [B, C, H, W], the clean latents at t = 0.
        alive: [B] bool, False where the episode was over before; what such a row holds means nothing.
        given: whether it was given (a source picture) or painted by the policy.
        turn: number of the turn that it belongs to, from 0.
        tokens: [B, N] int64, the picture's tokens if it was painted token by token, None if by denoising.
    """

    steps: tuple[DenoisingStep, ...]
    latents: Tensor
    alive: Tensor
    given: bool = False
    turn: int = 0
    tokens: Tensor | None = None

    @property
    def rows(self) -> int:
        """Episodes; or prompts, where the members of a group had not parted yet."""
        return self.latents.shape[0]


Segment = TextSegment | ImageSegment


@dataclass(frozen=True)
class TextScore:
    """Log-probabilities [B, L] fp32 of a text segment's tokens; masked places hold 0."""

    log_prob: Tensor


@dataclass(frozen=True)
class StepScore:
    """One stochastic step under some policy.

    Attributes:
        index: of the step in the schedule.
        velocity: [B, C, H, W], guided if the run is.
        mean: [B, C, H, W] of the Gaussian step.
        std: its standard deviation, 0-d.
        dt: size of the step.
        log_prob: [B] fp32 of the recorded next state.
    """

    index: int
    velocity: Tensor
    mean: Tensor
    std: Tensor
    dt: float
    log_prob: Tensor


@dataclass(frozen=True)
class ImageScore:
    """Scores of a picture.

    Attributes:
        steps: of its stochastic steps, in order.
        log_prob: [B, N] fp32 of its tokens, None if it was painted by denoising.
        velocities: [B, C, H, W] fp32 each, at points of the forward process if it was scored there.
    """

    steps: tuple[StepScore, ...] = ()
    log_prob: Tensor | None = None
    velocities: tuple[Tensor, ...] = ()


Score = TextScore | ImageScore | None


@dataclass(frozen=True)
class Cost:
    """Deterministic counts of work: velocity evaluations and text tokens, in rows."""

    nfe: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.nfe + other.nfe, self.tokens + other.tokens)


@dataclass(frozen=True)
class Trajectory:
    """One batch of episodes.

    Attributes:
        prompts: the P prompts.
        group_size: episodes per prompt; B = P * group_size.
        segments: in the order covered.
        scores: one per segment, by the policy that sampled it; None for given segments.
        cost: of sampling it.
    """

    prompts: Sequence[Prompt]
    group_size: int
    segments: tuple[Segment, ...]
    scores: tuple[Score, ...]
    cost: Cost = field(default_factory=Cost)

    @property
    def image(self) -> ImageSegment:
        """The last picture of the batch (whose rows need not all have made it)."""
        return next(s for s in reversed(self.segments) if isinstance(s, ImageSegment))

    @property
    def painted(self) -> int:
        """Pictures that the policy painted; one that a group shares counts once."""
        pictures = [s for s in self.segments if isinstance(s, ImageSegment) and not s.given]
        return sum(int(picture.alive.sum()) for picture in pictures)

    @property
    def thinking(self) -> TextSegment | None:
        """The first text that the policy said, None if it said nothing."""
        return next((s for s in self.segments if isinstance(s, TextSegment) and not s.given), None)

    @property
    def row_prompts(self) -> list[Prompt]:
        """The prompt of every row."""
        return [prompt for prompt in self.prompts for _ in range(self.group_size)]
