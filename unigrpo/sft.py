"""Supervised fine-tuning: ``python -m unigrpo.sft FOLDER checkpoint=NAME dataset=jsonl dataset.path=FILE``.

Any dataset will do whose prompts have answers: texts and images in turn (``answer`` in a jsonl file).  What comes out
is a checkpoint to start reinforcement learning from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from unigrpo import console
from unigrpo.algorithms.sft import Sft
from unigrpo.config import optional_slot
from unigrpo.data.prompt import Block, ImageBlock, Prompt, TextBlock
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject, home_expanded
from unigrpo.plain import build, plain_form
from unigrpo.rollout.trajectory import ImageSegment, Segment, TextSegment
from unigrpo.strict_yaml import read_yaml

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from torch import Tensor

    from unigrpo.data.dataset import Dataset
    from unigrpo.models.mot.checkpoint import MoTModel
    from unigrpo.models.pipelines.loading import PipelineModel
    from unigrpo.models.tokenizer import Tokenizer
    from unigrpo.rollout.rollout import RolloutSpec

#: What can be fine-tuned.
Tuned: TypeAlias = "MoTModel | PipelineModel"
#: Examples of one form as segments of n rows, ragged ones masked.
Columns = tuple[Segment, ...]
#: Images that are encoded at a time.
_IMAGES = 2048


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    seed: int = 0
    steps: int = 1000
    batch: int = 64
    """Images of a batch that are targets, about: examples with several come in smaller batches."""
    lr: float = 2e-3

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.lr <= 0:
            got = f"steps={self.steps}, batch={self.batch}, lr={self.lr}"
            raise ValueError(f"expected steps of 0 or more, a batch of 1 or more and lr above 0, got {got}")


@dataclass(frozen=True)
class SftConfig:
    """One fine-tuning."""

    checkpoint: str = "tiny-shapes"
    """Where it starts."""
    dataset: Dataset | None = optional_slot("dataset")
    """Whose training prompts have answers."""
    new_words: bool = False
    """Whether words that the checkpoint lacks are added, untrained; else they are refused."""
    loss: Sft = field(default_factory=Sft)
    schedule: Schedule = field(default_factory=Schedule)


def example_of(prompt: Prompt) -> tuple[Block, ...]:
    """A prompt as it is given, and its answer."""
    images = (ImageBlock(image, given=True) for image in prompt.images)
    return (*images, TextBlock(prompt.text, given=True), *prompt.answer)


def by_form(examples: Sequence[Sequence[Block]]) -> dict[str, list[Sequence[Block]]]:
    """Examples that go into one batch: those with the same kinds of blocks, given or not, in the same order."""
    found: dict[str, list[Sequence[Block]]] = {}
    for example in examples:
        form = " ".join(
            ("image" if isinstance(block, ImageBlock) else "text") + ("*" if block.given else "") for block in example
        )
        found.setdefault(form, []).append(example)
    return found


def columns_of(examples: Sequence[Sequence[Block]], model: Tuned) -> Columns:
    """Examples as segments, block by block; one that is shorter than others is over where it ends."""
    import torch

    segments: list[Segment] = []
    longest = max(map(len, examples))
    for index in range(longest):
        column = [example[index] if index < len(example) else None for example in examples]
        first = next(block for block in column if block is not None)
        if isinstance(first, ImageBlock):
            alive = torch.tensor([block is not None for block in column])
            # A row without the image holds any other one: what it holds means nothing.
            images = [block if isinstance(block, ImageBlock) else first for block in column]
            latents, features = _encoded(images, model, followed=index + 1 < longest)
            segments.append(ImageSegment((), latents, alive, first.given, first.turn, features=features))
        else:
            texts = [block if isinstance(block, TextBlock) else None for block in column]
            segments.append(TextSegment(*_tokens(texts, model.processor.tokenizer), first.given, first.turn))
    return tuple(segments)


def _encoded(blocks: Sequence[ImageBlock], model: Tuned, *, followed: bool) -> tuple[Tensor, Tensor | None]:
    """Latents of images, and features if the model has a vision encoder and something follows them."""
    import torch

    latents, features, size = [], [], model.processor.image_size()
    for start in range(0, len(blocks), _IMAGES):
        images = [block.image for block in blocks[start : start + _IMAGES]]
        found, seen = model.processor.encode_images(images, size, followed=followed)
        latents.append(found)
        features += [] if seen is None else [seen]
    return torch.cat(latents), torch.cat(features) if features else None


def _tokens(blocks: Sequence[TextBlock | None], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    tokens, mask = tokenizer.encode(["" if block is None else block.text for block in blocks])
    last = mask.sum(1) - 1
    for row, block in enumerate(blocks):
        if block is None:
            mask[row] = False
        elif block.end == "image":
            tokens[row, last[row]] = tokenizer.start_of_image
    return tokens, mask


def rows_of(columns: Columns, rows: Tensor) -> Columns:
    """Some rows, cut to the longest text and the last segment that any of them has."""
    kept: list[Segment] = []
    for segment in columns:
        if isinstance(segment, TextSegment):
            mask = segment.mask[rows]
            length = max(1, int(mask.sum(1).max()))
            cut: Segment = dataclasses.replace(segment, tokens=segment.tokens[rows, :length], mask=mask[:, :length])
        else:
            features = None if segment.features is None else segment.features[rows]
            latents, alive = segment.latents[rows], segment.alive[rows]
            cut = dataclasses.replace(segment, latents=latents, alive=alive, features=features)
        if not cut.alive.any():
            break
        kept.append(cut)
    return tuple(kept)


def spec_of(model: Tuned) -> RolloutSpec:
    """How examples are covered: with a context without texts, and gradients from images into the texts before them."""
    from unigrpo import registry
    from unigrpo.flow.dynamics import Ode
    from unigrpo.flow.guidance import Cfg
    from unigrpo.flow.schedule import time_points
    from unigrpo.rollout.rollout import RolloutSpec

    ids, grid = model.processor.ids, model.processor.grid
    return RolloutSpec(
        points=time_points(1),
        dynamics=Ode(),
        stochastic=(),
        guidance=Cfg(),
        temperature=1.0,
        bos=ids.bos,
        eos=ids.eos,
        pad=ids.pad,
        image=ids.image,
        prompt=ids.prompt,
        system=ids.system,
        head=registry.find("image_head", head_of(model))(),
        latent_shape=(grid.channels, grid.height, grid.width),
        context_grad=True,
    )


def head_of(model: Tuned) -> str:
    """The image head that a model is made for."""
    from unigrpo.models.mot.policy import MoTPolicy

    return "tokens" if isinstance(model.policy, MoTPolicy) and model.policy.config.code_levels else "flow"


def train(
    model: Tuned,
    data: Mapping[str, Columns],
    shares: Mapping[str, float],
    loss: Sft,
    schedule: Schedule,
    track: Progress,
) -> None:
    """Train all of a policy; Muon on the matrices of its blocks, AdamW on the rest.

    Args:
        model: whose policy is changed.
        data: kind of example -> its examples.
        shares: kind -> its share of the batches.
        loss: of a batch.
        schedule: how long and how fast.
        track: where progress is shown.
    """
    import torch

    from unigrpo.rollout.rollout import Rollout

    policy, spec = model.policy, spec_of(model)
    generator = torch.Generator().manual_seed(schedule.seed + 1)
    kinds, weights = list(shares), torch.tensor(list(shares.values()))
    optimizers = list(_optimizers(policy, schedule.lr))
    task = track.add_task("policy", total=schedule.steps)
    for step in range(schedule.steps):
        for optimizer in optimizers:
            set_rate(optimizer, schedule.lr * rate_at(step, schedule.steps))
            optimizer.zero_grad()
        kind = kinds[int(torch.multinomial(weights, 1, generator=generator))]
        columns = data[kind]
        images = sum(isinstance(segment, ImageSegment) for segment in columns)
        rows = torch.randint(columns[0].rows, (schedule.batch // max(1, images),), generator=generator)
        chosen = rows_of(columns, rows)
        text, image = loss(Rollout(policy, spec, chosen[0].rows), chosen, generator)
        (loss.text_weight * text + image).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        found = f"policy, {kind}: text {text.item():.3f}, image {image.item():.3f}"
        track.update(task, advance=1, description=found)


def _optimizers(policy: torch.nn.Module, lr: float) -> Iterator[torch.optim.Optimizer]:
    import torch

    blocks = [module for module in policy.modules() if isinstance(module, torch.nn.ModuleList)]
    inner = {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if id(parameter) in inner]
    rest = [parameter for parameter in trained if id(parameter) not in inner]
    if matrices:
        yield torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    yield torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.95))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def rate_at(step: int, steps: int) -> float:
    """Part of the learning rate: a line up over 100 steps, times a cosine down to 2 %."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def progress() -> Progress:
    """A display of steps."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())


def tune(config: SftConfig) -> MoTModel:
    """The fine-tuned model.

    Raises:
        ConfigError: no dataset, or one without answers; words that the checkpoint lacks.
    """
    examples = _examples(config)
    from unigrpo.models.mot import checkpoint

    model = checkpoint.load(config.checkpoint)
    words = {word for example in examples for b in example if isinstance(b, TextBlock) for word in b.text.split()}
    if lacking := sorted(words - set(model.tokenizer.words())):
        if not config.new_words:
            raise ConfigError(
                f"checkpoint={config.checkpoint} lacks words of the dataset, {len(lacking)} in all, such as"
                f" {lacking[0]!r}; add them with new_words=true"
            )
        model = model.with_words(lacking, config.schedule.seed)
    model.policy.train()
    groups = by_form(examples)
    data = {form: columns_of(found, model) for form, found in groups.items()}
    shares = {form: float(len(found)) for form, found in groups.items()}
    with progress() as track:
        train(model, data, shares, config.loss, config.schedule, track)
    model.policy.eval()
    return model


def _examples(config: SftConfig) -> list[tuple[Block, ...]]:
    if config.dataset is None:
        raise ConfigError("dataset: expected one whose prompts have answers, such as dataset=jsonl dataset.path=FILE")
    prompts = [prompt for found in config.dataset.prompts("train").values() for prompt in found]
    if without := [prompt for prompt in prompts if not prompt.answer]:
        raise ConfigError(
            f"dataset={config.dataset.name}: {len(without)} of its {len(prompts)} training prompts have no answer, a"
            f" list of texts and images, such as {without[0].text!r:.80}"
        )
    return [example_of(prompt) for prompt in prompts]


def config_of(words: Sequence[str]) -> SftConfig:
    """A configuration from ``key=value``, as of :func:`settings_of`.

    Raises:
        ConfigError: a word that is no setting.
    """
    config: SftConfig = build(SftConfig, settings_of(words))
    return config


def settings_of(words: Sequence[str]) -> JsonObject:
    """The plain form of ``key=value``; ``dataset.path=x`` is the key ``path`` in the mapping ``dataset``.

    Raises:
        ConfigError: a word that is no setting.
    """
    plain: JsonObject = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r}: expected key=value")
        outer, _, inner = key.partition(".")
        if not inner:
            plain[outer] = read_yaml(value)
            continue
        section = plain.get(outer, {})
        plain[outer] = ({"name": section} if isinstance(section, str) else section) | {inner: read_yaml(value)}
    return plain


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune into a folder: weights, tokenizer, recipe; the exit code, 2 for a mistake."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m unigrpo.sft", description=__doc__)
    parser.add_argument("folder", help="where the checkpoint goes")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="such as schedule.steps=500, loss.dropout=0.1")
    given = parser.parse_args(arguments)
    started = time.process_time()
    try:
        folder, config = Path(home_expanded("folder", given.folder)), config_of(given.settings)
        model = tune(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write(folder, model, {"recipe": plain_form(config), "cpu_s": round(time.process_time() - started)})
    return 0


def write(folder: Path, model: MoTModel, recipe: JsonObject) -> None:
    """Save a checkpoint, and how it was made with the digest of its weights."""
    from unigrpo.checkpoints import RECIPE, digest
    from unigrpo.models.mot import checkpoint

    checkpoint.save(folder, model)
    whole = dict(recipe) | {"sha256": digest(folder)}
    (folder / RECIPE).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
