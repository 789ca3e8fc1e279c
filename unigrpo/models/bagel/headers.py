"""What the files of weights of a folder say of themselves, without torch and without reading a weight."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unigrpo.errors import ConfigError

#: Bytes of a header, at most: as the safetensors library has it.
_LONGEST = 100_000_000
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes:
        file: where it is.
        shape: of it.
    """

    file: Path
    shape: tuple[int, ...]


def entries_of(file: Path) -> dict[str, Entry]:
    """Name -> entry of all tensors of a safetensors file.

    Raises:
        ConfigError: it is missing, is none, or has been cut off.
    """
    try:
        stat = file.stat()
        return _entries_of(file, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"{file}: expected weights, which cannot be read ({error.strerror}); {_AGAIN}") from error


@functools.cache
def _entries_of(file: Path, size: int, changed: int) -> dict[str, Entry]:
    """Read again only if the file's size or time of change is another: a plan asks once for each cell."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if length <= min(size, _LONGEST) else b""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ConfigError(f"{file}: expected a file of safetensors, got another or a damaged one; {_AGAIN}")
    found = {name: entry for name, entry in header.items() if name != "__metadata__"}
    try:
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in found.values()), default=0)
        entries = {name: Entry(file, tuple(map(int, entry["shape"]))) for name, entry in found.items()}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ConfigError(f"{file}: expected a file of safetensors, but its header is damaged; {_AGAIN}") from error
    if size != end:
        raise ConfigError(f"{file}: expected {end} bytes, as its header says, got {size}; {_AGAIN}")
    return entries


def entries_of_index(index: Path) -> dict[str, Entry]:
    """Name -> entry of all tensors of the shards that an index names.

    Raises:
        ConfigError: the index or a shard cannot be read.
    """
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index}: expected the index of sharded weights, which cannot be read ({error})") from error
    return {name: entry for shard in shards for name, entry in entries_of(index.parent / shard).items()}


def check(whose: str, found: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that all that is expected is there, in the right shape; what is there besides does not matter.

    Args:
        whose: the file or folder, as messages name it.
        found: in the files.
        expected: name -> shape.

    Raises:
        ConfigError: some of it is missing or has another shape.
    """
    if lacking := [name for name in expected if name not in found]:
        raise ConfigError(
            f"{whose}: {len(lacking)} of {len(expected)} weights are missing, such as {lacking[0]}; {_AGAIN}"
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ConfigError(
                f"{found[name].file}: {name} has shape {list(found[name].shape)}, expected {list(shape)} by the"
                " configuration beside it; weights and configuration are of two models"
            )


def side_of(entry: Entry) -> int:
    """Side of the square table of positions whose rows an entry has.

    Raises:
        ConfigError: it is not square.
    """
    side = math.isqrt(entry.shape[0])
    if side * side != entry.shape[0]:
        raise ConfigError(f"{entry.file}: expected a square table of positions, got {entry.shape[0]} rows")
    return side
