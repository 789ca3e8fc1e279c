"""The shipped checkpoints, and where a configuration's checkpoint lies; imports nothing heavy, as plans need it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.registry import nearest

SHIPPED = Path(__file__).parent
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, AUTOENCODER, VAE = "model.safetensors", "autoencoder.safetensors", "vae"
VISION = "vision"
#: Of a pipeline of diffusers.
INDEX = "model_index.json"
#: How a shipped checkpoint or pipeline was made.
RECIPE = "recipe.json"
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


def pipeline_folder(key: str, named: str) -> Path:
    """The folder of a path that begins with a shipped pipeline's name, or of any other, in which ``~`` is home.

    Args:
        key: of the configuration, for messages.
        named: its value.

    Raises:
        ConfigError: there is no home folder.
    """
    shipped = {path.parent.name for path in SHIPPED.glob(f"*/{INDEX}")}
    return SHIPPED / named if named.split("/")[0] in shipped else Path(home_expanded(key, named))


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
def settings_of(checkpoint: str) -> Mapping[str, object]:
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


#: Bytes up to which the whole content of files is read for a digest.
_WHOLE = 256 * 2**20
#: Of larger ones: so many pieces of each, evenly spaced, the first and the last of its bytes among them.
_PIECES, _PIECE = 64, 64 * 2**10


def digest_of_files(files: Iterable[Path]) -> str:
    """SHA-256 over files of weights; read again only if a file's size or time of change is another.

    Many GB are not read: of each of such files the size and 4 MiB count, in 64 evenly spaced pieces.  Training changes
    nearly every byte; a change to a part of a large file between the pieces would go unnoticed.

    Raises:
        ConfigError: one cannot be read.
    """
    try:
        return _digest_of(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    except OSError as error:
        raise ConfigError(f"the weights cannot be read ({error})") from error


@functools.cache
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    whole = sum(size for _, size, _ in files) <= _WHOLE
    sha = hashlib.sha256()
    for path, size, _ in files:
        if whole:
            sha.update(path.read_bytes())
            continue
        sha.update(f"{size}:".encode())
        with path.open("rb") as file:
            for k in range(_PIECES):
                file.seek(max(0, size - _PIECE) * k // (_PIECES - 1))
                sha.update(file.read(_PIECE))
    return sha.hexdigest()


def files_of_model(folder: Path) -> list[Path]:
    """What decides a result in a folder of Hugging Face's: weights, settings, tokenizers, templates."""
    endings = {".safetensors", ".json", ".jinja", ".txt", ".model"}
    return [path for path in sorted(folder.rglob("*")) if path.suffix in endings]


def digest(folder: Path) -> str:
    """SHA-256 over the weights of a checkpoint, and over how its vision tower wants its images.

    Raises:
        ConfigError: the policy's weights cannot be read.
    """
    vision = [path for ending in ("json", "safetensors") for path in sorted((folder / VISION).glob(f"*.{ending}"))]
    others = (file_of(folder, AUTOENCODER), *sorted((folder / VAE).glob("*.safetensors")), *vision)
    return digest_of_files([folder / WEIGHTS, *filter(Path.is_file, others)])


def digest_of(checkpoint: str) -> str:
    """:func:`digest` of a configuration's checkpoint.

    Raises:
        ConfigError: no such checkpoint, or its weights cannot be read.
    """
    folder = folder_of(checkpoint)
    try:
        return digest(folder)
    except ConfigError as error:
        raise ConfigError(f"model.checkpoint={checkpoint!r}: {error}") from error


def setting_of(folder: Path, named: str, file: str, key: str, expected: str) -> str:
    """One setting in a JSON file of a folder that a configuration names.

    Args:
        folder: that is named.
        named: the key of the configuration with its value, for messages.
        file: in the folder.
        key: of the setting.
        expected: what should be there, for messages.

    Raises:
        ConfigError: no such file, or it cannot be read.
    """
    path = folder / file
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[key])
    except FileNotFoundError as error:
        raise ConfigError(f"{named}: no {file} there; expected {expected}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{named}: {path} cannot be read ({error})") from error
