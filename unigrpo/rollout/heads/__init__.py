"""Image heads: how a policy's pictures are made, scored and looked at again (slot ``image_head``)."""

from unigrpo.rollout.heads.flow import Flow
from unigrpo.rollout.heads.tokens import Tokens

__all__ = ["Flow", "Tokens"]
