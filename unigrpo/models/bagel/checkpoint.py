"""A published BAGEL folder onto a device and back, tensor by tensor."""

from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from unigrpo.errors import ConfigError
from unigrpo.models import weights
from unigrpo.models.bagel.autoencoder import autoencoder
from unigrpo.models.bagel.folder import AUTOENCODER, WEIGHTS, BagelFolder
from unigrpo.models.bagel.headers import Entry, entries_of
from unigrpo.models.bagel.layout import (
    LATENT_PLACES,
    VISION_PLACES,
    VISION_PREFIX,
    VisionConfig,
    ours,
    policy_dims,
    vision_dims,
)
from unigrpo.models.bagel.vision import BagelVision
from unigrpo.models.mot.checkpoint import MoTModel, grid_of
from unigrpo.models.mot.configuration import MoTConfig
from unigrpo.models.mot.policy import LatentPositions, MoTPolicy
from unigrpo.models.processor import StandardProcessor
from unigrpo.models.tokenizer import Tokenizer

#: Role -> BAGEL's special token: Qwen2's, where a text is framed as a turn without a name.
ROLES = {
    "bos": "<|im_start|>",
    "eos": "<|im_end|>",
    "pad": "<|endoftext|>",
    "start_of_image": "<|vision_start|>",
    "end_of_image": "<|vision_end|>",
}
_EMBEDDING = "language_model.model.embed_tokens.weight"


def load(
    folder: BagelFolder,
    device: torch.device,
    dtype: torch.dtype | None,
    system_prompt: str = "",
    *,
    weights_on: torch.device | None = None,
) -> MoTModel:
    """The model of a folder, its policy in ``dtype`` or in that of its embeddings; the others in fp32.

    Every tensor is made where it stays, from its place in the file: nothing is there twice.  That is ``device``, or
    ``weights_on``: none is read on the meta device.

    Raises:
        ConfigError: the tokenizer is missing, or not of this model.
    """
    where, tokenizer = weights_on or device, tokenizer_of(folder)
    config = with_ids(folder.config, tokenizer)
    with torch.device("meta"):
        policy = MoTPolicy(config)
    policy.load_state_dict(dict(_policy_weights(folder, config, where, dtype)), assign=True)
    file = folder.path / AUTOENCODER
    entries = entries_of(file)
    pictures = autoencoder(folder.autoencoder, dict(_read(entries, entries, where, torch.float32)))
    vision = None if folder.vision is None else _vision(folder, folder.vision, where)
    processor = StandardProcessor(tokenizer, pictures, grid_of(config), vision=vision, system_prompt=system_prompt)
    processor.to(where)
    processor.device = device
    return MoTModel(policy.eval(), processor)


def save(folder: Path, source: BagelFolder, policy: MoTPolicy) -> None:
    """Write ``source`` once more with the policy's weights in their places; what was not trained is copied."""
    for path in source.others:
        shutil.copyfile(path, folder / path.name)
    state = policy.state_dict()
    with ExitStack() as stack:
        files = {file: stack.enter_context(safe_open(file, "pt")) for file in source.shards}
        # What is not the policy's stays in its file until it is written.
        tensors = {
            name: state[ours(name)] if ours(name) in state else files[entry.file].get_tensor(name)
            for name, entry in source.weights.items()
        }
        weights.write(folder / WEIGHTS, tensors)


def tokenizer_of(folder: BagelFolder) -> Tokenizer:
    """The folder's tokenizer, in which each of BAGEL's special tokens is one token.

    Raises:
        ConfigError: there is none, it lacks a special token, or it has more tokens than the policy.
    """
    tokenizer = Tokenizer.load(folder.path, ROLES)
    for role, token in ROLES.items():
        (found,) = tokenizer.ids_of([token])
        if found != [getattr(tokenizer, role)]:
            raise ConfigError(
                f"{folder.path}: the tokenizer reads {token!r} as tokens {found}, expected the one token"
                f" {getattr(tokenizer, role)}; its file lacks the special tokens, download it again"
            )
    if len(tokenizer) > folder.config.vocab_size:
        raise ConfigError(
            f"{folder.path}: the tokenizer has {len(tokenizer)} tokens, the policy {folder.config.vocab_size}; the"
            " tokenizer is of another model"
        )
    return tokenizer


def with_ids(config: MoTConfig, tokenizer: Tokenizer) -> MoTConfig:
    """With the ids of special tokens as the tokenizer has them: those in ``llm_config.json`` are not BAGEL's."""
    return dataclasses.replace(
        config,
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
        start_of_image_id=tokenizer.start_of_image,
        end_of_image_id=tokenizer.end_of_image,
    )


def _policy_weights(
    folder: BagelFolder, config: MoTConfig, device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """Our name -> weight; a table of positions that the folder lacks is computed."""
    entries = folder.weights
    wanted = dtype or next(tensor for _, tensor in _read(entries, [_EMBEDDING], torch.device("meta"), None)).dtype
    names = policy_dims(config)
    for name, tensor in _read(entries, [name for name in names if name in entries], device, wanted):
        yield ours(name), tensor
    sides = {LATENT_PLACES: config.max_latent_size, VISION_PLACES: config.vision_positions}
    for name in sides.keys() & names.keys() - entries.keys():
        yield ours(name), LatentPositions(sides[name], config.hidden_size).pos_embed.to(device, wanted)


def _vision(folder: BagelFolder, config: VisionConfig, device: torch.device) -> BagelVision:
    with torch.device("meta"):
        vision = BagelVision(config)
    found = _read(folder.weights, vision_dims(config), device, torch.float32)
    vision.load_state_dict({name.removeprefix(VISION_PREFIX): tensor for name, tensor in found}, assign=True)
    return vision.eval().requires_grad_(False)


def _read(
    entries: Mapping[str, Entry], names: Iterable[str], device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """Name -> tensor, file by file, each with memory of its own: the file may change later."""
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        by_file[entries[name].file].append(name)
    for file, here in by_file.items():
        with safe_open(file, "pt") as opened:
            for name in here:
                yield name, opened.get_tensor(name).to(device, dtype, copy=True)
