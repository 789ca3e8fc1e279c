"""A tiny Janus of transformers' own classes with random weights: images of 32 x 32 pixels in 16 codes of 64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch

PAD, BOS, EOS, BOI, EOI, IMAGE = "<pad>", "<s>", "</s>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>"
SPECIAL = (PAD, BOS, EOS, BOI, EOI, IMAGE, "<|User|>", "<|Assistant|>")
CODES, COUNT, SIDE = 64, 16, 32
#: Of the form that published ones have: messages in parts, and no token that begins a text.
CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|User|>: {% else %}{{ message['role'].capitalize() }}: {% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'text' %}{{ content['text'].strip() }}{% endif %}"
    "{% endfor %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


def words() -> Any:
    """A tokenizer of bytes that, as Janus's, puts the token that begins a text before each."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*SPECIAL, *letters])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "boi_token": BOI, "eoi_token": EOI},
    )


def model(*, tied: bool = False, seed: int = 0) -> Any:
    """``JanusForConditionalGeneration``; with ``tied`` the head of words is their embeddings."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    torch.manual_seed(seed)
    pad, bos, eos = (SPECIAL.index(token) for token in (PAD, BOS, EOS))
    config = JanusConfig(
        text_config={
            "model_type": "llama", "vocab_size": 280, "hidden_size": 32, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos, "tie_word_embeddings": tied,
        },
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 8,
            "projection_dim": 32, "mlp_ratio": 2, "depth": 1, "num_image_tokens": COUNT,
        },
        vq_config={
            "embed_dim": 8, "num_embeddings": CODES, "double_latent": False, "latent_channels": 8, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "projection_dim": 32, "num_hidden_layers": 2,
            "image_token_embed_dim": 32,
        },
        image_token_id=SPECIAL.index(IMAGE),
        tie_word_embeddings=tied,
    )  # fmt: skip
    made = JanusForConditionalGeneration(config).eval()
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=drawn) * 0.25)
            else:
                weight.add_(torch.randn(weight.shape, generator=drawn) * 0.1)
    made.generation_config.pad_token_id, made.generation_config.bos_token_id = pad, bos
    made.generation_config.generation_kwargs = {"boi_token_id": SPECIAL.index(BOI)}
    return made


def saved(folder: Path, **how: Any) -> Path:
    """The same in a folder, with its tokenizer and its chat template."""
    model(**how).save_pretrained(folder)
    tokenizer = words()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder
