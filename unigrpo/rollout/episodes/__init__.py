"""Episodes: what is generated for one prompt (slot ``episode``)."""

from unigrpo.rollout.episodes.editing import Editing
from unigrpo.rollout.episodes.interleaved import Interleaved
from unigrpo.rollout.episodes.reflect import Reflect
from unigrpo.rollout.episodes.single_round import SingleRound

__all__ = ["Editing", "Interleaved", "Reflect", "SingleRound"]
