"""How much noise the judge bears, and what the proxy makes of it: ``python -m benchmarks.geneval.noise_curve``.

Pictures that meet their prompts are rendered clean, pixel noise is added, and the share that the judge still calls
right is printed as a Markdown table.  The last columns compare the proxy with the judge on the mixture of right and
wrong pictures that checkpoints are fine-tuned on, under the same noise.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unigrpo import console
from unigrpo.worlds.shapes.examples import faulty_examples, satisfying_scene
from unigrpo.worlds.shapes.judge import judge
from unigrpo.worlds.shapes.prompts import GenEvalPrompt, by_task
from unigrpo.worlds.shapes.render import render

NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
HEADERS = ("noise", *by_task("test"), "distance to clean", "proxy agrees", "proxy if right", "proxy if wrong")

Floats = NDArray[np.float32]


def _noisy(pictures: Floats, noise: float, rng: np.random.Generator) -> Floats:
    noisy: Floats = pictures + np.float32(noise) * rng.standard_normal(pictures.shape, dtype=np.float32)
    return noisy


def judge_accuracy(count: int, noise: float, seed: int = 0) -> tuple[list[float], float]:
    """Share called strictly right per task, of ``count`` pictures each that are right, and their mean distance."""
    draws, rng = random.Random(seed), np.random.default_rng(seed)
    shares, distances = [], []
    for prompts in by_task("test").values():
        chosen = draws.choices(prompts, k=count)
        pictures = render([satisfying_scene(prompt, draws) for prompt in chosen])
        verdicts = judge(_noisy(pictures, noise, rng), chosen)
        shares.append(sum(verdict.strict for verdict in verdicts) / count)
        distances += [verdict.distance_to_clean for verdict in verdicts]
    return shares, float(np.mean(distances))


def proxy_agreement(count: int, noise: float, seed: int = 0) -> tuple[float, float, float]:
    """Share of pictures on which proxy > 0.5 is the strict verdict; mean proxy of right and wrong ones, NaN of none."""
    import torch

    from unigrpo.worlds.shapes.dataset import image_prompt
    from unigrpo.worlds.shapes.rewards import ProxyReward

    rng = np.random.default_rng(seed)
    examples = faulty_examples(rng, count, plan_corruption=0.6, misdrawn=0.4)
    prompts: Sequence[GenEvalPrompt] = [example.prompt for example in examples]
    pictures = _noisy(np.stack([example.picture for example in examples]), noise, rng)
    right = np.array([verdict.strict for verdict in judge(pictures, prompts)])
    asked = list(map(image_prompt, prompts))
    scores = ProxyReward().score(torch.from_numpy(pictures), asked)[:, 0].numpy()
    # nothing may be right under heavy noise, and a mean over nothing is no number
    means = [float(scores[rows].mean()) if rows.any() else math.nan for rows in (right, ~right)]
    return float(((scores > 0.5) == right).mean()), means[0], means[1]


def table(count: int) -> Iterator[str]:
    """Lines of the Markdown table."""
    yield "| " + " | ".join(HEADERS) + " |"
    yield "|---" * len(HEADERS) + "|"
    for noise in NOISE:
        shares, distance = judge_accuracy(count, noise)
        cells = [f"{noise:.1f}", *(f"{share:.3f}" for share in shares), f"{distance:.3f}"]
        cells += ["-" if math.isnan(value) else f"{value:.2f}" for value in proxy_agreement(count, noise)]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    console.prepare()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="pictures per task and level of noise")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"--count {arguments.count}: expected a picture at least")
    for line in table(arguments.count):
        print(line, flush=True)


if __name__ == "__main__":
    main()
