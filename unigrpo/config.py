"""One run's configuration: typed, frozen, checked as a whole before anything starts.

The plain form (:meth:`RunConfig.to_dict`) is JSON; a strategy is ``{"name": ..., **fields}`` there.  Everything that
changes a result is in it, and nothing else is: where a run is launched and how it is tracked are not its business.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unigrpo import registry
from unigrpo.errors import ConfigError
from unigrpo.registry import nearest


def slot(name: str, default: str) -> Any:
    """A field that holds a strategy of slot ``name``, by default the one called ``default``."""
    return field(default_factory=lambda: registry.find(name, default)(), metadata={"slot": name})


@dataclass(frozen=True)
class ModelConfig:
    """The policy at the start of the run."""

    checkpoint: str = "tiny-shapes"
    """A name of a checkpoint inside the package, or a folder with config.json and model.safetensors."""
    new_words: bool = False
    """Whether words of the world that the checkpoint lacks are added, untrained; else they are refused."""
    context_grad: bool = False
    """Whether one modality's loss reaches the other's expert through the cached keys and values of the context. (The
    markers of a picture's own block go through the text expert too, as in BAGEL, and always pass a little.)"""


@dataclass(frozen=True)
class SamplerConfig:
    """How an episode is sampled."""

    steps: int = 8
    """Euler steps of the flow (steps, not points)."""
    shift: float = 1.0
    """Schedule shift s of ``t <- s t / (1 + (s-1) t)``, >= 1."""
    temperature: float = 1.0
    """Temperature of text sampling; log-probabilities are those of the tempered distribution."""


@dataclass(frozen=True)
class RolloutConfig:
    """What is sampled and how often it is used, per update."""

    prompts: int = 12
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
    image_lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    """Compute precision of forward passes: fp32 or bf16; log-probabilities and ratios are fp32 always."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The one evaluator, in the loop and at the end."""

    every: int = 0
    """Updates between evaluations in the loop; 0 evaluates at the end only."""
    prompts_per_task: tuple[int, ...] = (24, 24, 24, 24, 24, 24)
    """Test prompts of every task of the episode's family; of its six for ``images``: single_object, two_object,
    counting, colors, position, color_attr."""
    images_per_prompt: int = 4
    loop_images_per_prompt: int = 1
    """Images per prompt of an evaluation in the loop."""
    steps: int = 8
    """Euler steps; apart from the sampler's, so that arms that sample differently are measured alike."""
    shift: float = 1.0
    temperature: float = 1.0
    guidance_scale: float = 2.0
    """The second scale at which the final model is evaluated, besides 1."""
    seed: int = 0
    """Key of the evaluation's noise: never the run's seed, so that all arms see the same."""
    retention_prompts_per_task: tuple[int, ...] = (12, 12, 12, 12, 12, 12)
    """Test prompts of GenEval's six tasks on which a run with other prompts is measured too; empty for none."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcome of one run."""

    recipe: str = field(default="unigrpo", metadata={"identity": False})
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    world: Any = slot("world", "shapes")
    episode: Any = slot("episode", "single_round")
    reward: Any = slot("reward", "geneval")
    image_head: Any = slot("image_head", "flow")
    guidance: Any = slot("guidance", "cfg_free")
    dynamics: Any = slot("dynamics", "flow_sde")
    window: Any = slot("window", "random_window")
    advantage: Any = slot("advantage", "group")
    credit: Any = slot("credit", "outcome")
    image_ratio: Any = slot("image_ratio", "ratio_norm")
    text_ratio: Any = slot("text_ratio", "token")
    image_trust_region: Any = slot("trust_region", "ppo_clip")
    text_trust_region: Any = slot("trust_region", "ppo_clip")
    aggregation: Any = slot("aggregation", "sequence_mean")
    regularizer: Any = slot("regularizer", "none")
    text_kl: Any = slot("text_kl", "none")
    modalities: Any = slot("modalities", "joint")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunConfig:
        """Build from the plain form; missing keys take their defaults.

        Raises:
            ConfigError: unknown key, unknown strategy or a value of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"expected a mapping, got {data!r}")
        return cls(**{str(key): _built(str(key), value) for key, value in data.items()})

    def to_dict(self) -> dict[str, Any]:
        """The plain form, complete: defaults written out, tuples as lists."""
        return plain_form(self)

    def identity(self) -> dict[str, Any]:
        """The plain form without labels: two runs with equal identity give equal results."""
        plain = self.to_dict()
        for f in dataclasses.fields(self):
            if not f.metadata.get("identity", True):
                del plain[f.name]
        return plain

    def conflicts(self) -> list[str]:
        """Why this configuration cannot run, one sentence each, naming the pair and the way out; empty if it can."""
        found = list(_range_faults(self))
        if self.episode.family not in self.reward.families:
            found.append(
                f"reward={self.reward.name}: judges {' and '.join(self.reward.families) or 'nothing'}, but"
                f" episode={self.episode.name} is for {self.episode.family}; choose a reward for {self.episode.family}"
            )
        for f in dataclasses.fields(self):
            # An untouched model is only evaluated: how it would have been trained does not matter.
            if self.optim.updates == 0 and f.name not in ("world", "episode", "image_head"):
                continue
            declared = getattr(getattr(self, f.name), "conflicts", None)
            if declared is not None:
                found += [f"{f.name}={getattr(self, f.name).name}: {reason}" for reason in declared(self)]
        return found

    def check(self) -> RunConfig:
        """Return the configuration itself if it can run.

        Raises:
            ConfigError: with every conflict found.
        """
        if found := self.conflicts():
            raise ConfigError("; ".join(found))
        return self


#: Name -> dataclass field.
Fields = Mapping[str, "dataclasses.Field[Any]"]


@functools.cache
def fields_of(cls: type) -> Fields:
    """The fields of a dataclass by name."""
    return {f.name: f for f in dataclasses.fields(cls)}


def class_of(f: dataclasses.Field[Any], plain: Mapping[str, Any]) -> type | None:
    """The dataclass whose plain form ``plain`` in field ``f`` is: a strategy or a section; None: it is a mapping."""
    if "slot" in f.metadata:
        return registry.find(f.metadata["slot"], plain["name"])
    owner = f.default_factory
    return owner if isinstance(owner, type) and dataclasses.is_dataclass(owner) else None


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
    }
    at_least_0 = {
        "optim.updates": config.optim.updates,
        "optim.text_lr": config.optim.text_lr,
        "optim.image_lr": config.optim.image_lr,
        "optim.weight_decay": config.optim.weight_decay,
        "evaluation.every": config.evaluation.every,
        "evaluation.guidance_scale": config.evaluation.guidance_scale,
    }
    at_least_1 = {"sampler.shift": config.sampler.shift, "evaluation.shift": config.evaluation.shift}
    yield from (f"{name}={value}: expected a value above 0" for name, value in positive.items() if value <= 0)
    yield from (f"{name}={value}: expected 0 or more" for name, value in at_least_0.items() if value < 0)
    yield from (f"{name}={value}: expected at least 1" for name, value in at_least_1.items() if value < 1)
    if config.rollout.group_size < 2:
        yield f"rollout.group_size={config.rollout.group_size}: a group of one has no relative advantage; use 2 or more"
    if config.rollout.minibatches > 0 and config.rollout.prompts % config.rollout.minibatches:
        yield (
            f"rollout.minibatches={config.rollout.minibatches}: must divide rollout.prompts={config.rollout.prompts}"
            " so that no group is split"
        )
    if config.optim.precision not in ("fp32", "bf16"):
        yield f"optim.precision={config.optim.precision!r}: expected 'fp32' or 'bf16'"


def plain_form(value: Any) -> Any:
    """``value`` as JSON has it: a dataclass as a mapping (a strategy with its name), a tuple as a list."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [plain_form(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain_form(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"name": getattr(value, "name", "")} if hasattr(value, "slot") else {}
        return named | {name: plain_form(getattr(value, name)) for name in fields_of(type(value))}
    return value


_hints = functools.cache(typing.get_type_hints)

#: Parts of configurations by key, class and value: a plan of thousands of cells has few that differ.
_parts: dict[tuple[str, type | None, str], Any] = {}


def _built(key: str, value: Any) -> Any:
    """The value of the field ``key`` of RunConfig from its plain form."""
    if key not in fields_of(RunConfig):
        raise ConfigError(f"unknown key {key!r}{nearest(key, fields_of(RunConfig))}")
    if not isinstance(value, dict):
        return _field(RunConfig, key, value, key)
    slot_name, chosen = slot_of(key), value.get("name")
    cls = registry.find(slot_name, chosen) if slot_name and isinstance(chosen, str) else None
    token = (key, cls, repr(value))
    if token not in _parts:
        _parts[token] = _field(RunConfig, key, value, key)
    return _parts[token]


def _field(cls: type, key: str, value: Any, path: str) -> Any:
    """The value of the field ``key`` of ``cls`` from its plain form."""
    slot_name = fields_of(cls)[key].metadata.get("slot")
    return build_strategy(slot_name, value, path) if slot_name else _convert(_hints(cls)[key], value, path)


def build(cls: type, data: Any, path: str = "") -> Any:
    """A dataclass from its plain form.

    Raises:
        ConfigError: unknown key, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__}: expected a mapping, got {data!r}")
    fields = fields_of(cls)
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise ConfigError(f"unknown key {where!r}{nearest(str(key), fields)}")
        values[key] = _field(cls, key, value, where)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path or cls.__name__}: {error}") from error


def build_strategy(slot_name: str, value: Any, path: str) -> Any:
    """A strategy from its name, its plain form, or an instance.

    Raises:
        ConfigError: unknown strategy or field, or a value of the wrong type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"{path}: expected a strategy name or a mapping with 'name', got {value!r}")
    cls = registry.find(slot_name, value["name"])
    return build(cls, {key: item for key, item in value.items() if key != "name"}, path)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is typing.Literal:
        if not any(type(value) is type(arg) and value == arg for arg in args):  # True == 1 == 1.0
            raise ConfigError(f"{path}: expected one of {', '.join(map(str, args))}, got {value!r}{_near(value, args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{path}: expected {len(args)} items, got {len(value)}")
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {value!r}")
        return {str(key): _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    return _scalar(hint, value, path)


def _near(value: Any, args: tuple[Any, ...]) -> str:
    return nearest(str(value), args) if isinstance(value, str) else ""


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise ConfigError(f"{path}: expected a finite number, got {value}")
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise ConfigError(f"{path}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
