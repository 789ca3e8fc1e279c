"""The supervised warm-up: next-token cross-entropy and flow matching on prompt -> thinking -> image triples.

``python -m unigrpo.training.warmup FOLDER`` makes the shipped checkpoint again.  Part of the thinking is vague or wrong
and part of the pictures is mis-drawn, so that both policies have room for reinforcement learning.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from unigrpo import registry
from unigrpo.checkpoints import digest
from unigrpo.config import EvaluationConfig, RunConfig, build
from unigrpo.evaluation import Evaluator
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import CfgFree
from unigrpo.flow.schedule import time_points
from unigrpo.models import checkpoint
from unigrpo.models.autoencoder import TinyAutoencoder, reconstruction_loss
from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.models.configuration import MoTConfig
from unigrpo.models.mot import MoTPolicy
from unigrpo.models.policy import Context
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.trajectory import TextScore, TextSegment
from unigrpo.walk import Rules, Walk


@dataclass(frozen=True)
class WarmupConfig:
    """The recipe of a warm-up."""

    world: str = "shapes"
    seed: int = 0
    examples: int = 40960
    """Distinct triples, drawn once."""
    plan_corruption: float = 0.4
    """Part of the thinking that is vague or wrong; the picture follows it."""
    misdrawn: float = 0.25
    """Part of the pictures in which one thing differs from the thinking."""
    autoencoder_steps: int = 4000
    autoencoder_width: int = 64
    latent_channels: int = 8
    hidden_size: int = 96
    layers: int = 4
    heads: int = 4
    steps: int = 2800
    batch: int = 64
    noises: int = 2
    """Noise levels per triple and step: the text is walked once for all of them."""
    lr: float = 2e-3
    text_weight: float = 0.2
    """Weight of the cross-entropy beside the flow-matching loss."""
    dropout: float = 0.1
    """Part of the pictures painted without any text, which makes guidance possible."""


@dataclass(frozen=True)
class Triples:
    """The training set: latents [n, C, H, W] and tokenised texts."""

    latents: Tensor
    prompts: TextSegment
    thinking: TextSegment

    def batch(self, rows: Tensor) -> Triples:
        """Some of them, texts cut to the longest."""
        return Triples(self.latents[rows], _rows(self.prompts, rows), _rows(self.thinking, rows))


def _rows(segment: TextSegment, rows: Tensor) -> TextSegment:
    tokens, mask = segment.tokens[rows], segment.mask[rows]
    length = int(mask.sum(1).max())
    return TextSegment(tokens[:, :length], mask[:, :length], segment.given)


def train_autoencoder(config: WarmupConfig, world: Any, track: Progress) -> TinyAutoencoder:
    """A frozen autoencoder of the world's pictures."""
    rng = np.random.default_rng((config.seed, 1))
    generator = torch.Generator().manual_seed(config.seed)
    examples = world.warmup_examples(rng, 8192, 0.0, config.misdrawn)
    pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
    model = TinyAutoencoder(config.latent_channels, config.autoencoder_width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
    task = track.add_task("autoencoder", total=config.autoencoder_steps)
    for step in range(config.autoencoder_steps):
        _set_rate(optimizer, config.lr * _schedule(step, config.autoencoder_steps))
        chosen = pictures[torch.randint(len(pictures), (config.batch,), generator=generator)]
        noise = 0.1 * torch.randn(config.batch, config.latent_channels, *_latent_size(world), generator=generator)
        loss = reconstruction_loss(model, chosen, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        track.update(task, advance=1, description=f"autoencoder, loss {loss.item():.4f}")
    model.fit_scale(pictures[:2048])
    return model.eval().requires_grad_(False)


def triples(config: WarmupConfig, world: Any, autoencoder: TinyAutoencoder, tokenizer: Tokenizer) -> Triples:
    """Draw the training set."""
    rng = np.random.default_rng((config.seed, 2))
    latents, prompts, thinking = [], [], []
    for start in range(0, config.examples, 2048):
        count = min(2048, config.examples - start)
        examples = world.warmup_examples(rng, count, config.plan_corruption, config.misdrawn)
        pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
        latents.append(autoencoder.encode(pictures))
        prompts += [example.prompt.prompt for example in examples]
        thinking += [example.thinking for example in examples]
    given, said = tokenizer.encode(prompts), tokenizer.encode(thinking)
    return Triples(torch.cat(latents), TextSegment(*given, given=True), TextSegment(*said))


def losses(
    policy: MoTPolicy, rules: Rules, batch: Triples, noise: Tensor, t: Tensor, dropped: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy per thinking token, and the flow-matching loss.

    The two go through the very walk that reinforcement learning uses.

    Args:
        policy: to be trained.
        rules: only the framing of texts matters here.
        batch: B triples.
        noise: [B * n, C, H, W], n noise levels per triple.
        t: [B * n] times.
        dropped: [B] bool, triples whose picture is painted without text.
    """
    walk = Walk(policy, rules, len(batch.latents))
    walk.give(batch.prompts)
    walk.follow(batch.thinking)
    score = walk.scores[-1]
    assert isinstance(score, TextScore)
    cross_entropy = -score.log_prob.sum() / batch.thinking.mask.sum()
    context = walk.context
    seen = Context(
        context.keys, context.values, context.valid & ~dropped[:, None], context.position.where(~dropped, 0)
    ).repeat(len(noise) // len(batch.latents))
    clean = batch.latents.repeat_interleave(len(noise) // len(batch.latents), 0)
    level = t[:, None, None, None]
    velocity = policy.velocity(seen, (1 - level) * clean + level * noise, t)
    return cross_entropy, nn.functional.mse_loss(velocity, noise - clean)


def train_policy(config: WarmupConfig, policy: MoTPolicy, data: Triples, rules: Rules, track: Progress) -> None:
    """Train both experts together; Muon on the layers' matrices, AdamW on the rest."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    optimizers = list(_optimizers(policy, config.lr))
    task = track.add_task("policy", total=config.steps)
    for step in range(config.steps):
        for optimizer in optimizers:
            _set_rate(optimizer, config.lr * _schedule(step, config.steps))
            optimizer.zero_grad()
        batch = data.batch(torch.randint(len(data.latents), (config.batch,), generator=generator))
        noise = torch.randn(config.batch * config.noises, *data.latents.shape[1:], generator=generator)
        # Logit-normal times, as BAGEL draws them.
        t = torch.randn(len(noise), generator=generator).sigmoid()
        dropped = torch.rand(config.batch, generator=generator) < config.dropout
        text, image = losses(policy, rules, batch, noise, t, dropped)
        (config.text_weight * text + image).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        track.update(task, advance=1, description=f"policy, text {text.item():.3f}, image {image.item():.3f}")


def _optimizers(policy: MoTPolicy, lr: float) -> Iterator[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    inner = {id(p) for p in policy.language_model.model.layers.parameters() if p.ndim == 2}
    for parameter in policy.parameters():
        if parameter.requires_grad:
            (matrices if id(parameter) in inner else rest).append(parameter)
    yield torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    yield torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.95))


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 100 steps, then a cosine to 2 %."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _latent_size(world: Any) -> tuple[int, int]:
    side = world.size // TinyAutoencoder.FACTOR
    return side, side


def make(config: WarmupConfig) -> tuple[UnifiedModel, dict[str, Any]]:
    """Autoencoder, data, policy; the model and the recipe with what it reached."""
    torch.manual_seed(config.seed)
    started = time.process_time()
    world = registry.find("world", config.world)()
    tokenizer = Tokenizer.of_words(world.vocabulary())
    with Progress(TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()) as track:
        autoencoder = train_autoencoder(config, world, track)
        policy = MoTPolicy(
            MoTConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=8 * config.hidden_size // 3 // 8 * 8,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                rope_theta=1e4,
                latent_channels=config.latent_channels,
                max_latent_size=_latent_size(world)[0],
                latent_size=_latent_size(world),
                time_conditioning="adaln",
                bos_token_id=tokenizer.bos,
                eos_token_id=tokenizer.eos,
                pad_token_id=tokenizer.pad,
                start_of_image_id=tokenizer.start_of_image,
                end_of_image_id=tokenizer.end_of_image,
            )
        )
        framing = (tokenizer.bos, tokenizer.eos, tokenizer.pad)
        rules = Rules(time_points(1), Ode(), (), CfgFree(), 1.0, *framing, context_grad=True)
        train_policy(config, policy, triples(config, world, autoencoder, tokenizer), rules, track)
    model = UnifiedModel(policy.eval(), autoencoder, tokenizer)
    reached = {"cpu_s": round(time.process_time() - started)}
    return model, {"recipe": dataclasses.asdict(config), **reached}


def score(model: UnifiedModel, config: EvaluationConfig) -> dict[str, float]:
    """GenEval-mini of a model, without and with guidance."""
    evaluator = Evaluator(RunConfig(evaluation=config), model)
    plain = evaluator(model.policy, 1.0, config.images_per_prompt).metrics
    guided = evaluator(model.policy, config.guidance_scale, config.images_per_prompt).metrics
    return {**plain, **{f"cfg/{name}": value for name, value in guided.items()}}


def main(arguments: list[str] | None = None) -> None:
    """Make a checkpoint folder: weights, tokenizer, recipe with scores and hash."""
    parser = argparse.ArgumentParser(prog="python -m unigrpo.training.warmup", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the recipe, such as steps=500")
    given = parser.parse_args(arguments)
    plain = {key: json.loads(value) for key, _, value in (setting.partition("=") for setting in given.settings)}
    config: WarmupConfig = build(WarmupConfig, plain)
    model, recipe = make(config)
    checkpoint.save(given.folder, model)
    scores = score(model, EvaluationConfig())
    recipe |= {"sha256": digest(given.folder), "scores": {k: round(v, 4) for k, v in scores.items()}}
    (given.folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    print(f"strict {scores['geneval/strict']:.3f}, official {scores['geneval/official']:.3f} at guidance 1")


if __name__ == "__main__":
    main()
