"""Rewards of the exact judge, and one that can be hacked."""

from unigrpo.worlds.shapes.rewards.edit import EditReward
from unigrpo.worlds.shapes.rewards.geneval import GenEvalReward
from unigrpo.worlds.shapes.rewards.hybrid import HybridReward
from unigrpo.worlds.shapes.rewards.proxy import ProxyReward

__all__ = ["EditReward", "GenEvalReward", "HybridReward", "ProxyReward"]
