"""Statistics of a few training runs, as pure functions of arrays.

The unit of inference is the training run.  All images of one checkpoint share the random choices of its training, so
they are no independent evidence about a method.  Therefore: exact tests of differences by seed, intervals that hold the
effects that such a test does not reject, and "not testable" where there are too few seeds to reach the level.
"""

from reports.statistics.comparison import Comparison, compare
from reports.statistics.corrections import (
    CORRECTIONS,
    Corrected,
    Correction,
    correct,
    seeds_needed,
    smallest_p,
    tests_needed,
)
from reports.statistics.intervals import Interval, iqm, mean_interval, t_half_width
from reports.statistics.ladders import along, at_equal
from reports.statistics.prompts import new_prompts_interval, new_seeds_and_prompts_interval, prompt_weights
from reports.statistics.sequential import nominal_levels
from reports.statistics.tests import TESTS, Evidence, paired_t, sign_flip, unpaired
from reports.statistics.variance import Spread, variance_split

__all__ = [
    "CORRECTIONS",
    "TESTS",
    "Comparison",
    "Corrected",
    "Correction",
    "Evidence",
    "Interval",
    "Spread",
    "along",
    "at_equal",
    "compare",
    "correct",
    "iqm",
    "mean_interval",
    "new_prompts_interval",
    "new_seeds_and_prompts_interval",
    "nominal_levels",
    "paired_t",
    "prompt_weights",
    "seeds_needed",
    "sign_flip",
    "smallest_p",
    "t_half_width",
    "tests_needed",
    "unpaired",
    "variance_split",
]
