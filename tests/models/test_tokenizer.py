"""Texts to token blocks and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import tiny
from unigrpo.models.tokenizer import SPECIAL, Tokenizer

WORDS = ["red", "green", "circle", "left", "of", "."]
SMALL = Tokenizer.of_words(WORDS)
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=4)


@given(TEXTS)
def test_decoding_undoes_encoding(texts):
    tokens, mask = SMALL.encode(texts)
    assert SMALL.decode(tokens, mask) == texts
    assert tokens.dtype == torch.int64
    assert mask.sum(1).tolist() == [len(text.split()) + 1 for text in texts]
    assert (tokens[~mask] == SMALL.pad).all()
    last = mask.sum(1, keepdim=True) - 1
    assert (tokens.gather(1, last) == SMALL.eos).all()


def test_every_prompt_of_the_world_has_its_words():
    from unigrpo.worlds import Shapes

    texts = [prompt.prompt for split in ("train", "test") for prompt in Shapes().prompts(split)][::97]
    assert tiny.words().decode(*tiny.words().encode(texts)) == texts


def test_unknown_word_is_named_with_a_near_one():
    with pytest.raises(ValueError, match=r"no word 'gren' \(in 'red gren circle'\); did you mean 'green'\?"):
        SMALL.encode(["red circle", "red gren circle"])


def test_unknown_word_that_is_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match=r"no word 'xyzzy' .*choose one of: \., circle, green, left, of, red$"):
        SMALL.encode(["xyzzy"])


def test_special_tokens_come_first_and_are_told_apart():
    ids = [SMALL.pad, SMALL.bos, SMALL.eos, SMALL.start_of_image, SMALL.end_of_image, SMALL.unknown]
    assert ids == list(range(len(SPECIAL)))
    assert len(SMALL) == len(SPECIAL) + len(WORDS)


def test_what_a_policy_says_out_of_place_is_shown():
    tokens = torch.tensor([[SMALL.bos, SMALL.inner.token_to_id("red"), SMALL.start_of_image, SMALL.eos]])
    assert SMALL.decode(tokens, torch.ones_like(tokens, dtype=torch.bool)) == ["<bos> red <image>"]


def test_new_words_come_after_the_old_ones():
    larger = SMALL.with_words(["blue", "cross"])
    assert larger.words() == SMALL.words() | {"blue": len(SMALL), "cross": len(SMALL) + 1}
    assert len(SMALL) == len(SPECIAL) + len(WORDS)
    assert larger.decode(*larger.encode(["red cross"])) == ["red cross"]


def test_saved_and_loaded(tmp_path):
    SMALL.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.inner.get_vocab() == SMALL.inner.get_vocab()
    assert torch.equal(loaded.encode(["red ."])[0], SMALL.encode(["red ."])[0])
    assert (loaded.eos, loaded.pad) == (SMALL.eos, SMALL.pad)
