"""The shipped checkpoints: ``python -m unigrpo.worlds.shapes.train_checkpoint FOLDER like=NAME [key=value ...]``.

An autoencoder, a policy from scratch or from another checkpoint, and supervised fine-tuning on drawn episodes.  Part of
the texts is vague or wrong and part of the images is mis-drawn, so that both policies have room for reinforcement
learning.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo import console, sft, surroundings
from unigrpo.algorithms.sft import Sft
from unigrpo.checkpoints import RECIPE, folder_of
from unigrpo.config import EvaluationConfig, RunConfig
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject, home_expanded, read_json
from unigrpo.models.autoencoder import TinyAutoencoder
from unigrpo.models.mot import checkpoint
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.models.mot.configuration import MoTConfig
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.plain import build
from unigrpo.strict_yaml import read_yaml
from unigrpo.worlds.shapes.sft_data import Faults, drawn_examples
from unigrpo.worlds.shapes.train_autoencoder import AutoencoderRecipe, latent_size, train_autoencoder
from unigrpo.worlds.shapes.vocabulary import vocabulary

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True)
class CheckpointRecipe:
    """The recipe of a shipped checkpoint."""

    seed: int = 0
    base: str = ""
    """A checkpoint to go on from, its autoencoder included unless ``code_levels`` ask for another; empty for a model
    from scratch."""
    shares: dict[str, float] = field(default_factory=lambda: {"images": 1.0})
    """Kind of episode -> its share of the batches."""
    examples: int = 40960
    """Distinct episodes, all kinds together, drawn once."""
    faults: Faults = field(default_factory=Faults)
    """Which parts of texts and images are wrong."""
    autoencoder_steps: int = 4000
    autoencoder_width: int = 64
    autoencoder_batch: int = 64
    autoencoder_lr: float = 2e-3
    latent_channels: int = 8
    code_levels: tuple[int, ...] = ()
    """Levels of each latent channel, if images are to be generated token by token; empty for flow matching."""
    hidden_size: int = 96
    layers: int = 4
    heads: int = 4
    steps: int = 2800
    batch: int = 64
    """Images of a batch that the policy generates, about: episodes of several images come in smaller batches."""
    noises: int = 2
    """Noise levels per image and step: its context is covered once for all of them. Codes have no noise."""
    lr: float = 2e-3
    text_weight: float = 0.2
    """Weight of the texts' cross-entropy beside the images' loss."""
    dropout: float = 0.1
    """Part of the images generated without any text, which makes guidance possible."""
    timestep_shift: float = 1.0

    @property
    def autoencoder(self) -> AutoencoderRecipe:
        """The part of it that concerns images alone."""
        return AutoencoderRecipe(
            seed=self.seed,
            steps=self.autoencoder_steps,
            width=self.autoencoder_width,
            batch=self.autoencoder_batch,
            lr=self.autoencoder_lr,
            channels=self.latent_channels,
            levels=self.code_levels,
        )


def _from_scratch(config: CheckpointRecipe, track: Progress) -> MoTModel:
    tokenizer = Tokenizer.of_words(vocabulary())
    autoencoder = train_autoencoder(config.autoencoder, track)
    policy = MoTPolicy(
        MoTConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=8 * config.hidden_size // 3 // 8 * 8,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            rope_theta=1e4,
            latent_channels=len(config.code_levels) or config.latent_channels,
            code_levels=config.code_levels,
            max_latent_size=latent_size()[0],
            latent_size=latent_size(),
            time_conditioning="input" if config.code_levels else "adaln",
            bos_token_id=tokenizer.bos,
            eos_token_id=tokenizer.eos,
            pad_token_id=tokenizer.pad,
            start_of_image_id=tokenizer.start_of_image,
            end_of_image_id=tokenizer.end_of_image,
        )
    )
    return MoTModel.of(policy, autoencoder, tokenizer)


def _by_tokens(base: MoTModel, config: CheckpointRecipe, autoencoder: TinyAutoencoder) -> MoTModel:
    """A policy with all weights of ``base`` but those that deal with latents, in whose place it has codes."""
    changed = {"code_levels": config.code_levels, "latent_channels": len(config.code_levels)}
    sizes = base.policy.config.to_dict() | changed | {"time_conditioning": "input"}
    policy = MoTPolicy(MoTConfig.from_dict(sizes))
    known = policy.state_dict()
    policy.load_state_dict(known | {name: w for name, w in base.policy.state_dict().items() if name in known})
    return MoTModel.of(policy, autoencoder, base.tokenizer, base.processor.vision)


def make(config: CheckpointRecipe) -> tuple[MoTModel, JsonObject]:
    """Autoencoder, data, policy; the model and the recipe with what it took."""
    started = time.process_time()
    with sft.progress() as track:
        if config.base:
            model = checkpoint.load(config.base).with_words(vocabulary(), config.seed)
            if config.code_levels:
                model = _by_tokens(model, config, train_autoencoder(config.autoencoder, track))
            model.policy.train()
        else:
            model = _from_scratch(config, track)
        drawn = drawn_examples(config.shares, config.examples, config.seed, config.faults)
        data = {kind: sft.columns_of(examples, model) for kind, examples in drawn.items()}
        loss = Sft(config.noises, config.dropout, config.text_weight, config.timestep_shift)
        schedule = sft.Schedule(config.seed, config.steps, config.batch, config.lr)
        sft.train(model, data, config.shares, loss, schedule, track)
    model.policy.eval()
    return model, {"recipe": dataclasses.asdict(config), "cpu_s": round(time.process_time() - started)}


def score(model: sft.Tuned, config: EvaluationConfig) -> dict[str, float]:
    """GenEval-mini of a model, without and with guidance."""
    from unigrpo.training.evaluation import Evaluator

    run = RunConfig.from_dict({"image_head": sft.head_of(model)})
    evaluator = Evaluator(dataclasses.replace(run, evaluation=config), model, surroundings.accelerator())
    plain = evaluator(model.policy, 1.0, config.images_per_prompt).metrics
    guided = evaluator(model.policy, config.guidance_scale, config.images_per_prompt).metrics
    return {**plain, **{f"guided/{name}": value for name, value in guided.items()}}


def main(arguments: list[str] | None = None) -> int:
    """Make a checkpoint folder: weights, tokenizer, recipe with scores and hash; the exit code, 2 for a mistake."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m unigrpo.worlds.shapes.train_checkpoint", description=__doc__)
    parser.add_argument("folder", help="where the checkpoint goes")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="like=NAME takes a shipped checkpoint's recipe; then settings such as steps=500",
    )
    given = parser.parse_args(arguments)
    try:
        folder, config = Path(home_expanded("folder", given.folder)), _config(given.settings)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    model, recipe = make(config)
    scores = score(model, EvaluationConfig())
    sft.write(folder, model, recipe | {"scores": {k: round(v, 4) for k, v in scores.items()}})
    print(f"strict {scores['geneval/strict']:.3f}, official {scores['geneval/official']:.3f} at guidance 1")
    return 0


def _config(settings: Sequence[str]) -> CheckpointRecipe:
    plain: JsonObject = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r}: expected key=value")
        plain[key] = value if key == "like" else read_yaml(value)
    like = read_json(folder_of(plain.pop("like")) / RECIPE) if "like" in plain else {"recipe": {}}
    config: CheckpointRecipe = build(CheckpointRecipe, like["recipe"] | plain)
    return config


if __name__ == "__main__":
    sys.exit(main())
