"""Make the proxy's weights again: ``python -m unigrpo.worlds.shapes.rewards.train_proxy``.

Seeded; it takes less than a minute on one core.

Deliberately brief, on clean renders with little noise: the classifier is right about clean images most of the time
and has never seen the half-drawn ones that a policy can produce.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from unigrpo import console
from unigrpo.worlds.shapes.grammar import COLOURS, SHAPES
from unigrpo.worlds.shapes.render import PALETTE, bank
from unigrpo.worlds.shapes.rewards.classifier import WEIGHTS, Classifier

STEPS, BATCH, LEARNING_RATE, NOISE, EMPTY = 800, 128, 3e-3, 0.15, 0.3


def batch(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random quadrants [B, 3, 16, 16] with noise, their shapes [B] (5 is none) and colours [B]."""
    stencils, palette = torch.tensor(bank()), torch.tensor(PALETTE)
    shapes = torch.randint(len(SHAPES), (size,), generator=generator)
    colours = torch.randint(len(COLOURS), (size,), generator=generator)
    placements = torch.randint(stencils.shape[1], (size,), generator=generator)
    empty = torch.rand(size, generator=generator) < EMPTY
    clean = stencils[shapes, placements][:, None] * palette[colours][:, :, None, None] * ~empty[:, None, None, None]
    level = NOISE * torch.rand(size, 1, 1, 1, generator=generator)
    noisy = clean + level * torch.randn(clean.shape, generator=generator)
    return noisy, shapes.masked_fill(empty, len(SHAPES)), colours


def train(seed: int = 0, steps: int = STEPS) -> Classifier:
    """A classifier trained for ``steps`` steps; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier()
    optimiser = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    for _ in range(steps):
        quadrants, shapes, colours = batch(generator, BATCH)
        shape_logits, colour_logits = classifier(quadrants)
        present = shapes < len(SHAPES)
        loss = F.cross_entropy(shape_logits, shapes) + F.cross_entropy(colour_logits[present], colours[present])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return classifier


def main() -> None:
    """Train and save."""
    console.prepare()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file to write (default: the shipped weights)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    save_file(train(arguments.seed).state_dict(), arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
