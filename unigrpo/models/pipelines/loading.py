"""A folder of diffusers, and perhaps one of a language model, made into a policy and its processor."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import tokenizers
import torch
from torch import Tensor

from unigrpo.checkpoints import INDEX
from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Branch, Cfg, Guidance
from unigrpo.flow.schedule import time_points
from unigrpo.models import causal_lm
from unigrpo.models.autoencoder import one_by_one
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.libraries import Arguments, Foreign
from unigrpo.models.model import LoadedModel
from unigrpo.models.pipelines import AUTOENCODER, ENCODER, LANGUAGE, TRANSFORMER
from unigrpo.models.pipelines.family import Family, Pipeline
from unigrpo.models.pipelines.pictures import Pixels
from unigrpo.models.pipelines.policy import PipelinePolicy
from unigrpo.models.pipelines.reading import Reading
from unigrpo.models.processor import LatentGrid, StandardProcessor
from unigrpo.models.template import ChatTemplate
from unigrpo.models.tokenizer import Tokenizer, words_in

if TYPE_CHECKING:
    from unigrpo.config import RunConfig
    from unigrpo.models.pipelines import Diffusers


class PipelineAutoencoder:
    """A pipeline's own, as :class:`~unigrpo.models.autoencoder.Autoencoder`; it moves with the policy.

    Args:
        pipe: it is part of this.
        family: the pipeline's row.
    """

    def __init__(self, pipe: Pipeline, family: Family):
        self.pipe, self.family = pipe, family
        pipe.vae.enable_slicing()  # one image at a time: a rollout has hundreds

    @property
    def factor(self) -> int:
        """Pixels of a map's pixel, a side."""
        own = getattr(self.pipe, "vae_scale_factor", None) or self.pipe.vae_scale_factor_spatial
        return int(own) * self.family.factor

    def to(self, device: torch.device) -> Self:
        """Move it."""
        self.pipe.vae.to(device)
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> maps [B, C, h, w]."""
        return one_by_one(partial(self.family.to_latents, self.pipe), pictures.to(self.pipe.vae.dtype)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Maps -> pictures in [-1, 1]."""
        raw = one_by_one(partial(self.family.decode, self.pipe), latents.to(self.pipe.vae.dtype))
        return raw.float().clamp(-1, 1)


@dataclass(frozen=True)
class OwnGuidance:
    """Guidance as the model's pipeline combines velocities, at the scale and in the interval of another.

    Attributes:
        asked: what the run asks for.
        family: how the pipeline does it.
    """

    asked: Cfg
    family: Family

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Those of what is asked for."""
        return self.asked.branches

    @property
    def penalty(self) -> str:
        """Of what is asked for."""
        return self.asked.penalty

    def guides(self, t: float) -> bool:
        """As what is asked for."""
        return self.asked.guides(t)

    def combine(self, v_cond: Tensor, *v_branches: Tensor) -> Tensor:
        """The pipeline's own rule; [B, C, h, w] as its arguments."""
        (v_uncond,) = v_branches
        assert self.family.guided is not None
        return self.family.guided(v_cond, v_uncond, self.asked.scale)


@dataclass(frozen=True)
class PipelineModel(LoadedModel):
    """A pipeline as a model: it has a schedule and a rule of guidance of its own."""

    policy: PipelinePolicy
    processor: StandardProcessor
    own_schedule: bool = True

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The policy and the pipeline's parts."""
        parts = self.policy.pipe.components.values()
        return (self.policy, *(part for part in parts if isinstance(part, torch.nn.Module)))

    def time_points(self, steps: int, shift: float, height: int = 0, width: int = 0) -> Tensor:
        """The sigmas of the pipeline's scheduler for so many steps at that size, [steps + 1] float64."""
        if not self.own_schedule:
            return time_points(steps, shift)
        channels, *size = self.processor.latent_shape(height, width)
        return scheduled(self.policy.pipe, self.policy.family, steps, (size[0], size[1]), channels)

    def guidance(self, asked: Guidance) -> Guidance:
        """Classifier-free guidance is the pipeline's."""
        if self.policy.family.guided is None or not isinstance(asked, Cfg):
            return asked
        return cast("Guidance", OwnGuidance(asked, self.policy.family))


def scheduled(pipe: Pipeline, family: Family, steps: int, size: tuple[int, int], channels: int) -> Tensor:
    """Sigmas [steps + 1] float64, 1 at first and 0 at last, as the pipeline's own call would have them."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = pipe.scheduler.config
    # Checkpoints that ship a solver of several steps have its shift under another name.
    renamed = {"shift": config["flow_shift"]} if "flow_shift" in config else {}
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config, **renamed)
    given: Arguments = {"num_inference_steps": steps}
    if family.sigmas is not None:
        given = {"sigmas": family.sigmas(steps)}
    if scheduler.config.use_dynamic_shifting:
        given["mu"] = family.mu(pipe, family.tokens(size, channels), steps)
    scheduler.set_timesteps(**given)
    sigmas: Tensor = scheduler.sigmas.double()
    return sigmas


def load(model: Diffusers, device: torch.device, dtype: torch.dtype) -> PipelineModel:
    """The pipeline of ``model`` and its language model, all of it on ``device`` and, but for its autoencoder, in dtype.

    Raises:
        ConfigError: a folder cannot be read.
    """
    trained = model.trained_folder
    pipe = _pipeline(model.folder, dtype, _parts_in(trained)).to(device)
    language, named = None, f"model.language_model={model.language_model!r}"
    if model.thinks_itself:
        language = own_language(pipe, named)
    elif model.language_folder:
        written = trained / LANGUAGE if trained and (trained / LANGUAGE).is_dir() else model.language_folder
        language = causal_lm.load(written, device, dtype, named)
    loaded = assembled(model, pipe, model.row(), language)
    loaded.processor.to(device)
    return loaded


def assembled(model: Diffusers, pipe: Pipeline, family: Family, language: CausalLM | None = None) -> PipelineModel:
    """From its parts; of the pipeline's modules the transformer alone wants gradients.

    Raises:
        ConfigError: its encoders cannot be told what ``model`` tells them.
    """
    _check_options(model, pipe)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(part is pipe.transformer)
    tokenizer, template, stops = bytes_alone(), None, tuple[int, ...]()
    if language is not None:
        language.thaw()
        folder = model.language_folder
        words = words_in(folder, "model.language_model") if folder else pipe.tokenizer
        tokenizer, template = _texts_of(words, model.system_prompt)
        stops = language.stops
    negative = model.negative_prompt or family.negative
    reading = Reading(tokenizer, template, model.conditioning, model.behind, negative, (tokenizer.eos, *stops))
    policy = PipelinePolicy(
        pipe, family, reading, language, options=model.encoder_options, embedded_guidance=model.embedded_guidance
    )
    autoencoder = PipelineAutoencoder(pipe, family)
    side = _side(pipe) // family.factor
    grid = LatentGrid(family.channels(pipe), side, side, patch=family.patch)
    vision = Pixels() if family.sees else None
    processor = StandardProcessor(tokenizer, autoencoder, grid, template, vision, stops=stops)
    return PipelineModel(policy.eval(), processor, model.schedule == "own")


def longest_context(processor: StandardProcessor, config: RunConfig) -> int:
    """Tokens of the longest context of texts that a run can come to: requests as they are framed, and replies."""
    episode, framed = config.episode, processor.template.render if processor.template else "{}".format
    turns = max(getattr(each, "turns", 1) for each in (episode, episode.for_evaluation()))
    splits = (config.dataset.prompts(split) for split in ("train", config.evaluation.split))
    prompts = [prompt.texts[:turns] for split in splits for of_tag in split.values() for prompt in of_tag]
    lengths = map(len, processor.tokenizer.ids_of([framed(text) for texts in prompts for text in texts]))
    # Without a template a request stands between two tokens, and its reply behind a third.
    more = getattr(episode, "max_thinking", 0) + (0 if processor.template else 3)
    return max(sum(next(lengths) + more for _ in texts) for texts in prompts)


def _check_options(model: Diffusers, pipe: Pipeline) -> None:
    """Raise where ``encode_prompt`` does not take an option, or its encoder has no such layer."""
    taken = inspect.signature(pipe.encode_prompt).parameters
    fields = {"text_encoder_out_layers": "text_layers", "max_sequence_length": "max_sequence_length"}
    for option in model.encoder_options:
        if option not in taken:
            name = fields[option]
            raise ConfigError(
                f"model.{name}={getattr(model, name)}: {type(pipe).__name__} has no such choice; leave it out"
            )
    layers = model.text_layers or getattr(taken.get("text_encoder_out_layers"), "default", ())
    deepest = pipe.text_encoder.config.get_text_config().num_hidden_layers if layers else 0
    if wrong := [layer for layer in layers if not 0 <= layer <= deepest]:
        raise ConfigError(
            f"model.text_layers: expected layers from 0 to {deepest} of the text encoder, got {wrong[0]}; name its own"
        )


def save(folder: Path, loaded: LoadedModel) -> None:
    """Write what is trained: ``transformer/``, and ``language_model/`` or the ``text_encoder/`` that thinks."""
    policy = loaded.policy
    assert isinstance(policy, PipelinePolicy)
    policy.transformer.save_pretrained(folder / TRANSFORMER)
    if policy.language is not None:
        policy.language.model.save_pretrained(folder / (ENCODER if policy.encodes else LANGUAGE))


def _parts_in(trained: Path | None) -> dict[str, Path]:
    """Part of a pipeline -> where a run has left it."""
    if trained is None:
        return {}
    return {part: trained / part for part in (TRANSFORMER, ENCODER) if (trained / part).is_dir()}


def _pipeline(folder: Path, dtype: torch.dtype, trained: Mapping[str, Path]) -> Pipeline:
    """The pipeline in ``folder``, with some of its parts from elsewhere; none of them is read twice."""
    import diffusers
    import transformers

    told: Arguments = {
        "dtype": {"default": dtype, AUTOENCODER: torch.float32},
        "local_files_only": True,
        "use_safetensors": True,
    }
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        # A pipeline saved without one of its parts, such as T5, is loaded only if that is said.
        told |= {part: None for part, kind in index.items() if kind == [None, None]}
        libraries = {"diffusers": diffusers, "transformers": transformers}
        for part, place in trained.items():
            library, name = index[part]
            told[part] = getattr(libraries[library], name).from_pretrained(
                place, dtype=dtype, local_files_only=True, use_safetensors=True
            )
        return diffusers.DiffusionPipeline.from_pretrained(folder, **told)
    except MemoryError:
        raise
    except Exception as error:  # the library raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"model.path: {folder} cannot be read as a pipeline of diffusers ({reason})") from error


def _side(pipe: Pipeline) -> int:
    """Of the pipeline's own images, in pixels of its autoencoder's latents."""
    own = getattr(pipe, "default_sample_size", None) or pipe.transformer.config.get("sample_size") or 64
    return int(own if isinstance(own, int) else own[0])


def bytes_alone() -> Tokenizer:
    """A tokenizer of 256 bytes, for texts that no language model reads: it can spell all of them."""
    roles = {
        "pad": "<|pad|>",
        "bos": "<|begin|>",
        "eos": "<|end|>",
        "start_of_image": "<|image|>",
        "end_of_image": "<|/image|>",
    }
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(_alphabet(), []))
    inner.add_special_tokens(list(roles.values()))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(inner, roles)


def _alphabet() -> dict[str, int]:
    return {letter: i for i, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}


def own_language(pipe: Pipeline, named: str) -> CausalLM:
    """The pipeline's text encoder as what thinks.

    Raises:
        ConfigError: it cannot write.
    """
    return CausalLM(pipe.text_encoder, named)


def _texts_of(words: Foreign, system_prompt: str) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer of a language model, and its chat template if it has one.

    A language model has no token that asks for an image: the one that pads stands in, which nobody waits for where an
    episode has one image.

    Raises:
        ConfigError: it does not name the token that ends a text, or a system prompt would stand nowhere.
    """
    if not words.eos_token:
        raise ConfigError("model.language_model: its tokenizer names no eos_token")
    eos, pad, bos = (str(word or words.eos_token) for word in (words.eos_token, words.pad_token, words.bos_token))
    roles = {"pad": pad, "bos": bos, "eos": eos, "start_of_image": pad, "end_of_image": pad}
    tokenizer = Tokenizer.of_transformers(words, roles)
    if not isinstance(words.chat_template, str):
        if system_prompt:
            raise ConfigError("model.system_prompt: the language model has no chat template that it would stand in")
        return tokenizer, None
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    return tokenizer, ChatTemplate(words.chat_template, system_prompt, named)
