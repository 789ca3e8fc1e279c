"""What every episode is.

An episode drives a :class:`~unigrpo.rollout.rollout.Rollout`: it conditions on given segments, lets the policy generate
texts and images, and decides what comes next from what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from unigrpo.config import RunConfig
    from unigrpo.models.policy import Modality
    from unigrpo.noise import Draw
    from unigrpo.rollout.rollout import Rollout
    from unigrpo.rollout.trajectory import Segment


class Episode:
    """The base of a strategy of slot ``episode``.

    Attributes:
        needs: what it reads of a prompt besides the text (:attr:`~unigrpo.data.prompt.Prompt.offers`).
        one_request: whether all of its turns answer the same request, so that their rewards can be compared.
        reads_images: what follows an image and hangs on what is seen in it.
    """

    slot: ClassVar[str]
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    one_request: ClassVar[bool] = True
    reads_images: ClassVar[frozenset[Modality]] = frozenset({"text", "image"})

    @property
    def writes_texts(self) -> bool:
        """Whether the policy generates texts."""
        return True

    def __call__(self, rollout: Rollout, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Roll out one batch of episodes.

        Args:
            rollout: at its start, one row per prompt.
            given: segments that the prompts give, one row per prompt, in the order in which they are due.
            group_size: episodes per prompt.
            draw: keyed randomness.
        """
        raise NotImplementedError

    def for_evaluation(self) -> Self:
        """The episode of evaluations."""
        return self

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Incompatibilities with the rest of the configuration, one sentence each: here that there are texts."""
        if not self.writes_texts and config.modalities.text:
            yield "without thinking there is no text to train; use modalities=image_only"


def at_least_1(**limits: int) -> None:
    """Check limits.

    Raises:
        ValueError: one is below 1.
    """
    for name, limit in limits.items():
        if limit < 1:
            raise ValueError(f"{name}={limit}: expected 1 or more")
