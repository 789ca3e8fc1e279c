"""The frozen autoencoder of the shipped checkpoints, trained on drawn images."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrpo.models.autoencoder import TinyAutoencoder, reconstruction_loss
from unigrpo.models.quantised import QuantisedAutoencoder
from unigrpo.sft import rate_at, set_rate
from unigrpo.worlds.shapes.examples import faulty_examples
from unigrpo.worlds.shapes.grammar import PICTURE, PLACES, SHAPES, Scene, random_item
from unigrpo.worlds.shapes.render import render

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How it is trained."""

    seed: int
    steps: int
    width: int
    batch: int
    lr: float
    channels: int
    levels: tuple[int, ...]
    """Levels of each latent channel, if images are to be generated token by token; empty for flow matching."""


def latent_size() -> tuple[int, int]:
    """Rows and columns of an image's latents."""
    side = PICTURE // TinyAutoencoder.FACTOR
    return side, side


def train_autoencoder(recipe: AutoencoderRecipe, track: Progress) -> TinyAutoencoder:
    """An autoencoder of drawn images."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    levels, size = recipe.levels, recipe.batch
    model = QuantisedAutoencoder(levels, recipe.width) if levels else TinyAutoencoder(recipe.channels, recipe.width)
    pictures = _crowded(recipe.seed) if levels else usual_images(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.0)
    task = track.add_task("autoencoder", total=recipe.steps)
    for step in range(recipe.steps):
        set_rate(optimizer, recipe.lr * rate_at(step, recipe.steps))
        chosen = pictures[torch.randint(len(pictures), (size,), generator=generator)]
        if isinstance(model, QuantisedAutoencoder):
            loss = model.reconstruction_loss(chosen)
        else:
            noise = 0.1 * torch.randn(size, recipe.channels, *latent_size(), generator=generator)
            loss = reconstruction_loss(model, chosen, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        track.update(task, advance=1, description=f"autoencoder, loss {loss.item():.4f}")
    if not levels:
        model.fit_scale(pictures[:2048])
    return model.eval().requires_grad_(False)


def usual_images(seed: int) -> Tensor:
    """Images of single prompts."""
    examples = faulty_examples(np.random.default_rng((seed, 1)), 8192, 0.0, 0.25)
    return torch.from_numpy(np.stack([example.picture for example in examples]))


def _crowded(seed: int) -> Tensor:
    """Images with an object in most places; a third are crosses, which few codes would else blur into diamonds."""
    rng = random.Random(seed)
    shapes = (*SHAPES, "cross")
    scenes = [
        Scene(tuple(random_item(rng, place, rng.choice(shapes)) for place in PLACES if rng.random() < 0.8))
        for _ in range(8192)
    ]
    return torch.from_numpy(render(scenes))
