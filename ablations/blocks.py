"""Blocks of seeds that start from different models, so that a verdict is not that of one checkpoint alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unigrpo.compose import Draft
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject
from unigrpo.overrides import Override, spell


@dataclass(frozen=True)
class Blocks:
    """A key of the model, and the values that seeds have for it in turn.

    Seed k belongs to block ``k % len(values)``, whatever other seeds there are: no other number of seeds moves one to
    another block.  All arms share the blocks, so that pairs by seed are pairs within a block.
    """

    key: str
    values: tuple[object, ...]

    def __post_init__(self) -> None:
        """See to it that these are several models.

        Raises:
            ConfigError: another key, one value, or a value that comes twice.
        """
        if not self.key.startswith("model."):
            raise ConfigError(f"blocks: expected a field of the model, as model.checkpoint, got {self.key!r}")
        if len(self.values) < 2:
            raise ConfigError(f"blocks.{self.key}: expected two values or more, got {spell([*self.values])}")
        if twice := next((value for k, value in enumerate(self.values) if value in self.values[:k]), None):
            raise ConfigError(f"blocks.{self.key}: {spell(twice)} comes twice")

    @property
    def words(self) -> str:
        """What is declared of them."""
        return f"{self.key} of seed k: number k modulo {len(self.values)} of {', '.join(map(spell, self.values))}"

    def seeds_of(self, seeds: Iterable[int]) -> dict[int, list[int]]:
        """Number of each block that ``seeds`` reach -> its seeds."""
        found: dict[int, list[int]] = {}
        for seed in sorted(seeds):
            found.setdefault(seed % len(self.values), []).append(seed)
        return dict(sorted(found.items()))

    def in_words(self, seeds: Iterable[int]) -> str:
        """Which of ``seeds`` start from what, on a line."""
        parts = (
            f"{spell(self.values[k])} (seeds {', '.join(map(str, own))})" for k, own in self.seeds_of(seeds).items()
        )
        return f"{self.key} {', '.join(parts)}"

    def record(self, seeds: Iterable[int]) -> JsonObject:
        """What ``sweep.json`` holds of them: the value of each of ``seeds``, and what is declared."""
        of = {str(seed): self.values[seed % len(self.values)] for seed in sorted({*seeds})}
        return {"key": self.key, "of": of, "words": self.words}

    def check(self, elsewhere: Mapping[str, Sequence[Override]]) -> None:
        """Refuse a grid that says the key in another place, too.

        Args:
            elsewhere: a place in words -> its overrides.

        Raises:
            ConfigError: naming the place.
        """
        for where, overrides in elsewhere.items():
            for override in overrides:
                if override.key == self.key:
                    raise ConfigError(
                        f"{where}: {override.text}: blocks give {self.key} by seed, to all arms alike; leave one out"
                    )

    def replaced_by(self, command: Sequence[Override]) -> Override | None:
        """The override of the command that says which model there is; None if it leaves that to the blocks."""
        return next((o for o in command if o.key == self.key or self.key.startswith(f"{o.key}.")), None)

    def in_block(self, draft: Draft, number: int = 0) -> Draft:
        """``draft`` with the value of a block, if its model has such a field."""
        own = draft.copy()
        own.apply([Override.of(self.key, self.values[number])], where_fitting=True)
        return own

    def configs(self, draft: Draft) -> tuple[RunConfig, ...]:
        """The configuration in each block.

        Raises:
            ConfigError: the model has no such field.
        """
        keys = draft.keys()
        if self.key not in keys:
            raise ConfigError(f"blocks: its model ({draft.plain['model']['name']}) has no field {self.key!r}")
        return tuple(self.in_block(draft, number).config() for number in range(len(self.values)))

    def conflicts(self, configs: Sequence[RunConfig]) -> tuple[str, ...]:
        """Why an arm cannot run, in words that name the block where others could."""
        found = [config.conflicts() for config in configs]
        shared = [reason for reason in found[0] if all(reason in reasons for reasons in found)]
        own = (
            f"{self.key}={spell(value)}: {reason}"
            for value, reasons in zip(self.values, found, strict=True)
            for reason in reasons
            if reason not in shared
        )
        return (*shared, *own)

    def notes(self, seeds: Iterable[int]) -> Iterator[str]:
        """A sentence if ``seeds`` leave out a block."""
        reached = self.seeds_of(seeds)
        if missing := [spell(value) for k, value in enumerate(self.values) if k not in reached]:
            yield f"blocks: no seed starts from {', '.join(missing)}: the verdict does not speak of it"
