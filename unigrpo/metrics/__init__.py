"""What is measured of episodes, by family of prompts: the same for every arm, whatever its reward was.

A reward may be among the measures, as the judge's verdict is.  No shipped reward looks at the distance to clean
pictures, perceptual quality, image coherence, diversity and, where the episodes are stories or edits, single pictures
(``retention/``).
"""

from collections.abc import Callable
from typing import Any

from unigrpo.metrics.edits import EditMeasure
from unigrpo.metrics.images import ImageMeasure
from unigrpo.metrics.metric import Measure, Row
from unigrpo.metrics.stories import StoryMeasure

#: Family of prompts -> its measure, given the world.
MEASURES: dict[str, Callable[[Any], Measure]] = {"images": ImageMeasure, "stories": StoryMeasure, "edits": EditMeasure}

__all__ = ["MEASURES", "EditMeasure", "ImageMeasure", "Measure", "Row", "StoryMeasure"]
