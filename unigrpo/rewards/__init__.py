"""Rewards: pictures and their prompts to named components and their weights (slot ``reward``)."""

from unigrpo.rewards.geneval import GenEvalReward
from unigrpo.rewards.proxy import ProxyReward
from unigrpo.rewards.weighted import Reward, WeightedReward

__all__ = ["GenEvalReward", "ProxyReward", "Reward", "WeightedReward"]
