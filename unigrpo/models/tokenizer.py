"""Texts to token blocks and back, by any ``tokenizer.json`` of the tokenizers library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from unigrpo.registry import nearest

PAD, BOS, EOS, IMAGE, END_IMAGE, UNKNOWN = SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "</image>", "<unk>")


class Tokenizer:
    """A fast tokenizer and the ids that frame a text block."""

    def __init__(self, inner: tokenizers.Tokenizer):
        self.inner = inner
        ids = {token: inner.token_to_id(token) for token in SPECIAL}
        if missing := [token for token, i in ids.items() if i is None]:
            raise ValueError(f"the tokenizer has no token {', '.join(missing)}")
        self.pad, self.bos, self.eos, self.start_of_image, self.end_of_image, self.unknown = (
            int(i) for i in ids.values() if i is not None
        )

    @classmethod
    def of_words(cls, words: Iterable[str]) -> Tokenizer:
        """One token per word."""
        return cls(_word_level((*SPECIAL, *words)))

    def with_words(self, words: Iterable[str]) -> Tokenizer:
        """The same words with the same ids, and new ones after them, one token each."""
        known = self.words()
        return Tokenizer(_word_level((*sorted(known, key=lambda word: known[word]), *words)))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json``."""
        return cls(tokenizers.Tokenizer.from_file(str(path)))

    def save(self, path: str | Path) -> None:
        """Write a ``tokenizer.json``."""
        self.inner.save(str(path))

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size())

    def words(self) -> dict[str, int]:
        """Token -> id."""
        return dict(self.inner.get_vocab())

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> tokens [B, L] int64 ending in eos, right-padded, and their mask.

        Raises:
            ValueError: a word is not in the vocabulary.
        """
        rows = []
        for text, encoding in zip(texts, self.inner.encode_batch(list(texts), add_special_tokens=False), strict=True):
            if self.unknown in encoding.ids:
                word = text[slice(*encoding.offsets[encoding.ids.index(self.unknown)])]
                known = set(self.inner.get_vocab()) - set(SPECIAL)
                raise ValueError(f"the model has no word {word!r} (in {text!r}){nearest(word, known)}")
            rows.append(torch.tensor([*encoding.ids, self.eos]))
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in rows])
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]

    def decode(self, tokens: Tensor, mask: Tensor) -> list[str]:
        """Token blocks [B, L] -> texts, without the end-of-text token."""
        return [
            self.inner.decode(
                [t for t, said in zip(row, kept, strict=True) if said and t != self.eos], skip_special_tokens=False
            )
            for row, kept in zip(tokens.tolist(), mask.tolist(), strict=True)
        ]


def _word_level(words: Iterable[str]) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return inner
