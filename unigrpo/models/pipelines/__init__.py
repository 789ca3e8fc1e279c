"""Flow-matching pipelines of diffusers (``model=diffusers``), alone or with a language model that thinks first."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unigrpo.checkpoints import INDEX, RECIPE, digest_of_files, files_of_model, pipeline_folder, setting_of
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.models.libraries import Arguments
from unigrpo.models.model import LoadedModel, Model
from unigrpo.registry import name_of, nearest, register

if TYPE_CHECKING:
    import torch

    from unigrpo.config import RunConfig
    from unigrpo.flow.guidance import Branch
    from unigrpo.models.pipelines.family import Family
    from unigrpo.models.pipelines.loading import PipelineModel
    from unigrpo.models.policy import Modality

#: What ``unigrpo certify`` leaves beside it.
CERTIFICATE = "certificate.json"
#: Parts of a pipeline that are trained, and the language model before it, in the folder of a finished run.
TRANSFORMER, ENCODER, LANGUAGE = "transformer", "text_encoder", "language_model"
#: The part that stays float32 whatever the others are.
AUTOENCODER = "vae"
#: In place of a language model's folder: the pipeline's own text encoder.
OWN = "own"


@register("model", "diffusers", source="diffusers; a refined prompt as in PromptRL")
@dataclass(frozen=True)
class Diffusers(Model):
    """A pipeline folder; its transformer makes the images, and a causal language model, if named, the texts."""

    path: str = ""
    """A folder in diffusers' layout, as ``save_pretrained`` and the hub have it; ``tiny-sd3`` is shipped."""
    trained: str = ""
    """What a run with this pipeline has left, ``RUN/model``: its parts stand in for those of the pipeline."""
    family: str = ""
    """A row of one's own, MODULE:NAME, for a pipeline that is not known (:mod:`unigrpo.models.pipelines.family`)."""
    language_model: str = ""
    """A folder of a causal language model of transformers, which writes before the image
    (``tiny-sd3/language_model`` is shipped); ``own`` is the pipeline's own text encoder, where it can write (FLUX.2
    klein, Qwen-Image); empty for none."""
    system_prompt: str = ""
    """What it is told before every request."""
    conditioning: Literal["prompt", "reply", "both"] = "reply"
    """What the image is conditioned on: the prompt, what the language model wrote, or both."""
    behind: str = ""
    """Of what it wrote only what stands behind the last of these words; all where they are empty."""
    negative_prompt: str = ""
    """The text that guidance takes for none; empty is the pipeline's own."""
    embedded_guidance: float = 3.5
    """The scale that a guidance-distilled transformer is told, such as that of FLUX.1 dev."""
    schedule: Literal["own", "shift"] = "own"
    """``own``: the sigmas of the pipeline's scheduler; ``shift``: those of ``sampler.shift``."""
    max_sequence_length: int = 0
    """Tokens of a text that the encoders read; 0 is the pipeline's own."""
    text_layers: tuple[int, ...] = ()
    """Layers of the text encoder whose states are used, where the pipeline lets one choose (FLUX.2 klein)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of all weights but the autoencoder's, which are float32.  In bfloat16 steps of a small learning rate are rounded
    away: it is for weights that are not trained, beside the float32 matrices of ``adapter=lora``."""

    @property
    def reads_images(self) -> frozenset[Modality]:
        """Images are made of others where its pipeline edits; its language model sees none.

        Raises:
            ConfigError: as :meth:`row`.
        """
        return frozenset({"image"} if self.row().refer else ())

    @property
    def needs_images(self) -> bool:
        """Where its encoders see what is edited."""
        return self.row().sees

    @property
    def writes_texts(self) -> bool:
        """With a language model."""
        return bool(self.language_model)

    @property
    def thinks_itself(self) -> bool:
        """Whether its own text encoder writes."""
        return self.language_model == OWN

    @property
    def folder(self) -> Path:
        """Of the pipeline."""
        return pipeline_folder("model.path", self.path)

    @property
    def trained_folder(self) -> Path | None:
        """What a run has left, if that is wanted."""
        return Path(home_expanded("model.trained", self.trained)) if self.trained else None

    @property
    def encoder_options(self) -> Arguments:
        """What ``encode_prompt`` is told."""
        told: Arguments = {}
        if self.max_sequence_length:
            told["max_sequence_length"] = self.max_sequence_length
        if self.text_layers:
            told["text_encoder_out_layers"] = self.text_layers
        return told

    def row(self) -> Family:
        """What is known of the pipeline.

        Raises:
            ConfigError: there is no pipeline, or it is not known.
        """
        from unigrpo.models.pipelines.family import Family
        from unigrpo.models.pipelines.rows import FAMILIES

        name = self._class_name()
        if self.family:
            module, _, attribute = self.family.partition(":")
            try:
                found = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigError(
                    f"model.family={self.family!r}: expected MODULE:NAME of a Family ({error})"
                ) from error
            if not isinstance(found, Family):
                raise ConfigError(f"model.family={self.family!r}: expected a Family, got {type(found).__name__}")
            return found
        if name not in FAMILIES:
            raise ConfigError(
                f"model.path={self.path!r}: no row for {name}{nearest(name, FAMILIES)}; known are"
                f" {', '.join(sorted(FAMILIES))}; write a row and name it by model.family=MODULE:NAME"
            )
        return FAMILIES[name]

    def _class_name(self) -> str:
        if not self.path:
            raise ConfigError("model.path: expected the folder of a pipeline of diffusers; give model.path=FOLDER")
        expected = "a folder in diffusers' layout, such as `hf download NAME --local-dir FOLDER` makes"
        return setting_of(self.folder, f"model.path={self.path!r}", INDEX, "_class_name", expected)

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> PipelineModel:
        """The pipeline and the language model on ``device``; in :attr:`dtype` by default."""
        import torch

        from unigrpo.models.pipelines import loading

        return loading.load(self, device, dtype or getattr(torch, self.dtype))

    def load_for(self, config: RunConfig, device: torch.device) -> LoadedModel:
        """The same, once it is known that the language model can hold the longest prompt of the run and its reply."""
        from unigrpo.models.pipelines import loading

        loaded = self.load(device)
        language = loaded.policy.language
        if language is not None and language.reach is not None:
            language.check_length(loading.longest_context(loaded.processor, config))
        return loaded

    def outline(self, config: RunConfig, device: torch.device) -> LoadedModel:
        """The same without any weights, of which none is read."""
        from unigrpo.models.pipelines.outline import outline

        return outline(self, device)

    @property
    def language_folder(self) -> Path | None:
        """Of the language model, where it is none of the pipeline's."""
        if not self.language_model or self.thinks_itself:
            return None
        return pipeline_folder("model.language_model", self.language_model)

    def save(self, folder: Path, loaded: LoadedModel) -> None:
        """Write what is trained, each part as its library has it: ``model.trained=FOLDER`` reads it again."""
        from unigrpo.models.pipelines import loading

        loading.save(folder, loaded)

    def digest(self) -> str:
        """Of all weights and settings in the folders."""
        folders = [folder for folder in (self.folder, self.trained_folder, self.language_folder) if folder]
        found = (path for folder in folders for path in files_of_model(folder))
        return digest_of_files(path for path in found if path.name not in (CERTIFICATE, RECIPE))

    def remarks(self) -> list[str]:
        """Whether it has a parity certificate of these weights and this row that holds."""
        from unigrpo.io import read_json

        row = f" model.family={self.family}" if self.family else ""
        told = f"`unigrpo certify model=diffusers model.path={self.path}{row}` holds it against its own call"
        found = read_json(self.folder / CERTIFICATE)
        if found is None:
            return [f"the pipeline in {self.path} has no parity certificate; {told}"]
        known = (found.get("digest"), found.get("family"))
        if known != (replace(self, language_model="").digest(), self.family):
            return [f"the parity certificate of {self.path} is of other weights or settings, or another row; {told}"]
        if not all(one["holds"] for one in found["agreements"]):
            return [f"steps of ours do not end where the pipeline in {self.path} ends, as its certificate says"]
        return []

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say what the pipeline lacks for the run."""
        try:
            self.row()
        except ConfigError as error:
            yield str(error)
            return
        if self.trained_folder and not (self.trained_folder / TRANSFORMER).is_dir():
            yield (
                f"model.trained={self.trained!r}: no folder {TRANSFORMER} there; expected the folder model/ of a"
                " finished run"
            )
        if self.language_folder and not (self.language_folder / "config.json").is_file():
            yield (
                f"model.language_model={self.language_model!r}: no config.json there; expected the folder of a causal"
                f" language model, such as `hf download NAME --local-dir FOLDER` makes, or {OWN}"
            )
        yield from super().conflicts(config)
        if self.needs_images and (lacking := [branch for branch in config.guidance.branches if _drops_images(branch)]):
            yield (
                f"guidance={name_of(config.guidance)}: asks for an image without the one that is edited"
                f" ({', '.join(lacking)}); use guidance=cfg"
            )
        if config.optim.context_grad and not self.thinks_itself:
            yield (
                "optim.context_grad=true: what conditions an image is a string, through which no gradient flows; leave"
                f" it out, or let the pipeline's text encoder think (model.language_model={OWN})"
            )
        for whose, settings in (("sampler", config.sampler), ("evaluation", config.evaluation)):
            if self.schedule == "own" and settings.shift != 1:
                yield (
                    f"{whose}.shift={settings.shift:g}: the pipeline has a schedule of its own; leave it at 1, or use"
                    " model.schedule=shift"
                )


def _drops_images(branch: Branch) -> bool:
    from unigrpo.rollout.coverage import COVERAGES

    return not (COVERAGES[branch].images or COVERAGES[branch].renewed)
