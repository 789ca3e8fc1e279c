"""What an episode starts from: texts, images, and whatever rewards and metrics want to know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from unigrpo.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ImageSource(Protocol):
    """An image that is read or drawn when it is needed."""

    def pixels(self) -> NDArray[np.float32]:
        """The image [3, H, W] in [-1, 1]."""
        ...

    def digest(self) -> str:
        """Names its content."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """An image in a file, in any format that Pillow reads; transparent parts are white."""

    path: Path

    def pixels(self) -> NDArray[np.float32]:
        """The image [3, H, W] in [-1, 1].

        Raises:
            ConfigError: the file cannot be read as an image.
        """
        import numpy as np
        from PIL import Image, ImageOps

        try:
            with Image.open(self.path) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.has_transparency_data:
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
                levels = np.asarray(image.convert("RGB"), dtype=np.float32)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ConfigError(f"{self.path}: expected an image, which cannot be read ({error})") from error
        return np.ascontiguousarray((levels / 127.5 - 1).transpose(2, 0, 1))

    def digest(self) -> str:
        """Of the file's bytes.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"{self.path}: expected an image, which cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class TextBlock:
    """A text of an example.

    Attributes:
        text: without the token that ends it.
        given: whether it is only seen, not a target.
        end: whether it ends for good, or by asking for an image.
        turn: number of the turn that it belongs to, from 0.
    """

    text: str
    given: bool = False
    end: Literal["stop", "image"] = "stop"
    turn: int = 0


@dataclass(frozen=True)
class ImageBlock:
    """An image of an example.

    Attributes:
        image: where its pixels come from.
        given: whether it is only seen, not a target.
        turn: number of the turn that it belongs to, from 0.
    """

    image: ImageSource
    given: bool = False
    turn: int = 0


Block = TextBlock | ImageBlock


@dataclass(frozen=True)
class Prompt:
    """One line of a dataset.

    Attributes:
        key: names the prompt in noise, files and records: unique within its dataset, and the same whatever other
            prompts there are.
        text: the request in words.
        tag: the group that it belongs to; scores are means over tags of the means over their prompts.
        meaning: what it shares with its paraphrases; splits are disjoint in it.
        images: given before the text, in their order.
        turns: instructions, one for each turn, where an episode has several; the first one is ``text``.
        meta: all else that is known of it, by name.
        answer: what a policy is to answer, for supervised fine-tuning.
    """

    key: str
    text: str
    tag: str = "all"
    meaning: str = ""
    images: tuple[ImageSource, ...] = ()
    turns: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answer: tuple[Block, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What is given in words, turn by turn."""
        return self.turns or (self.text,)

    @property
    def offers(self) -> frozenset[str]:
        """What there is besides the text: ``images``, ``turns``, and the names in ``meta``."""
        given = {"images": self.images, "turns": self.turns}
        return frozenset([*(name for name, there in given.items() if there), *self.meta])


def key_of(tag: str, content: str) -> str:
    """A key made of a tag and a digest of all that tells a prompt from the others of that tag."""
    return f"{tag}-{hashlib.blake2b(content.encode(), digest_size=4).hexdigest()}"
