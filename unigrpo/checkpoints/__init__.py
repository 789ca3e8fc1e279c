"""The shipped checkpoints, and where a configuration's checkpoint lies; imports nothing heavy, as plans need it."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from unigrpo.registry import ConfigError, nearest

SHIPPED = Path(__file__).parent
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, AUTOENCODER, VAE = "model.safetensors", "autoencoder.safetensors", "vae"
#: File name -> the shipped checkpoint that has this file; so that the package holds every file once.
SHARED = "shared.json"


def folder_of(checkpoint: str) -> Path:
    """The folder of a shipped checkpoint's name, or of a path.

    Raises:
        ConfigError: neither.
    """
    for folder in (SHIPPED / checkpoint, Path(checkpoint)):
        if (folder / CONFIG).is_file():
            return folder
    shipped = [path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}")]
    fault = f"model.checkpoint={checkpoint!r}: no such shipped checkpoint or folder"
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


def settings_of(checkpoint: str) -> dict[str, Any]:
    """The sizes and switches of a configuration's checkpoint, as written: switches younger than it are missing.

    Raises:
        ConfigError: no such checkpoint.
    """
    settings: dict[str, Any] = json.loads((folder_of(checkpoint) / CONFIG).read_text())
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
    """:func:`digest` of a configuration's checkpoint, read once per process."""
    return digest(folder_of(checkpoint))
