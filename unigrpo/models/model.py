"""What every model strategy is: how a policy and its processor come to a device, and what is known before they do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from unigrpo.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from unigrpo.config import RunConfig
    from unigrpo.flow.guidance import Guidance
    from unigrpo.models.policy import Modality, Policy
    from unigrpo.models.processor import Processor

#: How a model can make an image.
Painting = Literal["denoising", "tokens"]


@dataclass(frozen=True)
class LoadedModel:
    """A policy, and what turns prompts into its tokens and latents, and those into texts and images.

    Raises:
        ConfigError: the processor has a vision encoder whose features the policy cannot read.
    """

    policy: Policy
    processor: Processor

    def __post_init__(self) -> None:
        from unigrpo.models.policy import VisionPolicy

        if self.processor.see is not None and not isinstance(self.policy, VisionPolicy):
            raise ConfigError(
                f"{type(self.policy).__name__}: expected extend_features(context, features, alive), for its processor"
                " has a vision encoder; write that method, or leave vision= out of the processor"
            )

    def reference(self) -> Policy:
        """A frozen policy that computes what this one computes now; here a copy."""
        return copy.deepcopy(self.policy).requires_grad_(False).eval()

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that takes memory: the policy, and the encoders and autoencoder beside it, which are not trained."""
        from torch import nn

        beside = (getattr(self.processor, name, None) for name in ("autoencoder", "vision"))
        return (cast("nn.Module", self.policy), *(one for one in beside if isinstance(one, nn.Module)))

    def time_points(self, steps: int, shift: float, height: int = 0, width: int = 0) -> Tensor:
        """The points of the flow for so many steps, [steps + 1] float64 from 1 to 0, at an image size of 0 for its own.

        By default those of :func:`unigrpo.flow.schedule.time_points`; a model may have a schedule of its own.
        """
        from unigrpo.flow.schedule import time_points

        return time_points(steps, shift)

    def guidance(self, asked: Guidance) -> Guidance:
        """How guidance that a run asks for is done; a model may combine velocities by a rule of its own."""
        return asked


class Model:
    """The base of a strategy of slot ``model``.

    Attributes:
        paints: the ways in which it makes images, one of which the run's image head takes.
    """

    slot: ClassVar[str]
    name: ClassVar[str]

    @property
    def reads_images(self) -> frozenset[Modality]:
        """What can depend on an image before it: texts, images, both or, where none is read, nothing."""
        return frozenset({"text", "image"})

    @property
    def writes_texts(self) -> bool:
        """Whether it makes texts."""
        return True

    @property
    def needs_images(self) -> bool:
        """Whether it makes an image of another one alone."""
        return False

    @property
    def paints(self) -> frozenset[Painting]:
        """By denoising, unless a model says otherwise; known while planning.

        Raises:
            ConfigError: it cannot be known.
        """
        return frozenset({"denoising"})

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
        """The model on ``device``, its policy in evaluation mode and in ``dtype``, by default that of its weights.

        Raises:
            ConfigError: it cannot be loaded.
        """
        raise NotImplementedError

    def load_for(self, config: RunConfig, device: torch.device) -> LoadedModel:
        """The model that the run of ``config`` starts from."""
        return self.load(device)

    def outline(self, config: RunConfig, device: torch.device) -> LoadedModel:
        """The model of :meth:`load_for` with weights on the meta device; what its processor makes is on ``device``.

        ``unigrpo estimate`` asks for it, and uses the sizes alone: a model that does not say how reads its weights.

        Raises:
            ConfigError: its sizes cannot be known.
        """
        return self.load_for(config, device)

    def save(self, folder: Path, loaded: LoadedModel) -> None:
        """Write what has been trained to ``folder``, which is there: here the policy's weights.

        :func:`unigrpo.models.weights.read` reads that file, ``model.safetensors``; it has shared weights once.
        """
        from unigrpo.models import weights

        (folder / "model.safetensors").write_bytes(weights.to_bytes(loaded.policy.state_dict()))

    def digest(self) -> str:
        """Names the weights that a run starts from, as far as neither its fields nor its source do.

        Asked while planning: it must be cheap.  :func:`unigrpo.checkpoints.digest_of_files` is of use.
        """
        return ""

    def remarks(self) -> list[str]:
        """What a report must say of runs with this model, one sentence each, without its full stop."""
        return []

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Incompatibilities with the rest of the configuration, one sentence each: here those of the episode."""
        episode = config.episode
        if episode.reads_images and not self.reads_images:
            yield f"episode={episode.name}: something follows an image, which this model cannot read; use single_round"
        elif blind := sorted(episode.reads_images - self.reads_images):
            yield (
                f"episode={episode.name}: {blind[0]}s follow an image, which those of this model cannot read; use"
                " single_round or editing"
            )
        if self.needs_images and "images" not in episode.needs:
            yield f"episode={episode.name}: the model edits images, and no prompt of this has one; use editing"
        if self.needs_images and config.evaluation.retention is not None:
            yield "evaluation.retention: the model edits images, and makes none of a prompt alone; leave it out"
        if episode.writes_texts and not self.writes_texts:
            yield (
                f"episode={episode.name}: the model writes no texts; use episode.thinking=false and"
                " modalities=image_only, or give it a language model"
            )
        if config.sampler.height and self.paints == {"tokens"}:
            yield "sampler.height: images that are painted in tokens have one size only; leave out height and width"
