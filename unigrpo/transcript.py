"""What a batch of episodes said and showed, in words and pixels: all that rewards and measures look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

#: How a text ended: by asking for a picture, for good, or cut off at its longest; None where the episode was over.
End = Literal["paint", "stop", "cut"] | None


@dataclass(frozen=True)
class Words:
    """A text of every row, without the token that ended it.

    Attributes:
        texts: B texts; empty where the episode was over.
        ends: how each of them ended.
        lengths: in tokens, the end included.
        given: whether it was given or said by the policy.
        turn: number of its turn, from 0.
    """

    texts: Sequence[str]
    ends: Sequence[End]
    lengths: Sequence[int]
    given: bool
    turn: int

    @property
    def made(self) -> list[bool]:
        """Which rows have it."""
        return [end is not None for end in self.ends]


@dataclass(frozen=True)
class Pictures:
    """A picture of every row.

    Attributes:
        pixels: [B, 3, H, W] fp32 in [-1, 1] on the CPU; meaningless where it was not made.
        made: B flags, False where the episode was over.
        given: whether it was given or painted by the policy.
        turn: number of its turn, from 0.
    """

    pixels: Tensor
    made: Sequence[bool]
    given: bool
    turn: int


@dataclass(frozen=True)
class Transcript:
    """A batch of episodes, one part for each segment of their trajectory.

    Attributes:
        prompts: of the B rows.
        parts: in the order of the segments.
    """

    prompts: Sequence[Any]
    parts: tuple[Words | Pictures, ...]

    @property
    def pictures(self) -> list[tuple[int, Pictures]]:
        """The policy's pictures, each with the index of its segment."""
        return [(k, part) for k, part in enumerate(self.parts) if isinstance(part, Pictures) and not part.given]

    @property
    def words(self) -> list[tuple[int, Words]]:
        """The policy's texts, each with the index of its segment."""
        return [(k, part) for k, part in enumerate(self.parts) if isinstance(part, Words) and not part.given]

    def last_pictures(self) -> Tensor:
        """The last picture that each row's policy painted, [B, 3, H, W]; 0 where it painted none.

        At least one row must have painted.
        """
        pixels = self.pictures[0][1].pixels.new_zeros(())
        for _, part in self.pictures:
            pixels = part.pixels.where(pixels.new_tensor(part.made)[:, None, None, None] > 0, pixels)
        return pixels
