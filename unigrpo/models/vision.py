"""Vision encoders: what an understanding model sees in the pixels of an image, frozen in every stage of training.

Many unified models see an image twice: its latents, which they paint, and features of its pixels.  An encoder belongs
to the processor.  The policy has the module that maps features to tokens, which is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unigrpo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREPROCESSOR = "preprocessor_config.json"
#: Pillow's number of a way to resize -> torch's name.
_MODES = {2: "bilinear", 3: "bicubic"}


class VisionEncoder(Protocol):
    """Frozen and deterministic: the same pixels have the same features."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] fp32 in [-1, 1] -> features [B, N, D], N of them for each image of that size."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move it."""
        ...


class VisionTower(nn.Module):
    """A vision model of transformers (SigLIP, CLIP, DINOv2, ...), alone or as a part of a model of images and texts.

    Images are resized with antialias, cut and normalised as the folder's ``preprocessor_config.json`` says; features
    are the last hidden states, fp32.

    Args:
        folder: of ``config.json``, ``model.safetensors`` (or its shards) and ``preprocessor_config.json``, as
            ``save_pretrained`` writes them; nothing is downloaded.

    Raises:
        ConfigError: a file is missing or damaged, or the model is not one of images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: str | Path):
        super().__init__()
        folder = Path(folder)
        self.preparation = Preparation.of(_json(folder, PREPROCESSOR), folder / PREPROCESSOR)
        self.model: PreTrainedModel = _tower(folder).eval().requires_grad_(False)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.preparation, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)

    @property
    def channels(self) -> int:
        """D."""
        width: int = self.model.config.hidden_size
        return width

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> features [B, N, D] fp32."""
        seen = (self.preparation.resized(pixels.float()) + 1) / 2
        features: Tensor = self.model(pixel_values=(seen - self.mean) / self.std).last_hidden_state
        return features.float()

    def save(self, folder: Path) -> None:
        """Write the files that it is read from."""
        self.model.save_pretrained(folder)
        (folder / PREPROCESSOR).write_text(json.dumps(self.preparation.to_dict(), indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class Preparation:
    """What a tower wants of its images, in the words of ``preprocessor_config.json``.

    Attributes:
        mean: of each channel, pixels being in [0, 1].
        std: likewise.
        size: (height, width) that images are resized to, or the length of their shorter side.
        crop: (height, width) that is then cut out of their middle.
        resample: 2 for bilinear, 3 for bicubic.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int

    @classmethod
    def of(cls, settings: Mapping[str, object], path: Path) -> Preparation:
        """From the content of the file at ``path``.

        Raises:
            ConfigError: a key has a value that is not known here.
        """
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if settings.get(key, True) is not True:
                raise ConfigError(f"{path}: {key}={settings[key]!r}: expected true; images come in any size")
        cuts = settings.get("do_center_crop", False) is True
        size, resample = _size(settings, "size", path), settings.get("resample")
        if isinstance(size, int) and not cuts:
            if not isinstance(settings["size"], int):
                raise ConfigError(f"{path}: size={settings['size']!r}: expected height and width, or do_center_crop")
            size = (size, size)
        crop = _size(settings, "crop_size", path) if cuts else None
        if not isinstance(resample, int) or resample not in _MODES:
            raise ConfigError(f"{path}: resample={resample!r}: expected 2 (bilinear) or 3 (bicubic)")
        square = (crop, crop) if isinstance(crop, int) else crop
        mean, std = (_channels(settings, f"image_{name}", path) for name in ("mean", "std"))
        return cls(mean, std, size, square, resample)

    def to_dict(self) -> dict[str, object]:
        """The content of such a file."""
        found: dict[str, object] = {"image_mean": self.mean, "image_std": self.std, "resample": self.resample}
        found["size"] = {"shortest_edge": self.size} if isinstance(self.size, int) else _sides(self.size)
        if self.crop is not None:
            found |= {"do_center_crop": True, "crop_size": _sides(self.crop)}
        return found

    def resized(self, pixels: Tensor) -> Tensor:
        """Images [B, 3, H, W] in the tower's size; as 8-bit ones they never leave their range."""
        height, width = pixels.shape[2:]
        if isinstance(self.size, int):
            short = min(height, width)
            size = (self.size * height // short, self.size * width // short)
        else:
            size = self.size
        if size != (height, width):
            pixels = interpolate(pixels, size, mode=_MODES[self.resample], antialias=True).clamp(-1, 1)
        if self.crop is None:
            return pixels
        top, left = ((side - kept) // 2 for side, kept in zip(size, self.crop, strict=True))
        return pixels[:, :, top : top + self.crop[0], left : left + self.crop[1]]


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _size(settings: Mapping[str, object], key: str, path: Path) -> tuple[int, int] | int:
    """(height, width), or one number: the shorter side, or in old files that of a square."""
    found = settings.get(key)
    if isinstance(found, Mapping):
        sides = tuple(found.get(name) for name in ("height", "width"))
        found = found.get("shortest_edge") if sides == (None, None) else sides
    match found:
        case int() if found > 0:
            return found
        case (int() as height, int() as width) if min(height, width) > 0:
            return height, width
    raise ConfigError(f"{path}: {key}={settings.get(key)!r}: expected height and width, or shortest_edge, in pixels")


def _channels(settings: Mapping[str, object], key: str, path: Path) -> tuple[float, float, float]:
    match settings.get(key):
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            return float(red), float(green), float(blue)
    raise ConfigError(f"{path}: {key}={settings.get(key)!r}: expected one number for each of three channels")


def _json(folder: Path, name: str) -> Mapping[str, object]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: expected the folder of a vision model of transformers; {name} cannot be read ({error})"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{folder / name}: expected keys and values, got {found!r:.80}")
    return found


def _tower(folder: Path) -> PreTrainedModel:
    """The model in fp32; of one that reads texts too, what looks at images."""
    from transformers import AutoConfig, AutoModel

    _json(folder, "config.json")
    fault = f"{folder}: no vision model that transformers reads"
    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True)
        config = getattr(whole, "vision_config", whole)
        model, found = AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise errors of many types
        if isinstance(error, MemoryError):
            raise
        raise ConfigError(f"{fault} ({type(error).__name__}: {str(error).splitlines()[0]})") from error
    if model.main_input_name != "pixel_values":
        raise ConfigError(f"{fault} ({type(model).__name__} reads {model.main_input_name})")
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ConfigError(f"{fault} ({type(model).__name__} has no sequence of hidden states of one size)")
    if lacking := sorted(found["missing_keys"]):
        # They would be drawn at random.
        raise ConfigError(
            f"{folder}: {len(lacking)} weights of {type(model).__name__} are missing, such as {lacking[0]}"
        )
    return model
