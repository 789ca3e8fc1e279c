"""What the contexts of a guidance's branches cover of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unigrpo.flow.guidance import Branch
    from unigrpo.rollout.trajectory import TextSegment


@dataclass(frozen=True)
class Coverage:
    """What a context covers: given texts, generated texts, images.

    Attributes:
        renewed: whether it is the conditional context once more, as that was before the latest given text, or behind a
            later image.
        padded: whether there is padding in the places of the words that it covers.
    """

    given: bool
    generated: bool
    images: bool
    renewed: bool = False
    padded: bool = False

    def reads(self, segment: TextSegment) -> bool:
        """Whether it covers a text."""
        return self.given if segment.given else self.generated


#: Of the conditional context.
WHOLE = Coverage(given=True, generated=True, images=True)
#: Branch of a guidance -> what its context covers.
COVERAGES: dict[Branch, Coverage] = {
    "text-free": Coverage(given=False, generated=False, images=True),
    "text-padded": Coverage(given=True, generated=True, images=True, padded=True),
    "image-free": Coverage(given=True, generated=True, images=False),
    "before-request": Coverage(given=False, generated=False, images=False, renewed=True),
    "requests": Coverage(given=True, generated=False, images=False),
}
