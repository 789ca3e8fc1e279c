"""Algorithms: from a sampled batch and its advantages to a loss (slot ``algorithm``)."""

from unigrpo.algorithms.awm import Awm
from unigrpo.algorithms.policy_gradient import PolicyGradient

__all__ = ["Awm", "PolicyGradient"]
