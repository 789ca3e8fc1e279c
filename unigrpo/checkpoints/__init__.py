"""The shipped checkpoints, and where a configuration's checkpoint lies; imports nothing heavy, as plans need it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.registry import nearest

SHIPPED = Path(__file__).parent
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, AUTOENCODER, VAE = "model.safetensors", "autoencoder.safetensors", "vae"
#: File name -> the shipped checkpoint that has this file; so that the package holds every file once.
SHARED = "shared.json"


def folder_of(checkpoint: str) -> Path:
    """The folder of a shipped checkpoint's name, or of a path, in which ``~`` is the home folder.

    Raises:
        ConfigError: neither.
    """
    shipped = [path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}")]
    folder = SHIPPED / checkpoint if checkpoint in shipped else Path(home_expanded("model.checkpoint", checkpoint))
    if (folder / CONFIG).is_file():
        return folder
    fault = f"model.checkpoint={checkpoint!r}: no such shipped checkpoint or folder with {CONFIG}"
    raise ConfigError(f"{fault}{nearest(checkpoint, shipped)}")


def file_of(folder: Path, name: str) -> Path:
    """The file ``name`` of the checkpoint in ``folder``: its own, or the one that its ``shared.json`` points to.

    Raises:
        ConfigError: ``shared.json`` points to a checkpoint that is not there.
    """
    own, shared = folder / name, folder / SHARED
    if own.is_file() or not shared.is_file():
        return own
    owners: dict[str, str] = json.loads(shared.read_text(encoding="utf-8"))
    return folder_of(owners[name]) / name if name in owners else own


@functools.cache
def settings_of(checkpoint: str) -> Mapping[str, Any]:
    """The sizes and switches of a configuration's checkpoint, as written: switches younger than it are missing.

    Raises:
        ConfigError: no such checkpoint, or none that can be read.
    """
    path = folder_of(checkpoint) / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.checkpoint={checkpoint!r}: {path} cannot be read ({error})") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"model.checkpoint={checkpoint!r}: {path}: expected keys and values, got {settings!r}")
    return settings


def digest(folder: Path) -> str:
    """SHA-256 over the weights of a checkpoint.

    Raises:
        OSError: the policy's weights cannot be read.
    """
    sha = hashlib.sha256((folder / WEIGHTS).read_bytes())
    for path in (file_of(folder, AUTOENCODER), *sorted((folder / VAE).glob("*.safetensors"))):
        if path.is_file():
            sha.update(path.read_bytes())
    return sha.hexdigest()


@functools.cache
def digest_of(checkpoint: str) -> str:
    """:func:`digest` of a configuration's checkpoint, read once per process.

    Raises:
        ConfigError: no such checkpoint, or its weights cannot be read.
    """
    try:
        return digest(folder_of(checkpoint))
    except OSError as error:
        raise ConfigError(f"model.checkpoint={checkpoint!r}: the weights cannot be read ({error})") from error
