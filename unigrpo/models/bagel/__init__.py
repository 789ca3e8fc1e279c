"""BAGEL-7B-MoT from its published folder (``model=bagel``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unigrpo.checkpoints import digest_of_files
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.models.model import LoadedModel, Model
from unigrpo.registry import register

if TYPE_CHECKING:
    import torch

    from unigrpo.config import RunConfig
    from unigrpo.models.bagel.folder import BagelFolder
    from unigrpo.models.mot.checkpoint import MoTModel


@register("model", "bagel", source="BAGEL (arXiv 2505.14683)")
@dataclass(frozen=True)
class Bagel(Model):
    """The published weights, read as they are into the mixture of transformers; ``save`` writes the same layout."""

    folder: str = ""
    """The published folder: ``llm_config.json``, ``vit_config.json``, ``ema.safetensors``, ``ae.safetensors`` and the
    tokenizer's files."""
    vision: bool = True
    """Whether images that are given or generated are read by the vision encoder too; text-to-image needs none."""
    system_prompt: str = ""
    """A text file: what stands before every request, such as the request to think first; without one, none."""
    dtype: Literal["published", "float32", "bfloat16"] = "published"
    """Of the policy's weights.  In bfloat16, as published, steps of a small learning rate are rounded away: all weights
    are trained in float32, with ``optim.precision=bf16`` for speed."""

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> MoTModel:
        """Read the folder onto ``device``, tensor by tensor."""
        return self._load(device, dtype, device)

    def outline(self, config: RunConfig, device: torch.device) -> MoTModel:
        """The same with all weights on the meta device: of the files only what says how large they are is read."""
        import torch

        return self._load(device, None, torch.device("meta"))

    def _load(self, device: torch.device, dtype: torch.dtype | None, weights_on: torch.device) -> MoTModel:
        found, system = self._read(), self._system()
        import torch

        from unigrpo.models.bagel import checkpoint

        own = None if self.dtype == "published" else getattr(torch, self.dtype)
        return checkpoint.load(found, device, dtype or own, system, weights_on=weights_on)

    def save(self, folder: Path, loaded: LoadedModel) -> None:
        """Write a folder like the one that was read, with the policy's weights."""
        from unigrpo.models.bagel import checkpoint
        from unigrpo.models.mot.policy import MoTPolicy

        assert isinstance(loaded.policy, MoTPolicy)
        checkpoint.save(folder, self._read(), loaded.policy)

    def digest(self) -> str:
        """Of the folder's files, and of the system prompt."""
        prompt = [Path(home_expanded("model.system_prompt", self.system_prompt))] if self.system_prompt else []
        return digest_of_files([*self._read().files, *prompt])

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say what is wrong with the folder, and which image size the model cannot have."""
        try:
            found = self._read()
            self._system()
        except ConfigError as error:
            yield str(error)
            return
        step = found.autoencoder.factor * found.config.latent_patch_size
        largest = step * found.config.max_latent_size
        height, width = config.sampler.height, config.sampler.width
        if height % step or width % step or max(height, width) > largest:
            yield (
                f"sampler.height={height}, sampler.width={width}: expected multiples of {step} up to {largest} pixels,"
                f" or 0 and 0 for {largest} x {largest}"
            )

    def _read(self) -> BagelFolder:
        from unigrpo.models.bagel import folder

        if not self.folder:
            raise ConfigError("model.folder: expected the folder of a published BAGEL; give it by model.folder=FOLDER")
        return folder.read(Path(home_expanded("model.folder", self.folder)), vision=self.vision)

    def _system(self) -> str:
        if not self.system_prompt:
            return ""
        try:
            # As it is: a space before a line's end counts.
            return Path(home_expanded("model.system_prompt", self.system_prompt)).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"model.system_prompt={self.system_prompt}: expected a text file ({error})") from error
