"""Texts to token blocks and back."""

from __future__ import annotations

import json

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import tiny
from unigrpo.errors import ConfigError
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
    from unigrpo.data.dataset import SPLITS
    from unigrpo.worlds.shapes.prompts import all_prompts

    texts = [prompt.prompt for split in SPLITS for prompt in all_prompts(split)][::97]
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


def bytes_level(*special: str) -> tokenizers.Tokenizer:
    """Byte-level BPE, as most language models have: any text can be spelled."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["a red circle, a blue square"] * 3, trainer)
    return inner


QWEN = {
    "pad": "<|endoftext|>",
    "bos": "<|im_start|>",
    "eos": "<|im_end|>",
    "start_of_image": "<|vision_start|>",
    "end_of_image": "<|vision_end|>",
}


class TestOthers:
    """Tokenizers of language models: no unknown words, special tokens by role."""

    def test_special_tokens_go_by_role_and_none_is_unknown(self):
        tokenizer = Tokenizer(bytes_level(*QWEN.values()), QWEN)
        assert tokenizer.unknown is None
        texts = ["a red circle", "Étoile 星, \n xyzzy"]
        assert tokenizer.decode(*tokenizer.encode(texts)) == texts
        assert tokenizer.eos == tokenizer.inner.token_to_id("<|im_end|>")

    def test_a_folder_says_what_its_special_tokens_are(self, tmp_path):
        inner = bytes_level(*QWEN.values())
        inner.save(str(tmp_path / "tokenizer.json"))
        named = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>", "unk_token": None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
        rest = {role: QWEN[role] for role in ("bos", "start_of_image", "end_of_image")}
        loaded = Tokenizer.load(tmp_path, rest)
        assert (loaded.roles | {"unknown": ""}) == QWEN | {"unknown": ""}
        with pytest.raises(
            ValueError, match=r"tokenizer\.json: the tokenizer has no token <bos>, <image>, </image>; name its own"
        ):
            Tokenizer.load(tmp_path)

    def test_saved_and_loaded_with_its_roles(self, tmp_path):
        Tokenizer(bytes_level(*QWEN.values()), QWEN).save(tmp_path / "tokenizer.json")
        for path in (tmp_path, tmp_path / "tokenizer.json"):
            loaded = Tokenizer.load(path)
            assert loaded.decode(*loaded.encode(["a circle"])) == ["a circle"]
            assert {role: loaded.roles[role] for role in QWEN} == QWEN

    def test_what_a_tokenizer_knows_as_special_is_no_text(self):
        """Rewards and metrics read words: no begin, no padding, no marker of a chat template."""
        inner = bytes_level(*QWEN.values())
        inner.add_special_tokens(["<|tool|>"])
        inner.add_tokens(["<think>"])
        tokenizer = Tokenizer(inner, QWEN)
        said = [tokenizer.bos, *inner.encode("a circle<think>").ids, inner.token_to_id("<|tool|>"), tokenizer.pad]
        tokens = torch.tensor([said])
        assert tokenizer.decode(tokens, torch.ones_like(tokens, dtype=torch.bool)) == ["a circle<think>"]

    def test_a_file_that_is_missing_or_no_tokenizer_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"mine\.json: no such tokenizer; expected a tokenizer\.json or a folder"):
            Tokenizer.load(tmp_path / "mine.json")
        (tmp_path / "tokenizer.json").write_text("{}")
        for path in (tmp_path, tmp_path / "tokenizer.json"):
            with pytest.raises(ConfigError, match=r"tokenizer\.json: expected a tokenizer, .* cannot be read"):
                Tokenizer.load(path)

    def test_a_folder_without_a_tokenizer_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=rf"{tmp_path}: expected a tokenizer, .* cannot be read"):
            Tokenizer.load(tmp_path)

    def test_ids_are_checked_against_the_models(self):
        SMALL.check_ids({"bos": 1, "eos": 2}, 20)
        with pytest.raises(ValueError, match="the model's eos is token 7, the tokenizer's '<eos>' is 2"):
            SMALL.check_ids({"bos": 1, "eos": 7}, 20)
        with pytest.raises(ValueError, match="the tokenizer has 12 tokens, the model 11"):
            SMALL.check_ids({}, 11)

    def test_an_unknown_role_is_named(self):
        with pytest.raises(ValueError, match="unknown role 'begin'"):
            Tokenizer(SMALL.inner, {"begin": "<bos>"})

    def test_only_one_token_per_word_takes_new_words(self):
        with pytest.raises(ConfigError, match="expected a tokenizer with one token per word"):
            Tokenizer(bytes_level(*QWEN.values()), QWEN).with_words(["blue"])
