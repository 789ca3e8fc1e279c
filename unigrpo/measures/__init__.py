"""What is measured of episodes, by family of prompts: never the reward itself, and the same for every arm."""

from collections.abc import Callable
from typing import Any

from unigrpo.measures.edits import EditMeasure
from unigrpo.measures.images import ImageMeasure
from unigrpo.measures.measure import Measure, Row
from unigrpo.measures.stories import StoryMeasure

#: Family of prompts -> its measure, given the world.
MEASURES: dict[str, Callable[[Any], Measure]] = {"images": ImageMeasure, "stories": StoryMeasure, "edits": EditMeasure}

__all__ = ["MEASURES", "EditMeasure", "ImageMeasure", "Measure", "Row", "StoryMeasure"]
