"""Which dense layers of a policy get small matrices beside them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from unigrpo.errors import ConfigError
from unigrpo.models.policy import Modality, Policy

#: Names that a message lists at most.
_MOST = 12


def choose(policy: nn.Module, text: Sequence[str], image: Sequence[str]) -> dict[Modality, list[str]]:
    """Names of the chosen layers by modality, in the policy's order.

    A layer belongs to the modality whose ``parameters_of`` has its weight.  One whose weight another module has too,
    such as a head that is its embedding, is no choice: what is added to one of them would not be in the other.

    Args:
        policy: as it was loaded.
        text: patterns for the layers of texts; all of them if empty.
        image: the same of images.

    Raises:
        ConfigError: a pattern that matches none.
    """
    patterns: dict[Modality, Sequence[str]] = {"text": text, "image": image}
    there = {modality: _dense(policy, modality) for modality in patterns}
    for modality, wanted in patterns.items():
        for pattern in wanted:
            if not _matching(there[modality], pattern):
                raise ConfigError(
                    f"adapter.{modality}_targets: {pattern!r} matches no dense layer of {modality}s that is trained"
                    f"{_hint(policy, pattern, modality, there)}"
                )
    return {
        modality: [name for name in there[modality] if not wanted or any(matches(name, p) for p in wanted)]
        for modality, wanted in patterns.items()
    }


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name ends in the parts of a pattern, each of which may have ``*``, ``?`` and ``[...]``."""
    wanted = pattern.split(".")
    found = name.split(".")[-len(wanted) :]
    return len(found) == len(wanted) and all(map(fnmatchcase, found, wanted))


def _matching(names: Collection[str], pattern: str) -> list[str]:
    return [name for name in names if matches(name, pattern)]


def _dense(policy: nn.Module, modality: Modality) -> list[str]:
    """Dense layers of one modality whose weight is theirs alone."""
    owned = {id(parameter) for parameter in cast("Policy", policy).parameters_of(modality)}
    held = Counter(id(weight) for part in policy.modules() for weight in part.parameters(recurse=False))
    return [name for name, part in _linears(policy).items() if id(part.weight) in owned and held[id(part.weight)] == 1]


def _linears(policy: nn.Module) -> dict[str, nn.Linear]:
    """All dense layers that are called: torch's attention reads the weights of its own and never calls it."""
    found = {name: part for name, part in policy.named_modules() if isinstance(part, nn.Linear)}
    return {name: part for name, part in found.items() if not isinstance(part, NonDynamicallyQuantizableLinear)}


def _hint(policy: nn.Module, pattern: str, modality: Modality, there: Mapping[Modality, Sequence[str]]) -> str:
    """Where else it is, or what is nearest."""
    other: Modality = "image" if modality == "text" else "text"
    if found := _matching(there[other], pattern):
        return f"; {found[0]} is one of {other}s, for adapter.{other}_targets"
    if found := _matching(_linears(policy), pattern):
        return f"; the weight of {found[0]} is frozen, or another module has it too"
    parts = pattern.count(".") + 1
    ends = dict.fromkeys(".".join(name.split(".")[-parts:]) for name in there[modality])
    close = difflib.get_close_matches(pattern, ends, n=3)
    listed = [*(close or dict.fromkeys(name.rpartition(".")[2] for name in there[modality]))]
    return f"; {'nearest are' if close else 'there are'} {', '.join(listed[:_MOST]) or 'none'}"
