"""Texts to token blocks and back, by any tokenizer of Hugging Face's ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject
from unigrpo.models.libraries import Foreign
from unigrpo.registry import nearest

PAD, BOS, EOS, IMAGE, END_IMAGE, UNKNOWN = SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "</image>", "<unk>")
#: Role of a special token -> what it is called unless a tokenizer says otherwise, and its key in Hugging Face's files.
ROLES: dict[str, tuple[str, str]] = {
    "pad": (PAD, "pad_token"),
    "bos": (BOS, "bos_token"),
    "eos": (EOS, "eos_token"),
    "start_of_image": (IMAGE, "start_of_image_token"),
    "end_of_image": (END_IMAGE, "end_of_image_token"),
    "unknown": (UNKNOWN, "unk_token"),
}
_FILE, _MAP = "tokenizer.json", "special_tokens_map.json"


class Tokenizer:
    """A fast tokenizer and the ids that frame a text block.

    Args:
        inner: of the tokenizers library.
        roles: role -> special token, where that is not the usual one; roles are those of :data:`ROLES`, of which
            ``unknown`` may be missing.

    Raises:
        ValueError: a special token is not in the vocabulary.
    """

    def __init__(self, inner: tokenizers.Tokenizer, roles: Mapping[str, str] | None = None):
        self.inner = inner
        if strange := sorted((roles or {}).keys() - ROLES.keys()):
            raise ValueError(f"unknown role {strange[0]!r} of a special token{nearest(strange[0], ROLES)}")
        self.roles = {role: usual for role, (usual, _) in ROLES.items()} | dict(roles or {})
        ids = {role: inner.token_to_id(token) for role, token in self.roles.items()}
        if missing := [self.roles[role] for role, i in ids.items() if i is None and role != "unknown"]:
            raise ValueError(f"the tokenizer has no token {', '.join(missing)}")
        found = {role: int(i) for role, i in ids.items() if i is not None}
        self.pad, self.bos, self.eos = found["pad"], found["bos"], found["eos"]
        self.start_of_image, self.end_of_image = found["start_of_image"], found["end_of_image"]
        self.unknown = found.get("unknown")

    @classmethod
    def of_words(cls, words: Iterable[str]) -> Tokenizer:
        """One token per word."""
        return cls(_word_level((*SPECIAL, *words)))

    def with_words(self, words: Iterable[str]) -> Tokenizer:
        """The same words with the same ids, and new ones after them, one token each.

        Raises:
            ConfigError: this tokenizer has no token per word.
        """
        if not isinstance(self.inner.model, tokenizers.models.WordLevel):
            raise ConfigError("model.new_words=true: expected a tokenizer with one token per word; leave it out")
        known = self.words()
        return Tokenizer(_word_level((*sorted(known, key=lambda word: known[word]), *words)))

    @classmethod
    def load(cls, path: str | Path, roles: Mapping[str, str] | None = None) -> Tokenizer:
        """Read a ``tokenizer.json``, or the folder of a Hugging Face tokenizer.

        Special tokens are those of ``roles``, then those that ``special_tokens_map.json`` or ``tokenizer_config.json``
        beside the tokenizer name, then the usual ones.

        Raises:
            ConfigError: there is none, it cannot be read, or a special token is not in its vocabulary.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        file = path / _FILE if path.is_dir() else path
        named: dict[str, str] = {}
        for settings in (_read(folder / "tokenizer_config.json"), _read(folder / _MAP)):
            named |= {role: _token(settings[key]) for role, (_, key) in ROLES.items() if settings.get(key)}
        if not file.is_file() and not path.is_dir():
            raise ConfigError(f"{path}: no such tokenizer; expected a {_FILE} or a folder of Hugging Face's")
        source = file if file.is_file() else path
        try:
            inner = _of_file(file) if file.is_file() else _of_folder(path)
        except MemoryError:
            raise
        except Exception as error:  # both libraries raise errors of no type
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"{source}: expected a tokenizer, but it cannot be read ({reason})") from error
        try:
            return cls(inner, named | dict(roles or {}))
        except ValueError as error:
            raise ConfigError(f"{source}: {error}; name its own by roles=") from error

    @classmethod
    def of_transformers(cls, words: Foreign, roles: Mapping[str, str]) -> Tokenizer:
        """A fast tokenizer of transformers; a copy, as others may switch padding and truncation on in theirs.

        Raises:
            ValueError: a special token is not in the vocabulary.
        """
        inner = tokenizers.Tokenizer.from_str(words.backend_tokenizer.to_str())
        inner.no_padding()
        inner.no_truncation()
        return cls(inner, roles)

    def save(self, path: str | Path) -> None:
        """Write a ``tokenizer.json``, and beside it the special tokens that are not the usual ones."""
        self.inner.save(str(path))
        unusual = {ROLES[role][1]: token for role, token in self.roles.items() if token != ROLES[role][0]}
        if unusual:
            Path(path).with_name(_MAP).write_text(json.dumps(unusual, indent=2, sort_keys=True) + "\n")

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size())

    def words(self) -> dict[str, int]:
        """Token -> id."""
        return dict(self.inner.get_vocab())

    def check_ids(self, expected: Mapping[str, int], vocab_size: int) -> None:
        """Check the special tokens against those of a model.

        Args:
            expected: role -> id.
            vocab_size: tokens that the model has, which may be more.

        Raises:
            ValueError: they differ.
        """
        for role, i in expected.items():
            own = getattr(self, role)
            if own != i:
                raise ValueError(f"the model's {role} is token {i}, the tokenizer's {self.roles[role]!r} is {own}")
        if len(self) > vocab_size:
            raise ValueError(f"the tokenizer has {len(self)} tokens, the model {vocab_size}")

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> tokens [B, L] int64 ending in eos, right-padded, and their mask.

        Raises:
            ValueError: a word is not in the vocabulary, and there is no way to spell it.
        """
        return self.padded([[*ids, self.eos] for ids in self.ids_of(texts)])

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, without any that frame them."""
        rows: list[list[int]] = []
        for text, encoding in zip(texts, self.inner.encode_batch(list(texts), add_special_tokens=False), strict=True):
            if self.unknown is not None and self.unknown in encoding.ids:
                word = text[slice(*encoding.offsets[encoding.ids.index(self.unknown)])]
                known = set(self.inner.get_vocab()) - set(self.roles.values())
                raise ValueError(f"the model has no word {word!r} (in {text!r}){nearest(word, known)}")
            rows.append(list(encoding.ids))
        return rows

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ragged rows -> tokens [B, L] int64, right-padded, and their mask."""
        tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
        tokens = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in rows])
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]

    def decode(self, tokens: Tensor, mask: Tensor) -> list[str]:
        """Token blocks [B, L] -> texts, without eos and the tokens that the tokenizer has marked as special."""
        return [
            self.inner.decode(
                [t for t, said in zip(row, kept, strict=True) if said and t != self.eos], skip_special_tokens=True
            )
            for row, kept in zip(tokens.tolist(), mask.tolist(), strict=True)
        ]


def words_in(folder: Path, named: str) -> Foreign:
    """The tokenizer of transformers in a folder.

    Args:
        folder: in Hugging Face's layout.
        named: what messages call it.

    Raises:
        ConfigError: there is none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{named}: {folder} has no tokenizer that can be read ({reason})") from error


def _of_file(path: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(path))


def _of_folder(path: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path).backend_tokenizer


def _read(path: Path) -> JsonObject:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _token(value: object) -> str:
    """A special token as Hugging Face writes it: a word, or a mapping that has it as its content."""
    return str(value["content"] if isinstance(value, dict) else value)


def _word_level(words: Iterable[str]) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return inner
