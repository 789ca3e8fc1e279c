"""Rewards: what a batch of episodes said and showed, to named components and their weights (slot ``reward``)."""

from unigrpo.rewards.edit import EditReward
from unigrpo.rewards.geneval import GenEvalReward
from unigrpo.rewards.hybrid import HybridReward
from unigrpo.rewards.proxy import ProxyReward
from unigrpo.rewards.reward import PictureReward, Reward, RewardOutput
from unigrpo.rewards.weighted import WeightedReward

__all__ = [
    "EditReward",
    "GenEvalReward",
    "HybridReward",
    "PictureReward",
    "ProxyReward",
    "Reward",
    "RewardOutput",
    "WeightedReward",
]
