"""Image heads: how a policy's images are generated, scored and encoded (slot ``image_head``)."""

from unigrpo.rollout.heads.flow import Flow
from unigrpo.rollout.heads.tokens import Tokens

__all__ = ["Flow", "Tokens"]
