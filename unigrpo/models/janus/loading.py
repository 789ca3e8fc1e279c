"""A folder of Janus made into a policy and its processor, and the other way round."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from unigrpo.checkpoints import files_of_model
from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Branch, Cfg, Guidance
from unigrpo.models.causal_lm import pretrained
from unigrpo.models.janus.policy import JanusPolicy
from unigrpo.models.libraries import Foreign
from unigrpo.models.model import LoadedModel
from unigrpo.models.policy import Modality
from unigrpo.models.processor import LatentGrid, StandardProcessor
from unigrpo.models.template import ChatTemplate
from unigrpo.models.tokenizer import Tokenizer, words_in

if TYPE_CHECKING:
    from unigrpo.models.janus import Janus


class JanusAutoencoder:
    """The model's VQ decoder, as :class:`~unigrpo.models.autoencoder.Autoencoder`; its latents are codes [B, 1, h, w].

    Args:
        model: ``JanusForConditionalGeneration``; it is part of this, and moves with the policy.
    """

    def __init__(self, model: Foreign):
        self.model = model

    @property
    def factor(self) -> int:
        """Side of the square of pixels behind a code: each level of the decoder but one doubles the side."""
        return int(2 ** (len(self.model.config.vq_config.channel_multiplier) - 1))

    def to(self, device: torch.device) -> Self:
        """Move it."""
        self.model.model.vqmodel.to(device)
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Refuse: Janus reads images by its vision tower, never by codes.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("model=janus: reads no images; use prompts of texts alone")

    def decode(self, latents: Tensor) -> Tensor:
        """Codes [B, 1, h, w] -> pictures [B, 3, H, W] fp32 in [-1, 1]."""
        pictures: Tensor = self.model.decode_image_tokens(latents.flatten(1).long())
        return pictures.permute(0, 3, 1, 2).float().clamp(-1, 1)


@dataclass(frozen=True)
class PaddedCfg(Cfg):
    """Classifier-free guidance as Janus has learnt it: its other branch reads as many tokens, all of them padding."""

    branches: ClassVar[tuple[Branch, ...]] = ("text-padded",)


@dataclass(frozen=True)
class JanusModel(LoadedModel):
    """Janus as a model, with guidance as it has learnt it.

    Attributes:
        policy: of texts and codes.
        processor: with the chat template and the VQ decoder.
    """

    policy: JanusPolicy
    processor: StandardProcessor

    def guidance(self, asked: Guidance) -> Guidance:
        """``guidance=cfg`` is Janus's own; another is done as it says."""
        return PaddedCfg(**asdict(asked)) if type(asked) is Cfg else asked


def load(
    janus: Janus,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    backbone: Modality = "text",
    answered: bool = True,
) -> JanusModel:
    """The model of a folder, all of it on ``device``.

    Args:
        janus: names the folder.
        device: for all of it.
        dtype: by default that of its weights.
        backbone: as of :class:`~unigrpo.models.janus.policy.JanusPolicy`.
        answered: as of :class:`~unigrpo.models.processor.StandardProcessor`.

    Raises:
        ConfigError: the folder cannot be read, or something in it is missing.
    """
    from transformers import JanusForConditionalGeneration

    janus.check_folder()
    folder, named = janus.folder, "model.path"
    words, template = words_in(folder, named), ChatTemplate.of_folder(folder, {})
    model = pretrained(JanusForConditionalGeneration, folder, dtype, named, "a Janus").to(device)
    loaded = assembled(model, words, template.source, janus.system_prompt, backbone=backbone, answered=answered)
    loaded.processor.to(device)
    return loaded


def assembled(
    model: Foreign,
    words: Foreign,
    template: str,
    system_prompt: str = "",
    *,
    backbone: Modality = "text",
    answered: bool = True,
) -> JanusModel:
    """From its parts: the model, the tokenizer of transformers and the chat template; see :func:`load`.

    Raises:
        ConfigError: the tokenizer lacks a special token, or has more tokens than the model.
    """
    roles = _roles_of(words)
    try:
        tokenizer = Tokenizer.of_transformers(words, roles)
        tokenizer.check_ids({}, model.config.text_config.vocab_size)
    except ValueError as error:
        raise ConfigError(f"model.path: the tokenizer there is not of its model: {error}") from error
    # Janus's template leaves the token that begins a text to the tokenizer.
    opening = roles["bos"] if words("")["input_ids"][:1] == [tokenizer.bos] else ""
    named = {f"{role}_token": roles[role] for role in ("bos", "eos", "pad")}
    chat = ChatTemplate("{{ opening }}" + template, system_prompt, named | {"opening": opening}, in_parts=True)
    height, width = model.model.vqmodel.quantize.quant_state_dims
    processor = StandardProcessor(
        tokenizer, JanusAutoencoder(model), LatentGrid(1, height, width), chat, answered=answered
    )
    return JanusModel(JanusPolicy(model, tokenizer.start_of_image, backbone).eval(), processor)


def _roles_of(words: Foreign) -> dict[str, str]:
    named = {"pad": "pad", "bos": "bos", "eos": "eos", "start_of_image": "boi", "end_of_image": "eoi"}
    roles = {role: getattr(words, f"{short}_token", None) for role, short in named.items()}
    if missing := [f"{named[role]}_token" for role, token in roles.items() if not token]:
        raise ConfigError(
            f"model.path: the tokenizer there names no {', '.join(missing)}; expected all of"
            f" {', '.join(f'{short}_token' for short in named.values())} in tokenizer_config.json"
        )
    return {role: str(token) for role, token in roles.items()}


def save(loaded: JanusModel, source: Path, folder: Path) -> None:
    """Write the weights to ``folder``, and beside them what ``source`` has besides: tokenizer and templates."""
    loaded.policy.janus.save_pretrained(folder)
    for file in files_of_model(source):
        of_weights = file.suffix == ".safetensors" or file.name.endswith(".index.json")
        target = folder / file.relative_to(source)
        if not of_weights and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
