"""The supervised warm-up on a hybrid set: next-token cross-entropy on texts, flow matching or the like on pictures.

``python -m unigrpo.training.warmup FOLDER like=tiny-shapes`` makes a shipped checkpoint again.  Part of the texts is
vague or wrong and part of the pictures is mis-drawn, so that both policies have room for reinforcement learning.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from unigrpo import console, registry
from unigrpo.checkpoints import digest, folder_of
from unigrpo.config import EvaluationConfig, RunConfig, build
from unigrpo.errors import ConfigError
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import Cfg
from unigrpo.flow.schedule import time_points
from unigrpo.io import home_expanded, read_json
from unigrpo.models import checkpoint
from unigrpo.models.autoencoder import TinyAutoencoder, reconstruction_loss
from unigrpo.models.checkpoint import UnifiedModel
from unigrpo.models.configuration import MoTConfig
from unigrpo.models.mot import MoTPolicy
from unigrpo.models.policy import CodePolicy, Context
from unigrpo.models.quantised import QuantisedAutoencoder
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.rollout.sampling import log_prob
from unigrpo.rollout.trajectory import ImageSegment, TextScore, TextSegment
from unigrpo.strict_yaml import read_yaml
from unigrpo.training.evaluation import Evaluator
from unigrpo.training.warmup_data import Episodes, draw_episodes, rows_of
from unigrpo.worlds.shapes.grammar import PLACES, SHAPES, Scene, random_item
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.warmup_episodes import Faults


@dataclass(frozen=True)
class WarmupConfig:
    """The recipe of a warm-up."""

    world: str = "shapes"
    seed: int = 0
    base: str = ""
    """A checkpoint to go on from, its autoencoder included unless ``code_levels`` ask for another; empty for a model
    from scratch."""
    shares: dict[str, float] = field(default_factory=lambda: {"images": 1.0})
    """Kind of episode -> its share of the batches."""
    examples: int = 40960
    """Distinct episodes, all kinds together, drawn once."""
    faults: Faults = field(default_factory=Faults)
    """Which parts of texts and pictures are wrong."""
    autoencoder_steps: int = 4000
    autoencoder_width: int = 64
    autoencoder_batch: int = 64
    autoencoder_lr: float = 2e-3
    latent_channels: int = 8
    code_levels: tuple[int, ...] = ()
    """Levels of each latent channel, if pictures are to be painted token by token; empty for flow matching."""
    hidden_size: int = 96
    layers: int = 4
    heads: int = 4
    steps: int = 2800
    batch: int = 64
    """Pictures of a batch that the policy paints, about: episodes of several pictures come in smaller batches."""
    noises: int = 2
    """Noise levels per picture and step: its context is covered once for all of them. Codes have no noise."""
    lr: float = 2e-3
    text_weight: float = 0.2
    """Weight of the texts' cross-entropy beside the pictures' loss."""
    dropout: float = 0.1
    """Part of the pictures painted without any text, which makes guidance possible."""


def train_autoencoder(config: WarmupConfig, world: Any, track: Progress) -> TinyAutoencoder:
    """A frozen autoencoder of the world's pictures."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    levels, width, size = config.code_levels, config.autoencoder_width, config.autoencoder_batch
    model = QuantisedAutoencoder(levels, width) if levels else TinyAutoencoder(config.latent_channels, width)
    pictures = _crowded(config.seed) if levels else _usual(config.seed, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.autoencoder_lr, weight_decay=0.0)
    task = track.add_task("autoencoder", total=config.autoencoder_steps)
    for step in range(config.autoencoder_steps):
        _set_rate(optimizer, config.autoencoder_lr * _schedule(step, config.autoencoder_steps))
        chosen = pictures[torch.randint(len(pictures), (size,), generator=generator)]
        if isinstance(model, QuantisedAutoencoder):
            loss = model.reconstruction_loss(chosen)
        else:
            noise = 0.1 * torch.randn(size, config.latent_channels, *_latent_size(world), generator=generator)
            loss = reconstruction_loss(model, chosen, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        track.update(task, advance=1, description=f"autoencoder, loss {loss.item():.4f}")
    if not config.code_levels:
        model.fit_scale(pictures[:2048])
    return model.eval().requires_grad_(False)


def _usual(seed: int, world: Any) -> Tensor:
    """Pictures of single prompts."""
    examples = world.warmup_examples(np.random.default_rng((seed, 1)), 8192, 0.0, 0.25)
    return torch.from_numpy(np.stack([example.picture for example in examples]))


def _crowded(seed: int) -> Tensor:
    """Pictures with an object in most places; a third are crosses, which few codes would else blur into diamonds."""
    rng = random.Random(seed)
    shapes = (*SHAPES, "cross")
    scenes = [
        Scene(tuple(random_item(rng, place, rng.choice(shapes)) for place in PLACES if rng.random() < 0.8))
        for _ in range(8192)
    ]
    return torch.from_numpy(render(scenes))


def losses(
    policy: MoTPolicy, spec: RolloutSpec, episodes: Episodes, generator: torch.Generator, noises: int, dropout: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy per token that the policy should say, and the loss of the pictures it should paint; 0 without any.

    The pictures' loss is flow matching, or cross-entropy per code.

    The episodes go through the very walk that reinforcement learning uses.

    Args:
        policy: to be trained.
        spec: framing of texts; their guidance makes the rollout keep the context without texts.
        episodes: B rows.
        generator: of noise, times and dropped contexts.
        noises: noise levels per picture.
        dropout: part of the pictures painted without any text.
    """
    rollout = Rollout(policy, spec, episodes[0].rows)
    said, tokens, squares, pixels = [torch.zeros(())], 0, [torch.zeros(())], 0
    for segment in episodes:
        if isinstance(segment, ImageSegment) and not segment.given:
            rollout.append(segment)
            if policy.config.code_levels:
                error = _code_errors(rollout, segment, generator, dropout)
            else:
                error = _flow_errors(rollout, segment, generator, noises, dropout)
            squares.append(error.sum())
            pixels += error.numel()
        else:
            rollout.replay(segment)
            score = rollout.scores[-1]
            if isinstance(segment, TextSegment) and isinstance(score, TextScore):
                said.append(-score.log_prob.sum())
                tokens += int(segment.mask.sum())
    return torch.stack(said).sum() / max(tokens, 1), torch.stack(squares).sum() / max(pixels, 1)


def _flow_errors(
    rollout: Rollout, segment: ImageSegment, generator: torch.Generator, noises: int, dropout: float
) -> Tensor:
    """Squared errors of the velocity [made rows * noises, C, H, W] at logit-normal times, as BAGEL draws them."""
    rows = segment.alive.nonzero()[:, 0].repeat_interleave(noises)
    clean = segment.latents[rows]
    noise = torch.randn(clean.shape, generator=generator)
    t = torch.randn(len(rows), generator=generator).sigmoid()
    level = t[:, None, None, None]
    x = (1 - level) * clean + level * noise
    errors = []
    for context, chosen in _with_and_without_text(rollout, rows, generator, dropout):
        velocity = rollout.policy.velocity(context, x[chosen], t[chosen])
        errors.append((velocity - (noise - clean)[chosen]).square())
    return torch.cat(errors)


def _code_errors(rollout: Rollout, segment: ImageSegment, generator: torch.Generator, dropout: float) -> Tensor:
    """Cross-entropies of the pictures' codes [made rows, N], each given those before it."""
    policy = cast(CodePolicy, rollout.policy)
    rows = segment.alive.nonzero()[:, 0]
    codes = policy.codes_of(segment.latents[rows])
    tokens = torch.cat((torch.full_like(codes[:, :1], policy.num_image_codes), codes[:, :-1]), 1)
    errors = []
    for context, chosen in _with_and_without_text(rollout, rows, generator, dropout):
        logits, _ = policy.extend_codes(context, tokens[chosen], segment.alive[rows[chosen]])
        errors.append(-log_prob(logits, rollout.spec.temperature, codes[chosen]))
    return torch.cat(errors)


def _with_and_without_text(
    rollout: Rollout, rows: Tensor, generator: torch.Generator, dropout: float
) -> Iterator[tuple[Context, Tensor]]:
    """What ``rows`` [n] of the batch are painted in: the context of those that keep their texts, and of those without.

    Each with the mask [n] of its rows, if it has any.
    """
    bare = torch.rand(len(rows), generator=generator) < dropout
    assert rollout.unconditional is not None
    for context, chosen in ((rollout.context, ~bare), (rollout.unconditional, bare)):
        if chosen.any():
            yield context.rows(rows[chosen]), chosen


def train_policy(
    config: WarmupConfig, policy: MoTPolicy, data: Mapping[str, Episodes], spec: RolloutSpec, track: Progress
) -> None:
    """Train both experts together; Muon on the layers' matrices, AdamW on the rest."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    kinds, shares = list(config.shares), torch.tensor(list(config.shares.values()))
    optimizers = list(_optimizers(policy, config.lr))
    task = track.add_task("policy", total=config.steps)
    for step in range(config.steps):
        for optimizer in optimizers:
            _set_rate(optimizer, config.lr * _schedule(step, config.steps))
            optimizer.zero_grad()
        kind = kinds[int(torch.multinomial(shares, 1, generator=generator))]
        episodes = data[kind]
        painted = sum(isinstance(segment, ImageSegment) for segment in episodes)
        rows = torch.randint(episodes[0].rows, (config.batch // max(1, painted),), generator=generator)
        text, image = losses(policy, spec, rows_of(episodes, rows), generator, config.noises, config.dropout)
        (config.text_weight * text + image).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        said = f"policy, {kind}: text {text.item():.3f}, image {image.item():.3f}"
        track.update(task, advance=1, description=said)


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


def _from_scratch(config: WarmupConfig, world: Any, track: Progress) -> UnifiedModel:
    tokenizer = Tokenizer.of_words(world.vocabulary())
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
            latent_channels=len(config.code_levels) or config.latent_channels,
            code_levels=config.code_levels,
            max_latent_size=_latent_size(world)[0],
            latent_size=_latent_size(world),
            time_conditioning="input" if config.code_levels else "adaln",
            bos_token_id=tokenizer.bos,
            eos_token_id=tokenizer.eos,
            pad_token_id=tokenizer.pad,
            start_of_image_id=tokenizer.start_of_image,
            end_of_image_id=tokenizer.end_of_image,
        )
    )
    return UnifiedModel(policy, autoencoder, tokenizer)


def _by_tokens(base: UnifiedModel, config: WarmupConfig, autoencoder: TinyAutoencoder) -> UnifiedModel:
    """A policy with all weights of ``base`` but those that deal with latents, in whose place it has codes."""
    changed = {"code_levels": config.code_levels, "latent_channels": len(config.code_levels)}
    sizes = base.policy.config.to_dict() | changed | {"time_conditioning": "input"}
    policy = MoTPolicy(MoTConfig.from_dict(sizes))
    known = policy.state_dict()
    policy.load_state_dict(known | {name: w for name, w in base.policy.state_dict().items() if name in known})
    return UnifiedModel(policy, autoencoder, base.tokenizer)


def make(config: WarmupConfig) -> tuple[UnifiedModel, dict[str, Any]]:
    """Autoencoder, data, policy; the model and the recipe with what it took."""
    started = time.process_time()
    world = registry.find("world", config.world)()
    with Progress(TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()) as track:
        if config.base:
            model = checkpoint.load(config.base).with_words(world.vocabulary(), config.seed)
            if config.code_levels:
                model = _by_tokens(model, config, train_autoencoder(config, world, track))
            model.policy.train()
        else:
            model = _from_scratch(config, world, track)
        words = model.tokenizer
        framing = (words.bos, words.eos, words.pad, words.start_of_image)
        spec = RolloutSpec(time_points(1), Ode(), (), Cfg(), 1.0, *framing, context_grad=True, head=_head(model))
        whole = sum(config.shares.values())
        data = {
            kind: draw_episodes(kind, round(config.examples * share / whole), config.seed, config.faults, model)
            for kind, share in config.shares.items()
        }
        train_policy(config, model.policy, data, spec, track)
    model.policy.eval()
    return model, {"recipe": dataclasses.asdict(config), "cpu_s": round(time.process_time() - started)}


def _head(model: UnifiedModel) -> Any:
    return registry.find("image_head", "tokens" if model.policy.config.code_levels else "flow")()


def score(model: UnifiedModel, config: EvaluationConfig) -> dict[str, float]:
    """GenEval-mini of a model, without and with guidance."""
    evaluator = Evaluator(RunConfig(evaluation=config, image_head=_head(model)), model)
    plain = evaluator(model.policy, 1.0, config.images_per_prompt).metrics
    guided = evaluator(model.policy, config.guidance_scale, config.images_per_prompt).metrics
    return {**plain, **{f"guided/{name}": value for name, value in guided.items()}}


def main(arguments: list[str] | None = None) -> int:
    """Make a checkpoint folder: weights, tokenizer, recipe with scores and hash; the exit code, 2 for a mistake."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m unigrpo.training.warmup", description=__doc__)
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
    checkpoint.save(folder, model)
    scores = score(model, EvaluationConfig())
    recipe |= {"sha256": digest(folder), "scores": {k: round(v, 4) for k, v in scores.items()}}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    print(f"strict {scores['geneval/strict']:.3f}, official {scores['geneval/official']:.3f} at guidance 1")
    return 0


def _config(settings: Sequence[str]) -> WarmupConfig:
    plain: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r}: expected key=value")
        plain[key] = value if key == "like" else read_yaml(value)
    like = read_json(folder_of(plain.pop("like")) / "recipe.json") if "like" in plain else {"recipe": {}}
    config: WarmupConfig = build(WarmupConfig, like["recipe"] | plain)
    return config


if __name__ == "__main__":
    sys.exit(main())
