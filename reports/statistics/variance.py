"""Where the spread of an arm's score comes from: training, the evaluation's noise, and which prompts were asked.

The scores are a table of seeds, prompts and images.  All checkpoints of an evaluation set answer the same prompts with
the same noise: image k of a prompt has one key in all of them.  So what an image's noise does to all checkpoints alike
does not spread their scores.  What it does to each of them otherwise does: the interaction of seed and image, within
a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from reports.statistics.prompts import Crossed, Meanings, prompt_weights


@dataclass(frozen=True)
class Spread:
    """Parts of variances, estimated without bias; a part whose estimate is negative is given as 0.

    Attributes:
        seeds: of one run's score over seeds, on these prompts with this noise: what intervals over seeds are made of.
        training: its part that more images would leave.
        evaluation: its part that is noise of the images; the two add up to ``seeds``.
        prompts: of the mean score over other meanings within each tag, beyond any noise.
    """

    seeds: float
    training: float
    evaluation: float
    prompts: float | None

    @property
    def share(self) -> float:
        """Share of the variance over seeds that is the evaluation's, in [0, 1]."""
        return self.evaluation / self.seeds if self.seeds else 0.0


def variance_split(images: ArrayLike, tags: Sequence[str], meanings: Sequence[str]) -> Spread:
    """Split the variance of an arm's score, the unweighted mean of its tags' means.

    Args:
        images: [seeds, prompts, images] the score of each image, two seeds and two images or more.
        tags: [prompts] the tag of each.
        meanings: [prompts] what each shares with its paraphrases.

    Returns:
        The parts; ``prompts`` is None where a tag has but one meaning.

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    table = np.asarray(images, dtype=np.float64)
    wide = table.ndim == 3 and table.shape[1] == len(tags) and min(table.shape[0], table.shape[2]) > 1
    if not wide or not len(tags) or not np.isfinite(table).all():
        raise ValueError(f"expected finite [seeds, {len(tags)}, images], two of each or more, got {table.shape}")
    n, _, k = table.shape
    weights, structure = prompt_weights(tags) ** 2, Meanings.of(tags, meanings)
    by_prompt, by_image = table.mean(axis=2), table.mean(axis=0)
    crossed = Crossed.of(by_prompt, structure)
    interaction = table - by_prompt[:, :, None] - by_image + by_image.mean(axis=1)[:, None]
    evaluation = float((interaction**2).sum(axis=(0, 2)) @ weights) / ((n - 1) * (k - 1)) / k
    # Of the mean over seeds: an nth of that, and the noise that all seeds share.
    of_mean = float(by_image.var(axis=1, ddof=1) @ weights) / k
    seeds = n * crossed.seeds
    prompts = crossed.meanings - crossed.residual - (of_mean - evaluation / n)
    return Spread(
        seeds=seeds,
        training=max(seeds - evaluation, 0.0),
        evaluation=min(evaluation, seeds),
        prompts=max(prompts, 0.0) if np.isfinite(prompts) else None,
    )
