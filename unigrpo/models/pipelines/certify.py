"""A parity certificate: whether our Euler steps end where the pipeline's own call ends, and to how many digits.

``unigrpo certify model=diffusers model.path=FOLDER`` starts both from the same noise, with and without guidance, two
prompts at once and one alone, with and without a picture to edit where a pipeline edits, in fp32, and writes what it
found beside the pipeline, or to ``out=FILE``.  Reports name runs whose pipeline has no certificate.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Cfg
from unigrpo.io import JsonObject
from unigrpo.models.pipelines import CERTIFICATE, Diffusers
from unigrpo.models.pipelines.loading import PipelineModel
from unigrpo.models.pipelines.policy import PipelineContext
from unigrpo.noise import normal
from unigrpo.rollout.trajectory import ImageSegment, TextSegment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unigrpo.models.pipelines.family import Family, Size

PROMPTS = ("a red cube", "two blue balls and a green cone on a wooden table")
#: The largest difference, in units of the latents' spread, up to which a pipeline counts as replayed.
TOLERANCE = 1e-4
_USAGE = 2


@dataclass(frozen=True)
class Agreement:
    """How far two ways to the same latents end apart.

    Attributes:
        prompts: at once.
        edited: whether they edit a picture.
        guidance_scale: 1 for none.
        largest: |difference|, in latent units.
        spread: standard deviation of the latents that the pipeline ends with.
    """

    prompts: int
    edited: bool
    guidance_scale: float
    largest: float
    spread: float

    @property
    def holds(self) -> bool:
        """Whether they are the same but for rounding."""
        return self.largest <= TOLERANCE * self.spread


def certify(
    loaded: PipelineModel, *, steps: int = 4, scales: Sequence[float] = (1.0, 3.0), height: int = 0, width: int = 0
) -> list[Agreement]:
    """Compare a loaded pipeline with its own call.

    Args:
        loaded: by ``model=diffusers``.
        steps: Euler steps.
        scales: of guidance.
        height: of the images in pixels, 0 for the pipeline's own.
        width: likewise.

    Raises:
        ConfigError: its own call would scale what it edits to another size.
    """
    size, family = loaded.processor.image_size(height, width), loaded.policy.family
    _check_size(type(loaded.policy.pipe).__name__, family, size)
    picture, found = Drawn(size), []
    for source in (None, picture) if family.refer and not family.sees else (picture,) if family.sees else (None,):
        for scale in scales:
            for prompts in (PROMPTS, PROMPTS[:1]):
                x = normal([("certificate", text) for text in prompts], loaded.processor.latent_shape(height, width))
                x = x.to(loaded.policy.device)
                wanted = _theirs(loaded, prompts, source, x, steps, scale)
                mine = _ours(loaded, prompts, source, x, steps, scale)
                gap, spread = float((mine - wanted).abs().max()), float(wanted.std())
                found.append(Agreement(len(prompts), source is not None, scale, gap, spread))
    return found


@dataclass(frozen=True)
class Drawn:
    """A picture to edit: an :class:`~unigrpo.data.prompt.ImageSource` of smooth colours.

    Attributes:
        size: (H, W).
    """

    size: Size

    @property
    def levels(self) -> NDArray[np.uint8]:
        """[H, W, 3]."""
        rows, columns = (np.linspace(0, 3, side) for side in self.size)
        waves = [np.sin(rows[:, None] * k + columns * (4 - k)) for k in (1, 2, 3)]
        return (127.5 + 127 * np.stack(waves, -1)).astype(np.uint8)

    def pixels(self) -> NDArray[np.float32]:
        """[3, H, W] in [-1, 1]."""
        return (self.levels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1).copy()

    def digest(self) -> str:
        """Names it."""
        return f"certificate {self.size}"


def _check_size(pipeline: str, family: Family, size: Size) -> None:
    own = family.own_size(*size)
    if own != size:
        raise ConfigError(
            f"sampler.height={size[0]}, sampler.width={size[1]}: the own call of {pipeline} scales what it edits to"
            f" {own[0]} x {own[1]}; certify it at that size"
        )


@torch.no_grad()
def _theirs(
    loaded: PipelineModel, prompts: Sequence[str], source: Drawn | None, x: Tensor, steps: int, scale: float
) -> Tensor:
    from PIL import Image

    policy, factor = loaded.policy, loaded.processor.autoencoder.factor
    family, size = policy.family, (x.shape[2], x.shape[3])
    shown = {} if source is None else family.shown(Image.fromarray(source.levels), len(prompts))
    latents = policy.pipe(
        prompt=list(prompts),
        latents=family.to_call(x),
        num_inference_steps=steps,
        output_type="latent",
        return_dict=False,
        **shown,
        **family.sized(size[0] * factor, size[1] * factor),
        **family.told(scale, len(prompts), policy.reading((), 1)[0]),
        **policy.options,
    )[0]
    return family.from_call(policy.pipe, latents, size).float()


@torch.no_grad()
def _ours(
    loaded: PipelineModel, prompts: Sequence[str], source: Drawn | None, x: Tensor, steps: int, scale: float
) -> Tensor:
    policy, guidance, factor = loaded.policy, loaded.guidance(Cfg(scale)), loaded.processor.autoencoder.factor
    points = loaded.time_points(steps, 1.0, x.shape[2] * factor, x.shape[3] * factor)
    both = contexts(loaded, prompts, source)
    for t, later in itertools.pairwise(points):
        asked = both if guidance.guides(float(t)) else both[:1]
        velocities = [policy.velocity(context, x, t).float() for context in asked]
        v = velocities[0] if len(velocities) == 1 else guidance.combine(*velocities)
        x = x + (later - t).float() * v
    return x


def contexts(loaded: PipelineModel, prompts: Sequence[str], source: Drawn | None = None) -> list[PipelineContext]:
    """That of the prompts alone, one row each, and that without them; both behind ``source``, if there is one."""
    policy, images = loaded.policy, () if source is None else (source,)
    asked = [Prompt(f"p{k}", words, images=images) for k, words in enumerate(prompts)]
    *given, text = loaded.processor.encode(asked, *(source.size if source else (0, 0)))
    assert isinstance(text, TextSegment)
    empty = policy.start(len(prompts))
    for image in given:
        assert isinstance(image, ImageSegment)
        empty = policy.extend_image(empty, image.latents, image.alive)
        if image.features is not None:
            empty = policy.extend_features(empty, image.features, image.alive)
    ids = loaded.processor.ids
    begin = torch.full_like(text.tokens[:, :1], ids.bos if ids.prompt is None else ids.prompt)
    tokens = torch.cat((begin, text.tokens), 1)
    mask = torch.cat((torch.ones_like(begin, dtype=torch.bool), text.mask), 1)
    return [policy.extend_text(empty, tokens, mask, logits=False)[1], empty]


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code: 0 certified, 1 not, 2 a mistake in the command."""
    words = [word for word in arguments if not word.startswith("out=")]
    named = [word.partition("=")[2] for word in arguments if word.startswith("out=")]
    try:
        config = compose(words)
        if not isinstance(config.model, Diffusers):
            raise ConfigError(f"model={config.model.name}: expected model=diffusers, whose pipeline is replayed")
        found = _certified(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE
    for one in found:
        verdict = "agrees" if one.holds else "DIFFERS"
        print(
            f"{one.prompts} prompts{' and a picture' * one.edited}, guidance {one.guidance_scale:g}: {verdict}, largest"
            " difference"
            f" {one.largest:.1e} of latents that spread by {one.spread:.2g}"
        )
    out = Path(named[-1]) if named else config.model.folder / CERTIFICATE
    out.write_text(json.dumps(certificate(config.model, found), indent=2) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return 0 if all(one.holds for one in found) else 1


def certificate(model: Diffusers, found: Sequence[Agreement]) -> JsonObject:
    """What is written: which weights and row, by which libraries, and how far apart."""
    import diffusers
    import transformers

    versions = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    agreements = [dataclasses.asdict(one) | {"holds": one.holds} for one in found]
    digest = dataclasses.replace(model, language_model="").digest()
    known = {"digest": digest, "family": model.family, "versions": versions}
    return {**known, "tolerance": TOLERANCE, "agreements": agreements}


def _certified(config: RunConfig) -> list[Agreement]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = cast("PipelineModel", config.model.load(device))
    return certify(loaded, steps=config.sampler.steps, height=config.sampler.height, width=config.sampler.width)
