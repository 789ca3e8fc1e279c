"""What the exact judge says of single images, stories and edits."""

from unigrpo.worlds.shapes.metrics.edits import EditMetric
from unigrpo.worlds.shapes.metrics.images import ImageMetric
from unigrpo.worlds.shapes.metrics.stories import StoryMetric

__all__ = ["EditMetric", "ImageMetric", "StoryMetric"]
