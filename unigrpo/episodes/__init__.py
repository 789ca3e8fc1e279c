"""Episodes: what is generated for one prompt (slot ``episode``)."""

from unigrpo.episodes.editing import Editing
from unigrpo.episodes.interleaved import Interleaved
from unigrpo.episodes.reflect import Reflect
from unigrpo.episodes.single_round import SingleRound

__all__ = ["Editing", "Interleaved", "Reflect", "SingleRound"]
