"""Metrics: what is measured of episodes, the same for every arm, whatever its reward was (slot ``metric``)."""

from unigrpo.metrics.generic import Diversity, Lengths
from unigrpo.metrics.metric import Measured, Metric, Quantity, Row
from unigrpo.metrics.reward import RewardMetric

__all__ = ["Diversity", "Lengths", "Measured", "Metric", "Quantity", "RewardMetric", "Row"]
