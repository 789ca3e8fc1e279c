"""A small Stable Diffusion 3 and a language model before it, of the libraries' own classes, with random weights.

The text encoders stay as they are made here: one reads a word and its place without any mixing, by codes that are
orthogonal over both encoders, so that the transformer's first linear layer has an embedding of each at its disposal,
and its joint attention does the reading.  Training them would buy nothing that this layer cannot learn.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from unigrpo.models.libraries import Foreign
from unigrpo.models.pipelines import LANGUAGE
from unigrpo.models.tokenizer import BOS, EOS, PAD, UNKNOWN, Tokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
#: Latent pixels, a side, of an image of 32 pixels.
_SIDE = 4


@dataclass(frozen=True)
class Sizes:
    """Of what is made."""

    latent_channels: int = 8
    autoencoder_widths: tuple[int, ...] = (16, 32, 48, 48)
    """Channels of the autoencoder, from 32 pixels down; each but the last halves the sides."""
    encoder_width: int = 64
    """Of each of the two text encoders; both together have at least as much as there are words and places."""
    text_length: int = 24
    """Tokens that they read."""
    transformer_layers: int = 4
    transformer_heads: int = 4
    transformer_head_width: int = 18
    language_width: int = 96
    language_layers: int = 4
    language_heads: int = 4


def write(folder: Path, sizes: Sizes, words: Sequence[str], seed: int) -> None:
    """Write a ``StableDiffusion3Pipeline`` without a T5 into ``folder``, and a language model into a folder there.

    Args:
        folder: is made.
        sizes: of all parts.
        words: that texts are of; the language model has one token for each, and so have the encoders.
        seed: of the weights.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    torch.manual_seed(seed)
    tokenizer = _clip_tokenizer(words, sizes.text_length)
    encoders = [_encoder(tokenizer, sizes) for _ in range(2)]
    _set_codes(encoders, tokenizer.convert_tokens_to_ids([*(f"{word}</w>" for word in words), _START, _END]))
    StableDiffusion3Pipeline(
        transformer=_transformer(sizes),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_autoencoder(sizes),
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    language, its_tokenizer = _language_model(sizes, words)
    language.save_pretrained(folder / LANGUAGE)
    its_tokenizer.save_pretrained(folder / LANGUAGE)


def _clip_tokenizer(words: Sequence[str], length: int) -> Foreign:
    """Byte pairs merged until each of ``words`` is one token; other words are spelt."""
    from transformers import CLIPTokenizer

    merges = _merges(words)
    letters = sorted(set(string.ascii_lowercase).union(*words))
    known = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), _START, _END]
    ids = {token: i for i, token in enumerate(dict.fromkeys(known))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=length)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that are merged, the most frequent first; the library's own trainer breaks ties at random."""
    spelt = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for parts in spelt for pair in pairwise(parts)):
        merges.append(max(sorted(pairs), key=lambda pair: pairs[pair]))
        spelt = [_merged(parts, merges[-1]) for parts in spelt]
    return merges


def _merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return found


def _encoder(tokenizer: Foreign, sizes: Sizes) -> Foreign:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    width = sizes.encoder_width
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        # Stable Diffusion 3 takes the states before the last layer: here what a word and its place have as codes.
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=sizes.text_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


@torch.no_grad()
def _set_codes(encoders: Sequence[Foreign], words: Sequence[int]) -> None:
    """Words and places get codes that are orthogonal over both encoders; other tokens get random ones.

    Raises:
        ValueError: there are more words and places than both encoders are wide.
    """
    embeddings = [encoder.text_model.embeddings for encoder in encoders]
    width, places = embeddings[0].token_embedding.embedding_dim, embeddings[0].position_embedding.num_embeddings
    needed, room = len(words) + places, width * len(encoders)
    if needed > room:
        raise ValueError(f"encoder_width: expected {needed} or more in {len(encoders)} encoders, got {room}")
    codes = nn.init.orthogonal_(torch.empty(room, room)) * room**0.5
    for part, embedding in zip(codes.split(width, 1), embeddings, strict=True):
        nn.init.normal_(embedding.token_embedding.weight)
        embedding.token_embedding.weight[list(words)] = part[: len(words)]
        embedding.position_embedding.weight.copy_(part[len(words) : needed])


def _transformer(sizes: Sizes) -> Foreign:
    from diffusers import SD3Transformer2DModel

    joint = 2 * sizes.encoder_width
    transformer = SD3Transformer2DModel(
        sample_size=_SIDE,
        patch_size=1,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        num_layers=sizes.transformer_layers,
        attention_head_dim=sizes.transformer_head_width,
        num_attention_heads=sizes.transformer_heads,
        caption_projection_dim=sizes.transformer_heads * sizes.transformer_head_width,
        joint_attention_dim=joint,
        pooled_projection_dim=joint,
        pos_embed_max_size=_SIDE,
        qk_norm="rms_norm",
    )
    # As diffusion transformers begin: each block passes on what it gets, and the velocity is 0.
    gates = [transformer.norm_out.linear, transformer.proj_out]
    gates += [norm.linear for block in transformer.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    for layer in gates:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer


def _autoencoder(sizes: Sizes) -> Foreign:
    from diffusers import AutoencoderKL

    levels = len(sizes.autoencoder_widths)
    return AutoencoderKL(
        sample_size=_SIDE * 2 ** (levels - 1),
        block_out_channels=sizes.autoencoder_widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def _language_model(sizes: Sizes, words: Sequence[str]) -> tuple[Foreign, Foreign]:
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    inner = Tokenizer.of_words(words)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner.inner, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN
    )
    width, heads = sizes.language_width, sizes.language_heads
    config = Qwen3Config(
        vocab_size=len(inner),
        hidden_size=width,
        intermediate_size=8 * width // 3 // 8 * 8,
        num_hidden_layers=sizes.language_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=256,
        bos_token_id=inner.bos,
        eos_token_id=inner.eos,
        pad_token_id=inner.pad,
    )
    return Qwen3ForCausalLM(config), tokenizer
