"""One run's configuration: typed, frozen, checked as a whole before anything starts.

The plain form (:meth:`RunConfig.to_dict`) is JSON; a strategy is ``{"name": ..., **fields}`` there.  Everything that
changes a result is in it, and nothing else is: where a run is launched and how it is tracked are not its business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unigrpo import registry
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject
from unigrpo.noise import Key
from unigrpo.plain import build_field, fields_of, plain_form
from unigrpo.registry import nearest

if TYPE_CHECKING:
    from unigrpo.algorithms.algorithm import Algorithm
    from unigrpo.data.dataset import Dataset
    from unigrpo.flow.dynamics import Dynamics
    from unigrpo.flow.window import Window
    from unigrpo.metrics.metric import Metric
    from unigrpo.models.adapters.adapter import Adapter
    from unigrpo.models.model import Model
    from unigrpo.objective.slots import (
        Advantage,
        Aggregation,
        Credit,
        ImageRatio,
        Modalities,
        Regularizer,
        TextKl,
        TextRatio,
        TrustRegion,
    )
    from unigrpo.rewards.reward import Reward
    from unigrpo.rollout.episodes.episode import Episode
    from unigrpo.training.engines.engine import Engine


def slot(name: str, default: str, *, silent: Mapping[str, object] | None = None) -> Any:
    """A field that holds a strategy of slot ``name``, by default the one called ``default``.

    ``silent`` has the fields of the default of a field that the plain form leaves out there.
    """
    metadata = {"slot": name} | ({} if silent is None else {"silent": {"name": default, **silent}})
    return field(default_factory=lambda: registry.find(name, default)(), metadata=metadata)


def optional_slot(name: str) -> Any:
    """A field that holds a strategy of slot ``name`` or, by default, none."""
    return field(default=None, metadata={"slot": name})


def slots(name: str) -> Any:
    """A field that holds a list of strategies of slot ``name``, by default an empty one."""
    return field(default=(), metadata={"slots": name})


@dataclass(frozen=True)
class SamplerConfig:
    """How an episode is sampled."""

    steps: int = 8
    """Euler steps of the flow (steps, not points)."""
    shift: float = 1.0
    """Schedule shift s of ``t <- s t / (1 + (s-1) t)``, >= 1."""
    temperature: float = 1.0
    """Temperature of text sampling; log-probabilities are those of the tempered distribution."""
    height: int = 0
    """Of generated images, in pixels, in evaluations too; 0 with a width of 0 is the model's own size."""
    width: int = 0


@dataclass(frozen=True)
class RolloutConfig:
    """What is sampled and how often it is used, per update."""

    prompts: int = 12
    """Prompts per update, equally many of every tag."""
    group_size: int = 8
    """Episodes per prompt."""
    minibatches: int = 2
    """Disjoint slices of a rollout, one optimiser step each."""
    epochs: int = 1
    """Passes over a rollout."""
    shared_noise: bool = True
    """Whether the members of a group start from the same initial noise."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with one learning rate per modality (typed parameter groups)."""

    updates: int = 60
    """Rollouts; 0 leaves the model untouched."""
    text_lr: float = 1e-4
    """Learning rate of what makes texts; modalities of weight 0 are frozen."""
    image_lr: float = 1e-4
    """Learning rate of what makes images."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Largest norm of a modality's gradient; larger ones are scaled down."""
    context_grad: bool = False
    """Whether one modality's loss reaches the other's parameters through the context, such as cached keys and values.
    (What a model puts into an image's own block passes always: BAGEL's two markers, a little.)"""
    precision: str = "fp32"
    """Compute precision of forward passes: fp32 or bf16; log-probabilities and ratios are fp32 always."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The one evaluator, in the loop and at the end."""

    every: int = 0
    """Updates between evaluations in the loop; 0 evaluates at the end only."""
    split: Literal["validation", "test"] = "test"
    """Prompts that are measured on: those of ``validation`` are for choosing settings."""
    prompts_per_tag: int = 24
    """Prompts of every tag, or as many as it has."""
    images_per_prompt: int = 16
    """Episodes per prompt of the final evaluation: so many that noise is at most a quarter of the spread over seeds."""
    loop_images_per_prompt: int = 1
    """Images per prompt of an evaluation in the loop."""
    steps: int = 8
    """Euler steps; apart from the sampler's, so that arms that sample differently are measured alike."""
    shift: float = 1.0
    temperature: float = 1.0
    guidance_scale: float = 2.0
    """The second scale at which the final model is evaluated, besides 1."""
    guided_images_per_prompt: int = 1
    """Episodes per prompt at that scale: as many as at scale 1 where a question is decided there."""
    drift: bool = True
    """Whether it is measured, in training too, how far the policy moves; this takes a frozen copy of it."""
    seed: int = 0
    """Key of the evaluation's noise: never the run's seed, so that all arms see the same."""
    retention: Dataset | None = optional_slot("dataset")
    """What the model could do before: prompts of another dataset, on whose single images the final model is measured
    too; null for none."""
    retention_prompts_per_tag: int = 12


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcome of one run."""

    recipe: str = field(default="unigrpo", metadata={"identity": False})
    seed: int = 0
    """Key of all draws of training."""
    salt: int = field(default=0, metadata={"silent": 0})
    """A further part of that key, to repeat a run with other draws under the same seed; 0 adds nothing."""
    model: Model = slot("model", "mot")
    adapter: Adapter = slot("adapter", "full", silent={})
    engine: Engine = slot(
        "engine",
        "ddp",
        silent={"rollout_batch": 0, "micro_batch": 0, "micro_steps": 0, "checkpoint_activations": False},
    )
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    dataset: Dataset = slot("dataset", "shapes")
    episode: Episode = slot("episode", "single_round")
    reward: Reward = slot("reward", "geneval")
    metrics: tuple[Metric, ...] = slots("metric")
    """What evaluations measure; by default what the dataset suggests."""
    train_metrics: tuple[Metric, ...] = slots("metric")
    """What is measured of every rollout besides the reward's components, which cost nothing."""
    algorithm: Algorithm = slot("algorithm", "policy_gradient")
    image_head: Any = slot("image_head", "flow")
    guidance: Any = slot("guidance", "cfg_free")
    dynamics: Dynamics = slot("dynamics", "flow_sde")
    window: Window = slot("window", "random_window")
    advantage: Advantage = slot("advantage", "group")
    credit: Credit = slot("credit", "outcome")
    image_ratio: ImageRatio = slot("image_ratio", "ratio_norm")
    text_ratio: TextRatio = slot("text_ratio", "token")
    image_trust_region: TrustRegion = slot("trust_region", "ppo_clip")
    text_trust_region: TrustRegion = slot("trust_region", "ppo_clip")
    aggregation: Aggregation = slot("aggregation", "sequence_mean")
    regularizer: Regularizer = slot("regularizer", "none")
    text_kl: TextKl = slot("text_kl", "none")
    modalities: Modalities = slot("modalities", "joint")

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> RunConfig:
        """Build from the plain form; missing keys take their defaults.

        Raises:
            ConfigError: unknown key, unknown strategy or a value of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"expected a mapping, got {data!r}")
        return cls(**{str(key): _built(str(key), value) for key, value in data.items()})

    def to_dict(self) -> JsonObject:
        """The plain form, complete: defaults written out, tuples as lists.

        A silent field is left out at its default: runs from before there was such a field keep their identities.
        """
        plain: JsonObject = plain_form(self)
        return {key: value for key, value in plain.items() if key not in SILENT or value != SILENT[key]}

    def identity(self) -> JsonObject:
        """The plain form without labels: two runs with equal identity give equal results."""
        plain = self.to_dict()
        for f in dataclasses.fields(self):
            if not f.metadata.get("identity", True):
                del plain[f.name]
        return plain

    def conflicts(self) -> list[str]:
        """Why this configuration cannot run, one sentence each, naming the pair and the way out; empty if it can."""
        unread = self.algorithm.unread
        found = [*_range_faults(self), *_missing(self)]
        for f in dataclasses.fields(self):
            # An untouched model is only evaluated: how it would have been trained does not matter.
            if self.optim.updates == 0 and f.name not in OF_A_MODEL:
                continue
            if f.name in unread:
                continue
            declared = getattr(getattr(self, f.name), "conflicts", None)
            if declared is not None:
                found += [f"{f.name}={getattr(self, f.name).name}: {reason}" for reason in declared(self)]
        return found

    @property
    def key(self) -> Key:
        """What the key of every draw of training begins with."""
        return (self.seed, "salt", self.salt) if self.salt else (self.seed,)

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics of evaluations."""
        return self._of_run(self.metrics or _suggested(self.dataset))

    @property
    def measured_in_training(self) -> tuple[Metric, ...]:
        """The metrics of rollouts."""
        return self._of_run(self.train_metrics)

    @property
    def measured_of_retention(self) -> tuple[Metric, ...]:
        """The metrics on the prompts of ``evaluation.retention``: what those suggest."""
        kept = self.evaluation.retention
        return self._of_run(_suggested(kept)) if kept else ()

    def _of_run(self, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
        return tuple(metric.of_run(self) if hasattr(metric, "of_run") else metric for metric in metrics)

    def check(self) -> RunConfig:
        """Return the configuration itself if it can run.

        Raises:
            ConfigError: with every conflict found.
        """
        if found := self.conflicts():
            raise ConfigError("; ".join(found))
        return self


#: Fields that the plain form leaves out at their default -> that default's plain form.
SILENT: Mapping[str, object] = {
    f.name: f.metadata["silent"] for f in dataclasses.fields(RunConfig) if "silent" in f.metadata
}


#: Fields that say which model there is and what it needs to be evaluated.
OF_A_MODEL = ("model", "adapter", "dataset", "episode", "image_head")


def _suggested(dataset: Dataset) -> tuple[Metric, ...]:
    return tuple(registry.find("metric", name)() for name in dataset.metrics)


def slot_of(key: str) -> str | None:
    """The slot behind the key ``key`` (``text_trust_region`` -> ``trust_region``), None if it has none."""
    found = fields_of(RunConfig).get(key)
    return found.metadata.get("slot") if found else None


def _range_faults(config: RunConfig) -> Iterator[str]:
    positive = {
        "sampler.steps": config.sampler.steps,
        "sampler.temperature": config.sampler.temperature,
        "rollout.prompts": config.rollout.prompts,
        "rollout.minibatches": config.rollout.minibatches,
        "rollout.epochs": config.rollout.epochs,
        "optim.max_grad_norm": config.optim.max_grad_norm,
        "evaluation.steps": config.evaluation.steps,
        "evaluation.temperature": config.evaluation.temperature,
        "evaluation.images_per_prompt": config.evaluation.images_per_prompt,
        "evaluation.loop_images_per_prompt": config.evaluation.loop_images_per_prompt,
        "evaluation.guided_images_per_prompt": config.evaluation.guided_images_per_prompt,
        "evaluation.prompts_per_tag": config.evaluation.prompts_per_tag,
        "evaluation.retention_prompts_per_tag": config.evaluation.retention_prompts_per_tag,
    }
    at_least_0 = {
        "optim.updates": config.optim.updates,
        "optim.text_lr": config.optim.text_lr,
        "optim.image_lr": config.optim.image_lr,
        "optim.weight_decay": config.optim.weight_decay,
        "evaluation.every": config.evaluation.every,
        "evaluation.guidance_scale": config.evaluation.guidance_scale,
        "sampler.height": config.sampler.height,
        "sampler.width": config.sampler.width,
    }
    at_least_1 = {"sampler.shift": config.sampler.shift, "evaluation.shift": config.evaluation.shift}
    yield from (f"{name}={value}: expected a value above 0" for name, value in positive.items() if value <= 0)
    yield from (f"{name}={value}: expected 0 or more" for name, value in at_least_0.items() if value < 0)
    yield from (f"{name}={value}: expected at least 1" for name, value in at_least_1.items() if value < 1)
    if bool(config.sampler.height) != bool(config.sampler.width):
        yield (
            f"sampler.height={config.sampler.height} and sampler.width={config.sampler.width}: give both, or neither"
            " for the model's own size"
        )
    if config.rollout.group_size < 2:
        yield f"rollout.group_size={config.rollout.group_size}: a group of one has no relative advantage; use 2 or more"
    if config.rollout.minibatches > 0 and config.rollout.prompts % config.rollout.minibatches:
        yield (
            f"rollout.minibatches={config.rollout.minibatches}: must divide rollout.prompts={config.rollout.prompts}"
            " so that no group is split"
        )
    if config.optim.precision not in ("fp32", "bf16"):
        yield f"optim.precision={config.optim.precision!r}: expected 'fp32' or 'bf16'"


def _missing(config: RunConfig) -> Iterator[str]:
    """What the dataset's prompts lack that others read of them."""
    readers: list[tuple[str, Any]] = [("episode", config.episode), *(("metrics", one) for one in config.measured)]
    if config.optim.updates:
        readers += [("reward", config.reward), *(("train_metrics", one) for one in config.measured_in_training)]
        # Said of the reward it need not be said of the metric that it is, too.
        readers = [(whose, one) for whose, one in readers if getattr(one, "reward", None) is not config.reward]
    yield from _lacking("dataset", config.dataset, readers)
    if kept := config.evaluation.retention:
        key = "evaluation.retention"
        yield from _lacking(key, kept, [(f"{key}'s metric", metric) for metric in config.measured_of_retention])
        declared = getattr(kept, "conflicts", None)
        yield from (f"{key}={kept.name}: {reason}" for reason in (declared(config) if declared else ()))


def _lacking(key: str, dataset: Dataset, readers: list[tuple[str, Any]]) -> Iterator[str]:
    try:
        offers = dataset.offers
    except ConfigError:  # which the dataset itself tells
        return
    for whose, reader in readers:
        if lacking := sorted(reader.needs - offers):
            chosen = " ".join(f"{name}={value}" for name, value in plain_form(dataset).items() if name != "name")
            several = "s" * (len(lacking) > 1)
            judges = whose == "reward" or hasattr(reader, "reward")
            other = "; reward=callable reward.path=MODULE:FUNCTION judges any prompts" if judges else ""
            yield (
                f"{whose}={reader.name}: needs the field{several} {', '.join(map(repr, lacking))} of every prompt,"
                f" which {key}={dataset.name} ({chosen}) does not have; choose another dataset or {whose}{other}"
            )


#: Parts of configurations by key, class and value: a plan of thousands of cells has few that differ.
_parts: dict[tuple[str, type | None, str], Any] = {}


def _built(key: str, value: object) -> Any:
    """The value of the field ``key`` of RunConfig from its plain form."""
    if key not in fields_of(RunConfig):
        raise ConfigError(f"unknown key {key!r}{nearest(key, fields_of(RunConfig))}")
    if not isinstance(value, dict):
        return build_field(RunConfig, key, value, key)
    slot_name, chosen = slot_of(key), value.get("name")
    cls = registry.find(slot_name, chosen) if slot_name and isinstance(chosen, str) else None
    token = (key, cls, repr(value))
    if token not in _parts:
        _parts[token] = build_field(RunConfig, key, value, key)
    return _parts[token]
