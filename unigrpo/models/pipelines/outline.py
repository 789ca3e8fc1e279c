"""A pipeline's folder and a language model's without their weights: modules on the meta device, all else as it is."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unigrpo.checkpoints import INDEX
from unigrpo.errors import ConfigError
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.libraries import Foreign
from unigrpo.models.pipelines import AUTOENCODER
from unigrpo.models.pipelines.family import Pipeline
from unigrpo.models.pipelines.loading import PipelineModel, assembled, own_language

if TYPE_CHECKING:
    from unigrpo.models.pipelines import Diffusers


def outline(model: Diffusers, device: torch.device) -> PipelineModel:
    """What :func:`unigrpo.models.pipelines.loading.load` makes; weights are not read, nor need they be there.

    Raises:
        ConfigError: a folder cannot be read.
    """
    dtype: torch.dtype = getattr(torch, model.dtype)
    pipe, language, named = _pipeline(model.folder, dtype), None, f"model.language_model={model.language_model!r}"
    if model.thinks_itself:
        language = own_language(pipe, named)
    elif model.language_folder:
        language = _language(model.language_folder, dtype, named)
    loaded = assembled(model, pipe, model.row(), language)
    loaded.processor.device = device
    return loaded


def _pipeline(folder: Path, dtype: torch.dtype) -> Pipeline:
    import diffusers

    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        parts = {
            name: _part(folder / name, *value, dtype=torch.float32 if name == AUTOENCODER else dtype)
            if value[0]
            else None
            for name, value in index.items()
            if isinstance(value, list) and len(value) == 2 and name != "_diffusers_version"
        }
        settings = {name: value for name, value in index.items() if name[0] != "_" and name not in parts}
        return getattr(diffusers, index["_class_name"])(**parts, **settings)
    except Exception as error:  # the libraries raise errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"model.path: {folder} cannot be read as a pipeline of diffusers ({reason})") from error


def _part(folder: Path, library: str, name: str, *, dtype: torch.dtype) -> Foreign:
    """One component; a module on the meta device, in ``dtype``."""
    from accelerate import init_empty_weights

    made = getattr(importlib.import_module(library), name)
    if not issubclass(made, torch.nn.Module):
        return made.from_pretrained(folder, local_files_only=True)
    with init_empty_weights():
        if library == "diffusers":
            module = made.from_config(made.load_config(folder, local_files_only=True))
            return torch.nn.Module.to(module, dtype)  # the library's own warns of what has no weights
        settings = made.config_class.from_pretrained(folder, local_files_only=True)
        module = made._from_config(settings, dtype=dtype)
    module.tie_weights()  # which moving them to the meta device has parted
    return module


def _language(folder: Path, dtype: torch.dtype, named: str) -> CausalLM:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    except Exception as error:  # the library raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{named}: {folder} cannot be read as a causal language model ({reason})") from error
    model.tie_weights()
    return CausalLM(model.eval(), named)
