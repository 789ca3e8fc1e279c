"""A function of one's own as the reward."""

from __future__ import annotations

import importlib
import inspect
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.errors import ConfigError, RewardError
from unigrpo.registry import name_of, nearest, register, where_looked
from unigrpo.rewards.reward import ImageReward

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.data.dataset import Dataset
    from unigrpo.rollout.decoded import DecodedEpisodes

#: The largest number of fp32, in which rewards are kept.
_LARGEST = 3.4028234663852886e38

#: (images [B, 3, H, W] fp32 in [0, 1] on the CPU, B prompts, B texts of the policy, **meta) -> B numbers.
RewardFunction = Callable[..., Sequence[float]]


@register("reward", "callable", source="the caller's own function, in the form that TRL's and Flow-GRPO's users know")
@dataclass(frozen=True)
class CallableReward(ImageReward):
    """``function(images, prompts, texts, **meta) -> list[float]``, asked of every image that the policy generates.

    ``images`` is [B, 3, H, W] fp32 in [0, 1] on the CPU, ``prompts`` and ``texts`` are B texts: the requests, and what
    the policy wrote last before each image ("" if nothing).  ``meta`` has, by name, lists of B values: ``tag`` and
    ``key`` of the prompt, and all that its line says besides (``Prompt.meta``), None where a line does not.  It is also
    asked of rows whose episode was over, and what it says of them is dropped.  The function's source is part of a run's
    identity: a changed function is another reward.
    """

    path: str
    """``package.module:function``; a module of the present folder will do."""

    def __post_init__(self) -> None:
        module, colon, name = self.path.partition(":")
        if not (module and colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ValueError(f"path={self.path!r}: expected package.module:function")

    @property
    def component_names(self) -> tuple[str, ...]:
        """The function's name."""
        return (self.path.rpartition(":")[2],)

    @property
    def component_weights(self) -> tuple[float, ...]:
        """One weight of 1."""
        return (1.0,)

    def function(self) -> RewardFunction:
        """The function.

        Raises:
            ConfigError: it cannot be imported.
        """
        module, _, name = self.path.partition(":")
        try:
            found: RewardFunction = getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever the module raises while it is imported
            raise ConfigError(
                f"reward.path={self.path}: cannot be imported ({type(error).__name__}: {error}){where_looked(module)}"
            ) from error
        if not callable(found):
            raise ConfigError(f"reward.path={self.path}: expected a function, got {found!r:.80}")
        if not _takes(found):
            raise ConfigError(
                f"reward.path={self.path}: expected {name}(images, prompts, texts, **meta), got"
                f" {name}{inspect.signature(found)}; **meta takes what is known of the prompts, tag and key among it"
            )
        return found

    def sources(self) -> tuple[str, ...]:
        """The module that a result hangs on, besides this one."""
        return (self.path.partition(":")[0],)

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say why the function cannot be asked, or what it asks for that no prompt has."""
        try:
            asked = _asked(self.function())
            known = asked and _known(config.dataset)
        except ConfigError as error:
            yield str(error).removeprefix("reward.")
            return
        if missing := sorted(asked - known):
            yield (
                f"path={self.path}: asks for {', '.join(missing)}, which no prompt of"
                f" dataset={name_of(config.dataset)} has{nearest(missing[0], known)}"
            )

    def scores_of(self, segment: int, episodes: DecodedEpisodes) -> Tensor:
        """What the function says of one segment's images, [B, 1] fp32.

        Raises:
            RewardError: it raised, or did not return a finite number for each image.
        """
        import torch

        images = ((episodes.image(segment).pixels.clamp(-1, 1) + 1) / 2).contiguous()
        before = [part.texts for k, part in episodes.texts if k < segment]
        prompts, texts = (
            [prompt.text for prompt in episodes.prompts],
            list(before[-1] if before else [""] * len(images)),
        )
        known = [{"tag": prompt.tag, "key": prompt.key, **prompt.meta} for prompt in episodes.prompts]
        function = self.function()
        # What a function asks for it gets, also where no line of this batch has it.
        names = _asked(function).union(*known)
        meta = {name: [one.get(name) for one in known] for name in sorted(names)}
        try:
            found = function(images, prompts, texts, **meta)
        except (Exception, SystemExit) as error:
            where = _line_of(error, function)
            raise RewardError(f"reward.path={self.path}: raised {type(error).__name__}: {error}{where}") from error
        values = self._each(found, len(images))
        numbers = [self._number(value, row, prompts[row]) for row, value in enumerate(values)]
        scores = torch.tensor(numbers)
        if _rounded_away(numbers, scores.tolist(), [prompt.key for prompt in episodes.prompts]):
            warnings.warn(
                f"reward.path={self.path}: the rewards of each group differ, but not in fp32, in which they are kept"
                " with 7 digits: nothing is learnt from them; subtract what they have in common",
                RuntimeWarning,
                stacklevel=2,
            )
        return scores[:, None]

    def _each(self, found: Sequence[float], count: int) -> list[float]:
        try:
            values = list(found)
        except TypeError:
            values = []
        if len(values) != count:
            raise RewardError(f"reward.path={self.path}: expected {count} numbers, one an image, got {found!r:.80}")
        return values

    def _number(self, value: float, row: int, prompt: str) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not abs(number) <= _LARGEST:
            raise RewardError(
                f"reward.path={self.path}: expected finite numbers that fp32 can hold, got {value!r:.40} in row {row},"
                f" of the prompt {prompt!r:.80}"
            )
        return number


def _rounded_away(exact: Sequence[float], kept: Sequence[float], keys: Sequence[str]) -> bool:
    """Whether the rewards of every group, the rows of one key, differ, and in none of them as they are kept."""
    groups: dict[str, tuple[set[float], set[float]]] = defaultdict(lambda: (set(), set()))
    for one, rounded, key in zip(exact, kept, keys, strict=True):
        groups[key][0].add(one)
        groups[key][1].add(rounded)
    return all(len(before) > len(after) == 1 for before, after in groups.values())


def _takes(function: RewardFunction) -> bool:
    """Whether a function can be called as it will be; of one that does not tell, yes."""
    signature = _signature(function)
    try:
        if signature:
            signature.bind([], [], [], **dict.fromkeys({*_asked(function), "tag", "key"}))
    except TypeError:
        return False
    return True


def _asked(function: RewardFunction) -> set[str]:
    """What a function asks for by name besides images, prompts and texts."""
    signature = _signature(function)
    rest = [*signature.parameters.values()][3:] if signature else []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {one.name for one in rest if one.kind in named and one.default is inspect.Parameter.empty}


def _signature(function: RewardFunction) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # of those that do not tell
        return None


def _known(dataset: Dataset) -> set[str]:
    """What is known of some prompt to train on."""
    prompts = (prompt for found in dataset.prompts("train").values() for prompt in found)
    return {"tag", "key"}.union(*(prompt.meta for prompt in prompts))


def _line_of(error: BaseException, function: RewardFunction) -> str:
    """`` (file.py:2)``: the deepest line of the function's own file at which an error was raised."""
    file = getattr(inspect.unwrap(function), "__code__", None)
    lines = traceback.extract_tb(error.__traceback__)[1:]  # the first is of whoever asked
    own = [line for line in lines if file and line.filename == file.co_filename] or lines
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
