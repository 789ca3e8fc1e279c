"""What a batch of episodes said and showed, in words and pixels: all that rewards and measures look at."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.data.prompt import Prompt

T = TypeVar("T")

#: How a text ended: by asking for a picture, for good, or cut off at its longest; None where the episode was over.
End = Literal["image", "stop", "cut"] | None


@dataclass(frozen=True)
class TextPart:
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
    def alive(self) -> list[bool]:
        """Which rows have it."""
        return [end is not None for end in self.ends]


@dataclass(frozen=True)
class ImagePart:
    """A picture of every row.

    Attributes:
        pixels: [B, 3, H, W] fp32 in [-1, 1] on the CPU; meaningless where it was not made.
        alive: B flags, False where the episode was over.
        given: whether it was given or painted by the policy.
        turn: number of its turn, from 0.
    """

    pixels: Tensor
    alive: Sequence[bool]
    given: bool
    turn: int


@dataclass(frozen=True)
class DecodedEpisodes:
    """A batch of episodes, one part for each segment of their trajectory.

    What is found by looking at it is kept, so that the reward and the measures of one rollout ask a judge once.

    Attributes:
        prompts: of the B rows.
        parts: in the order of the segments.
    """

    prompts: Sequence[Prompt]
    parts: tuple[TextPart | ImagePart, ...]
    _found: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, who: Hashable, find: Callable[[], T]) -> T:
        """What ``find`` gives; only the first call of ``who`` computes it."""
        if who not in self._found:
            self._found[who] = find()
        found: T = self._found[who]
        return found

    def judged(self, judge: Callable[[DecodedEpisodes], T]) -> T:
        """``judge(self)``, asked once."""
        return self.once(judge, lambda: judge(self))

    def verdicts(self, judge: Callable[[Tensor, Sequence[Prompt]], Sequence[T]], segment: int) -> Sequence[T]:
        """``judge(pixels, prompts)``, of one segment's pictures, asked once."""
        return self.once((judge, segment), lambda: judge(self.image(segment).pixels, self.prompts))

    def image(self, segment: int) -> ImagePart:
        """The images of one segment.

        Raises:
            TypeError: it is a text.
        """
        part = self.parts[segment]
        if not isinstance(part, ImagePart):
            raise TypeError(f"segment {segment}: expected images, got texts")
        return part

    def of_last(self, find: Callable[[int], Sequence[T]], blank: Callable[[Tensor], Sequence[T]]) -> Sequence[T]:
        """What is found of :meth:`last_images`.

        Args:
            find: what is found of one segment's pictures, row by row.
            blank: the same of pictures, asked where some row painted none: nobody has looked at its blank one.
        """
        last: dict[int, T] = {}
        for k, part in self.images:
            found = find(k)
            last |= {row: found[row] for row, alive in enumerate(part.alive) if alive}
        whole = len(last) == len(self.prompts)
        return [last[row] for row in range(len(last))] if whole else blank(self.last_images())

    @property
    def images(self) -> list[tuple[int, ImagePart]]:
        """The policy's pictures, each with the index of its segment."""
        return [(k, part) for k, part in enumerate(self.parts) if isinstance(part, ImagePart) and not part.given]

    @property
    def texts(self) -> list[tuple[int, TextPart]]:
        """The policy's texts, each with the index of its segment."""
        return [(k, part) for k, part in enumerate(self.parts) if isinstance(part, TextPart) and not part.given]

    def last_images(self) -> Tensor:
        """The last picture that each row's policy painted, [B, 3, H, W]; 0 where it painted none.

        At least one row must have painted.
        """
        pixels = self.images[0][1].pixels.new_zeros(())
        for _, part in self.images:
            pixels = part.pixels.where(pixels.new_tensor(part.alive)[:, None, None, None] > 0, pixels)
        return pixels
