"""The mixture of transformers in BAGEL's architecture (``model=mot``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.checkpoints import digest_of, folder_of, settings_of
from unigrpo.errors import ConfigError
from unigrpo.models.model import LoadedModel, Model, Painting
from unigrpo.registry import register

if TYPE_CHECKING:
    import torch

    from unigrpo.config import RunConfig
    from unigrpo.models.mot.checkpoint import MoTModel


@register("model", "mot", source="BAGEL (arXiv 2505.14683)")
@dataclass(frozen=True)
class Mot(Model):
    """A mixture of transformers from a checkpoint folder."""

    checkpoint: str = "tiny-shapes"
    """A name of a checkpoint inside the package, or a folder with config.json and model.safetensors."""
    new_words: bool = False
    """Whether words of the dataset that the checkpoint lacks are added, untrained; else they are refused."""

    @property
    def paints(self) -> frozenset[Painting]:
        """As the checkpoint has learnt to."""
        return frozenset({"tokens" if settings_of(self.checkpoint).get("code_levels") else "denoising"})

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> MoTModel:
        """Read the checkpoint onto ``device``; its weights are never there twice."""
        from unigrpo.models.mot import checkpoint

        with self._whole():
            return checkpoint.load(self.checkpoint, device, dtype)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Say of what goes wrong that the checkpoint is not whole."""
        try:
            yield
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # the tokenizer's and the weights' readers raise errors of no type
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise  # of the storage, not of the checkpoint
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise ConfigError(
                f"model.checkpoint={self.checkpoint!r}: {folder_of(self.checkpoint)} does not hold a whole checkpoint"
                f" ({reason}); save it again, or name another one"
            ) from error

    def outline(self, config: RunConfig, device: torch.device) -> MoTModel:
        """The checkpoint without its policy's weights, which need not be there; the processor is read.

        With new words all is read: they change the weights' sizes.
        """
        from unigrpo.models.mot import checkpoint

        if self.new_words:
            return self.load_for(config, device)
        with self._whole():
            return checkpoint.outline(self.checkpoint, device)

    def load_for(self, config: RunConfig, device: torch.device) -> MoTModel:
        """The checkpoint, with the words of the dataset if it is to learn new ones."""
        loaded = self.load(device)
        return loaded.with_words(config.dataset.words(), config.seed) if self.new_words else loaded

    def save(self, folder: Path, loaded: LoadedModel) -> None:
        """Write a checkpoint."""
        from unigrpo.models.mot import checkpoint

        assert isinstance(loaded, checkpoint.MoTModel)
        checkpoint.save(folder, loaded)

    def digest(self) -> str:
        """Of the checkpoint's weights."""
        return digest_of(self.checkpoint)

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say which checkpoint is not there."""
        if self.new_words and not config.adapter.trains_all:
            yield (
                f"model.new_words=true adds words that nothing has trained, and adapter={config.adapter.name} leaves"
                " them so; use adapter=full, or a checkpoint that knows the words"
            )
        try:
            settings_of(self.checkpoint)
        except ConfigError as error:
            yield str(error)
            return
        yield from super().conflicts(config)
