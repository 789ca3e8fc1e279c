"""In which size BAGEL looks at an image (arXiv 2505.14683, the inferencer's transforms); without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resize:
    """A rule that gives an image of any size one of sides that are multiples of ``stride``.

    Attributes:
        largest: longest side, in pixels.
        smallest: shortest side that an image is brought to, as long as the longest one allows it.
        stride: both sides are multiples of it.
        most: pixels of an image, beyond which both sides shrink by the quotient (not by its root).
    """

    largest: int
    smallest: int
    stride: int
    most: int = 14 * 14 * 9 * 1024

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image that comes in that size."""
        scale = max(min(self.largest / max(height, width), 1.0), self.smallest / min(height, width))
        size = self._scaled((height, width), scale)
        if size[0] * size[1] > self.most:
            size = self._scaled(size, self.most / (size[0] * size[1]))
        if max(size) > self.largest:
            size = self._scaled(size, self.largest / max(size))
        return size

    def _scaled(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """Rounded to whole pixels, then to the stride, halves to even."""
        height, width = (max(self.stride, round(round(side * scale) / self.stride) * self.stride) for side in size)
        return height, width
