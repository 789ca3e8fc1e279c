"""The shipped pipeline: ``python -m unigrpo.worlds.shapes.train_pipeline FOLDER [key=value ...]``.

A Stable Diffusion 3 with a language model before it learns what a shipped checkpoint has learnt, so that the two can be
compared: the same episodes, and the same latents, for its autoencoder is taught to encode and decode as that one's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from unigrpo import console, sft
from unigrpo.algorithms.sft import Sft
from unigrpo.checkpoints import RECIPE, digest_of_files, folder_of
from unigrpo.config import EvaluationConfig
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject, home_expanded, read_json
from unigrpo.models.libraries import Foreign
from unigrpo.models.mot import checkpoint
from unigrpo.models.pipelines import LANGUAGE, TRANSFORMER, Diffusers, loading
from unigrpo.models.pipelines.loading import PipelineModel
from unigrpo.models.processor import StandardProcessor
from unigrpo.plain import build
from unigrpo.worlds.shapes import untrained_pipeline
from unigrpo.worlds.shapes.sft_data import Faults, drawn_examples
from unigrpo.worlds.shapes.train_autoencoder import usual_images
from unigrpo.worlds.shapes.train_checkpoint import score
from unigrpo.worlds.shapes.untrained_pipeline import Sizes
from unigrpo.worlds.shapes.vocabulary import vocabulary

if TYPE_CHECKING:
    from rich.progress import Progress

    from unigrpo.models.autoencoder import Autoencoder

#: Where diffusers keeps in a part's settings what it was loaded from.
ORIGIN = "_name_or_path"


@dataclass(frozen=True)
class PipelineRecipe:
    """The recipe of the shipped pipeline."""

    seed: int = 0
    like: str = "tiny-shapes"
    """A shipped checkpoint, of whose recipe kinds and faults of the data are, and of whose autoencoder the latents."""
    examples: int = 40960
    """Distinct episodes, drawn once."""
    sizes: Sizes = field(default_factory=Sizes)
    autoencoder_steps: int = 1000
    autoencoder_batch: int = 32
    autoencoder_lr: float = 3e-3
    steps: int = 1200
    batch: int = 32
    noises: int = 2
    """Noise levels per image and step."""
    lr: float = 2e-3
    text_weight: float = 0.2
    """Weight of the texts' cross-entropy beside the images' loss."""
    dropout: float = 0.1
    """Part of the images generated without any text, which makes guidance possible."""


def load(folder: Path) -> PipelineModel:
    """Such a pipeline with its language model, on the schedule of the checkpoints that it is compared with."""
    # It has no T5, in whose place a pipeline puts tokens of zeros: one is the fewest.
    chosen = Diffusers(str(folder), language_model=str(folder / LANGUAGE), schedule="shift", max_sequence_length=1)
    return chosen.load(torch.device("cpu"))


def train_autoencoder(vae: Foreign, teacher: Autoencoder, recipe: PipelineRecipe, track: Progress) -> None:
    """Teach a pipeline's autoencoder the latents of another one, its halves apart.

    Args:
        vae: an ``AutoencoderKL``, changed.
        teacher: whose latents they are.
        recipe: how long and how fast.
        track: where progress is shown.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    images = usual_images(recipe.seed)
    with torch.no_grad():
        latents = torch.cat([teacher.encode(part) for part in images.split(1024)])
    vae.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.autoencoder_lr, weight_decay=0.0)
    task = track.add_task("autoencoder", total=recipe.autoencoder_steps)
    for step in range(recipe.autoencoder_steps):
        sft.set_rate(optimizer, recipe.autoencoder_lr * sft.rate_at(step, recipe.autoencoder_steps))
        chosen = torch.randint(len(images), (recipe.autoencoder_batch,), generator=generator)
        wanted, image = latents[chosen], images[chosen]
        # The decoder must be smooth around each latent: those of a policy are never exact.
        noisy = wanted + 0.1 * torch.randn(wanted.shape, generator=generator)
        encoded = F.mse_loss(vae.encode(image).latent_dist.mode(), wanted)
        decoded = F.mse_loss(vae.decode(noisy).sample, image)
        optimizer.zero_grad()
        (encoded + decoded).backward()
        optimizer.step()
        found = f"autoencoder: latents {encoded.item():.4f}, pixels {decoded.item():.4f}"
        track.update(task, advance=1, description=found)
    vae.eval().requires_grad_(False)


def make(folder: Path, recipe: PipelineRecipe) -> JsonObject:
    """Write a trained pipeline into ``folder``; the recipe with what it took."""
    started = time.process_time()
    untrained_pipeline.write(folder, recipe.sizes, vocabulary(), recipe.seed)
    model = load(folder)
    vae, teacher = model.policy.pipe.vae, checkpoint.load(recipe.like).autoencoder
    with sft.progress() as track:
        train_autoencoder(vae, teacher, recipe, track)
        vae.save_pretrained(folder / "vae")
        data_of = read_json(folder_of(recipe.like) / RECIPE)["recipe"]
        faults: Faults = build(Faults, data_of["faults"])
        drawn = drawn_examples(data_of["shares"], recipe.examples, recipe.seed, faults)
        # The latents to be learnt are the teacher's own.
        taught = StandardProcessor(model.processor.tokenizer, teacher, model.processor.grid)
        seen = dataclasses.replace(model, processor=taught)
        data = {kind: sft.columns_of(examples, seen) for kind, examples in drawn.items()}
        loss = Sft(recipe.noises, recipe.dropout, recipe.text_weight)
        schedule = sft.Schedule(recipe.seed, recipe.steps, recipe.batch, recipe.lr)
        model.policy.train()
        sft.train(model, data, data_of["shares"], loss, schedule, track)
    loading.save(folder, model)
    for part in (TRANSFORMER, "vae"):
        _forget_origin(folder / part / "config.json")
    return {"recipe": dataclasses.asdict(recipe), "cpu_s": round(time.process_time() - started)}


def _forget_origin(settings: Path) -> None:
    """Leave out where diffusers has loaded a part from: a pipeline's files do not depend on its place."""
    kept = {key: value for key, value in json.loads(settings.read_text(encoding="utf-8")).items() if key != ORIGIN}
    settings.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Make a pipeline's folder, its recipe with scores and hash; the exit code, 2 for a mistake."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m unigrpo.worlds.shapes.train_pipeline", description=__doc__)
    parser.add_argument("folder", help="where the pipeline goes")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="such as steps=500")
    given = parser.parse_args(arguments)
    try:
        folder = Path(home_expanded("folder", given.folder))
        recipe: PipelineRecipe = build(PipelineRecipe, sft.settings_of(given.settings))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = make(folder, recipe)
    scores = score(load(folder), EvaluationConfig())
    whole = made | {"sha256": digest(folder), "scores": {name: round(value, 4) for name, value in scores.items()}}
    (folder / RECIPE).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(f"strict {scores['geneval/strict']:.3f}, official {scores['geneval/official']:.3f} at guidance 1")
    return 0


def digest(folder: Path) -> str:
    """SHA-256 over all weights of a pipeline and its language model."""
    return digest_of_files(sorted(folder.rglob("*.safetensors")))


if __name__ == "__main__":
    sys.exit(main())
