"""What an update needs: one minibatch of the longest episodes goes through the real trainer, without weights.

Memory is counted tensor by tensor (``live.py``), so that nothing here is a formula of an architecture: sampling,
decoding, reference and training run the operations that a run does, on tensors that have only sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)

from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.models.model import LoadedModel
from unigrpo.models.policy import Policy
from unigrpo.plain import fields_of
from unigrpo.registry import name_of
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.rollout.trajectory import TextSegment
from unigrpo.training import micro
from unigrpo.training.engines import Ddp
from unigrpo.training.estimate.live import LiveBytes
from unigrpo.training.estimate.longest import LongestRollout
from unigrpo.training.estimate.weightless import tensors_of, without_weights
from unigrpo.training.trainer import Trainer


@dataclass(frozen=True)
class Estimate:
    """What a configuration needs in one process.

    Attributes:
        parameters: number by name: those of the policy, and those trained by modality.
        parts: bytes that stay from update to update, by name.
        peaks: the most bytes alive, those of ``parts`` included, by phase of an update.
        contexts: bytes that a minibatch's contexts (cached keys and values) have at the end of its rollout.
        images: generated in an update.
        tokens: of texts generated in an update, at most.
        velocities: velocity evaluations of an update in rows, by purpose.
    """

    parameters: Mapping[str, int]
    parts: Mapping[str, int]
    peaks: Mapping[str, int]
    contexts: int
    images: int
    tokens: int
    velocities: Mapping[str, int]

    @property
    def fixed(self) -> int:
        """Bytes that stay."""
        return sum(self.parts.values())

    @property
    def activations(self) -> int:
        """Bytes of the largest backward pass beyond what stays."""
        return self.peaks["update"] - self.fixed

    @property
    def peak(self) -> int:
        """The most bytes alive."""
        return max(self.peaks.values())


class Outline(Trainer):
    """A trainer whose model has no weights, and whose episodes are as long as they can be.

    Attributes:
        live: counts what it does.
        parts: as of :class:`Estimate`.
        contexts: likewise.
        trajectories: that an update samples one after the other.
        made: images and tokens of a minibatch.
    """

    def __init__(self, config: RunConfig):
        self.live: LiveBytes
        self.parts: dict[str, int] = {}
        self.contexts = 0
        self.trajectories = 1
        self.made: dict[str, int] = {}
        self._last: Rollout | None = None
        super().__init__(config)
        self.evaluator.rollouts = LongestRollout

    def load(self) -> LoadedModel:
        """The configuration's model without its weights."""
        return self.config.model.outline(self.config, self.accelerator.device)

    def _reference(self) -> Policy | None:
        """As a trainer's; the weights of both then have no memory behind them."""
        reference, device = super()._reference(), self.accelerator.device
        policy, *beside = self.model.modules
        fixed: list[torch.nn.Module] = [reference] if isinstance(reference, torch.nn.Module) else []
        without_weights([policy, *beside, *fixed], device)
        self.live = LiveBytes(device)
        for name, modules in (("weights", [policy]), ("encoders, autoencoder", beside), ("reference", fixed)):
            self.parts[name] = self.live.hold(tensors_of(modules))
        return reference

    def start(self, spec: RolloutSpec, batch: int) -> Rollout:
        """A rollout that is as long as it can be."""
        self._last = LongestRollout(self.policy, spec, batch)
        return self._last

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Keep the peak of a phase."""
        with self.live.phase(phase):
            yield

    def fill(self) -> None:
        """Make the gradients and the optimiser's states, which all updates but the first find there."""
        trained = [parameter for found in self.parameters.values() for parameter in found]
        before = self.live.now
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        self.parts["gradients"] = self.live.now - before
        self.optimizer.step()
        self.parts["optimiser"] = self.live.now - before - self.parts["gradients"]

    def minibatch(self, update: int) -> None:
        """All that an update does, with the first of its minibatches, and of that the first part that is trained."""
        self.policy.train()
        spec, prompts, before = self.rollout_spec(update), self.prompts(update), self.live.now
        with self.clock("rollout"):
            together = self.sampled_together(prompts[: self.prompts_of_minibatch])
            self.trajectories = len(together) * self.config.rollout.minibatches
            trajectory = self.sample(together[0], update, spec)
            self.count("rollout", trajectory.cost)
            self.contexts, self._last = self.live.now, None
            self.contexts -= self.live.now
        texts = [one for one in trajectory.segments if isinstance(one, TextSegment) and not one.given]
        self.made = {"images": trajectory.generated_images, "tokens": sum(int(one.mask.sum()) for one in texts)}
        with self.clock("reward"):
            self.evaluator.processor.decode(trajectory)
        first, *others = micro.slices(trajectory, self.engine.micro_batch)
        one = first.trajectory if others else trajectory
        with self.clock("reference"):
            advantage = torch.zeros(len(one.row_prompts), len(one.segments))
            parts = self.prepare([one], [advantage], update, spec)
        self.parts["recorded episodes"] = (self.live.now - before) * self.trajectories
        prepared = self.cost["nfe_train"]
        with self.clock("update"):
            self.train_step(parts, spec)
        # Log-probabilities before the update are computed anew where a minibatch is trained in parts.
        passes = self.config.rollout.epochs + bool(others)
        self.cost["nfe_train"] = prepared + passes * (self.cost["nfe_train"] - prepared)
        for purpose in ("nfe_train", "nfe_reference"):
            self.cost[purpose] *= 1 + len(others)

    def evaluation(self) -> None:
        """A batch of the final evaluation, guided, of the larger of its two sizes."""
        settings = self.config.evaluation
        self.policy.eval()
        with self.clock("evaluation"):
            each = max(settings.images_per_prompt, settings.guided_images_per_prompt)
            batch = self.evaluator.first_batch(self.policy, settings.guidance_scale, each)
            self.evaluator.processor.decode(batch)


def estimate(config: RunConfig) -> Estimate:
    """What ``config`` needs in one process on the device that it would train on here; no weights are read.

    That process has the whole model, also where its engine would share it.

    Texts count with all the tokens that they may have, and the reference scores every minibatch, as in every tenth
    update where only drift asks for it.  What the reward takes, and what kernels take for themselves, is not counted.

    Raises:
        ConfigError: the configuration cannot run, or trains nothing.
    """
    if not config.check().optim.updates:
        raise ConfigError("optim.updates=0: nothing is trained; give the number of updates")
    if config.engine.shards:
        parts = {name: getattr(config.engine, name) for name in fields_of(Ddp)}
        config = dataclasses.replace(config, engine=Ddp(**parts))
    trainer = Outline(config)
    try:
        with trainer.live:
            trainer.fill()
            trainer.minibatch(0)
            trainer.evaluation()
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        raise ConfigError(
            f"model={name_of(config.model)}: decides by the values of tensors how large others are, which no estimate"
            f" knows ({type(error).__name__}: {error}); try one update and read cost/peak_mb in its cost.json"
        ) from error
    count = trainer.trajectories
    # Those of the others wait meanwhile.
    waiting = trainer.parts["recorded episodes"] * (count - 1) // count
    parameters = {"policy": sum(one.numel() for _, one in trainer.policy.named_parameters())}
    parameters |= {f"trained, {name}": sum(one.numel() for one in found) for name, found in trainer.parameters.items()}
    return Estimate(
        parameters=parameters,
        parts={name: size for name, size in trainer.parts.items() if size},
        peaks={name: size + waiting * (name != "evaluation") for name, size in trainer.live.peaks.items() if name},
        contexts=trainer.contexts,
        images=trainer.made["images"] * count,
        tokens=trainer.made["tokens"] * count,
        velocities={one: trainer.cost[f"nfe_{one}"] * count for one in ("rollout", "reference", "train")},
    )
