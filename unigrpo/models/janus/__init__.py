"""Janus, which writes texts and paints images in tokens with one language model (``model=janus``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from unigrpo.checkpoints import CONFIG, digest_of_files, files_of_model, setting_of
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.models.model import LoadedModel, Model, Painting
from unigrpo.registry import register

if TYPE_CHECKING:
    import torch

    from unigrpo.config import RunConfig
    from unigrpo.models.janus.loading import JanusModel
    from unigrpo.models.policy import Modality


@register(
    "model", "janus", source="Janus-Pro (arXiv 2501.17811), as transformers has it; trained so by T2I-R1 (2505.00703)"
)
@dataclass(frozen=True)
class Janus(Model):
    """A folder of transformers' ``JanusForConditionalGeneration``; one language model makes texts and image codes."""

    path: str = ""
    """A folder in Hugging Face's layout, as ``save_pretrained`` and the hub have it."""
    system_prompt: str = ""
    """What it is told before every request."""

    @property
    def reads_images(self) -> frozenset[Modality]:
        """Nothing: it reads images by a vision tower, not by the codes that it paints, and that tower is not used."""
        return frozenset()

    @property
    def paints(self) -> frozenset[Painting]:
        """In tokens."""
        return frozenset({"tokens"})

    @property
    def folder(self) -> Path:
        """Of the model."""
        return Path(home_expanded("model.path", self.path))

    def check_folder(self) -> None:
        """Check that a Janus is there, by its settings alone.

        Raises:
            ConfigError: none is.
        """
        if not self.path:
            raise ConfigError("model.path: expected the folder of a Janus; give model.path=FOLDER")
        expected = (
            "a folder of transformers' Janus, such as `hf download deepseek-community/Janus-Pro-1B --local-dir FOLDER`"
            " makes"
        )
        kind = setting_of(self.folder, f"model.path={self.path!r}", CONFIG, "model_type", expected)
        if kind != "janus":
            raise ConfigError(
                f"model.path={self.path!r}: expected model_type 'janus' in {CONFIG}, got {kind!r}; the folders of"
                " deepseek-community have it, those of deepseek-ai are of another layout"
            )

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> JanusModel:
        """The model on ``device``, to write and to paint."""
        from unigrpo.models.janus import loading

        return loading.load(self, device, dtype)

    def load_for(self, config: RunConfig, device: torch.device) -> JanusModel:
        """The model for a run.

        Its language model is trained with the texts, or with the images where these alone are trained.  A request keeps
        its last token where the episode has no reply that would begin with it.
        """
        from unigrpo.models.janus import loading

        backbone: Modality = "text" if config.modalities.text else "image"
        return loading.load(self, device, None, backbone=backbone, answered=config.episode.writes_texts)

    def save(self, folder: Path, loaded: LoadedModel) -> None:
        """Write a folder that ``model.path`` can name."""
        from unigrpo.models.janus import loading

        loading.save(cast("JanusModel", loaded), self.folder, folder)

    def digest(self) -> str:
        """Of all weights and settings in the folder."""
        return digest_of_files(files_of_model(self.folder))

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say that there is no such model, and what it cannot do."""
        try:
            self.check_folder()
        except ConfigError as error:
            yield str(error)
            return
        yield from super().conflicts(config)
