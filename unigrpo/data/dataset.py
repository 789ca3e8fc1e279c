"""What every dataset offers, and what those in files share."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args

from unigrpo.data.prompt import ImageBlock, Prompt
from unigrpo.errors import ConfigError
from unigrpo.io import home_expanded
from unigrpo.registry import Strategy

if TYPE_CHECKING:
    from unigrpo.config import RunConfig

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: Tag -> its prompts; the first n of a tag are a fair sample of them.
Prompts = Mapping[str, Sequence[Prompt]]


class Dataset(Strategy, Protocol):
    """A strategy of slot ``dataset``."""

    @property
    def offers(self) -> frozenset[str]:
        """What every one of its prompts has besides a text, as :attr:`~unigrpo.data.prompt.Prompt.offers`."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that fit it, by name: those of a run that names none."""
        ...

    @property
    def turns(self) -> int:
        """The fewest turns of a prompt; 0 where they have none."""
        ...

    def prompts(self, split: Split) -> Prompts:
        """The prompts of a split, the same whenever it is asked; no meaning is in two splits.

        Raises:
            ConfigError: it has no such split, or cannot be read.
        """
        ...

    def digest(self) -> str:
        """Names the content of all splits; cheap, as it is asked while planning.

        Raises:
            ConfigError: it cannot be read.
        """
        ...

    def words(self) -> Sequence[str]:
        """Every word of its prompts and of the texts that answer them; empty if they may be any."""
        ...


@dataclass(frozen=True)
class InFiles:
    """The base of datasets that are read from a folder with a file for each split, or from one file.

    One file is split by meaning: a tenth of the meanings, at least one, is for the test, as much for validation, and
    which ones hangs on each meaning's own digest.
    """

    #: Names of a split's file in a folder, ``{}`` being the split.
    FILES: ClassVar[tuple[str, ...]]

    path: str
    """A folder, or a file."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The reward on prompts that are held out, and what can be measured of any image and text."""
        return ("reward", "lengths", "diversity")

    @property
    def offers(self) -> frozenset[str]:
        """What all prompts of all splits have."""
        whole = self._read()
        return frozenset.intersection(*(prompt.offers for found in whole.values() for prompt in found))

    @property
    def turns(self) -> int:
        """The fewest turns of a prompt; 0 where they have none."""
        return min(len(prompt.turns) for found in self._read().values() for prompt in found)

    def prompts(self, split: Split) -> Prompts:
        """The prompts of a split, those of a tag in the order of their digests."""
        whole = self._read()
        if split not in whole:
            names = " or ".join(self.names(split))
            raise ConfigError(f"dataset.path={self.path}: expected {names} for the split {split}, which is not there")
        found: dict[str, list[Prompt]] = {}
        for prompt in sorted(whole[split], key=lambda prompt: _digest(prompt.key)):
            found.setdefault(prompt.tag, []).append(prompt)
        return dict(sorted(found.items()))

    def digest(self) -> str:
        """Of the texts, their images and all else that is known of them."""
        sha = hashlib.sha256()
        for split, found in self._read().items():
            for prompt in found:
                images = [image.digest() for image in prompt.images]
                known = (split, prompt.key, prompt.texts, images, sorted(prompt.meta.items()))
                sha.update(repr(known).encode())
                # What they say of answers is in the key.
                answered = [block.image.digest() for block in prompt.answer if isinstance(block, ImageBlock)]
                sha.update("".join(answered).encode())
        return sha.hexdigest()

    def words(self) -> Sequence[str]:
        """None: they may be any."""
        return ()

    def read(self, file: Path) -> list[Prompt]:
        """The prompts of one file, line by line.

        Raises:
            ConfigError: a line that cannot be read.
        """
        raise NotImplementedError

    def names(self, split: Split) -> list[str]:
        """What the file of ``split`` may be called."""
        return [name.format(split) for name in self.FILES]

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say what cannot be read."""
        try:
            self.prompts(config.evaluation.split)
            train = self.prompts("train")
        except ConfigError as error:
            yield str(error)
            return
        trained: object = config.dataset
        if config.optim.updates and trained is self:
            yield from too_few(train, config.rollout.prompts, f"dataset.path={self.path}")

    def _read(self) -> dict[Split, tuple[Prompt, ...]]:
        path = Path(home_expanded("dataset.path", self.path))
        files = {split: [path / name for name in self.names(split)] for split in SPLITS} if path.is_dir() else {}
        there = [file for found in ([path], *files.values()) for file in found if file.is_file()]
        if not there:
            names = ", ".join(self.names("train") + self.names("test"))
            raise ConfigError(f"dataset.path={self.path}: expected a file, or a folder with {names}")
        # What is read is kept as long as the files stay what they are.
        return _read(self, tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in there))


@cache
def _read(dataset: InFiles, files: tuple[tuple[Path, int, int], ...]) -> dict[Split, tuple[Prompt, ...]]:
    """Split -> its prompts, a line that comes twice once."""
    read = {file: tuple({prompt.key: prompt for prompt in dataset.read(file)}.values()) for file, *_ in files}
    for file, found in read.items():
        if not found:
            raise ConfigError(f"{file}: expected prompts, found none")
    first = files[0][0]
    if first == Path(home_expanded("dataset.path", dataset.path)):
        return _split(first, read[first])
    splits = {split: found for split in SPLITS for file, found in read.items() if file.name in dataset.names(split)}
    for one, other in itertools.combinations(splits, 2):
        _check_disjoint(dataset.path, one, splits[one], other, splits[other])
    return splits


def _split(file: Path, prompts: Sequence[Prompt]) -> dict[Split, tuple[Prompt, ...]]:
    meanings = sorted({prompt.meaning for prompt in prompts}, key=_digest)
    part = max(1, len(meanings) // 10)
    if len(meanings) < 3:
        raise ConfigError(
            f"{file}: expected at least 3 different prompts, one for each of train, validation and test, got"
            f" {len(meanings)}; or give a folder with a file for each"
        )
    held: dict[str, Split] = {}
    held |= dict.fromkeys(meanings[:part], "test")
    held |= dict.fromkeys(meanings[part : 2 * part], "validation")
    return {split: tuple(p for p in prompts if held.get(p.meaning, "train") == split) for split in SPLITS}


def _check_disjoint(path: str, one: str, some: Sequence[Prompt], other: str, others: Sequence[Prompt]) -> None:
    shared = {prompt.meaning for prompt in some} & {prompt.meaning for prompt in others}
    if shared:
        example = next(prompt.text for prompt in some if prompt.meaning in shared)
        raise ConfigError(
            f"dataset.path={path}: {len(shared)} prompts of {one} are in {other} too, such as {example!r:.80}; what is"
            " trained on cannot be held out: take them out of one of the two"
        )


def meaning_of(text: str) -> str:
    """What texts share that differ in capitals, spaces or the way that Unicode spells them."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def too_few(prompts: Prompts, wanted: int, source: str) -> Iterator[str]:
    """Say why ``prompts`` do not make a rollout of ``wanted``, which takes as many of every tag, each at most once."""
    rarest = min(prompts, key=lambda tag: len(prompts[tag]))
    fewest, tags = len(prompts[rarest]), len(prompts)
    if wanted > tags * fewest:
        bound = f"{tags} tags of {fewest} or more, {rarest!r} having the fewest" if tags > 1 else "each once"
        way_out = ", add prompts of that tag, or give fewer tags" if tags > 1 else ", or add prompts"
        yield (
            f"rollout.prompts={wanted}: expected at most {tags * fewest}, as many as {source} has to train on"
            f" ({bound}): an update takes equally many prompts of every tag; lower rollout.prompts{way_out}"
        )


def select(prompts: Prompts, per_tag: int) -> list[Prompt]:
    """The first ``per_tag`` prompts of every tag, or all there are."""
    return [prompt for found in prompts.values() for prompt in found[:per_tag]]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
