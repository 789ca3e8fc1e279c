"""Rewards: what a batch of episodes said and showed, to named components and their weights (slot ``reward``)."""

from unigrpo.rewards.callable import CallableReward
from unigrpo.rewards.reward import ImageReward, Reward, RewardOutput
from unigrpo.rewards.weighted import WeightedReward

__all__ = ["CallableReward", "ImageReward", "Reward", "RewardOutput", "WeightedReward"]
