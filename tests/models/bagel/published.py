"""Tiny folders in the layout of the published BAGEL-7B-MoT, written from its description and not by the library.

Names and shapes are spelled out here once more; all weights are random, so that none can be left out unnoticed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers

LLM = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    # What the official code overwrites, or does not read.
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
    "bos_token_id": 3,
    "eos_token_id": 4,
}
VIT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
    "model_type": "siglip_vision_model",
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
#: Of the autoencoder: channels of each level, of the latents; and one image token is a square of 2 latent pixels.
LEVELS, LATENTS, PATCH = (32, 64, 96, 96), 4, 2


def write(folder: Path, side: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A folder whose policy makes images of at most ``side`` tokens a side, 16 pixels each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "llm_config.json").write_text(json.dumps(LLM))
    (folder / "vit_config.json").write_text(json.dumps(VIT))
    (folder / "config.json").write_text('{"model_type": "bagel"}')
    weights = {name: tensor.to(dtype) for name, tensor in filled(shapes(), seed).items()}
    weights["latent_pos_embed.pos_embed"] = sines(side, LLM["hidden_size"]).to(dtype)
    weights["vit_pos_embed.pos_embed"] = sines(4, LLM["hidden_size"]).to(dtype)
    save_file(weights, folder / "ema.safetensors")
    save_file(filled(autoencoder_shapes(), seed + 1), folder / "ae.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def filled(named: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Random weights: matrices that keep the scale of what they multiply, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in named.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            found[name] = noise / math.prod(shape[1:]) ** 0.5
        else:
            found[name] = 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return found


def sines(side: int, width: int) -> torch.Tensor:
    """The table of 2-D positions: the column in the first half of the channels, the row in the second."""
    quarter = width // 4
    table = [
        [f(place * 10000 ** (-j / quarter)) for place in (column, row) for f in (math.sin, math.cos)
         for j in range(quarter)]
        for row in range(side) for column in range(side)
    ]  # fmt: skip
    return torch.tensor(table, dtype=torch.float64).float()


def shapes() -> dict[str, tuple[int, ...]]:
    """Of ``ema.safetensors``, but for the two tables of positions."""
    h, i, v, k, d = LLM["hidden_size"], LLM["intermediate_size"], LLM["vocab_size"], 16, 8
    token = PATCH * PATCH * LATENTS
    lm = "language_model.model"
    found: dict[str, tuple[int, ...]] = {
        f"{lm}.embed_tokens.weight": (v, h), "language_model.lm_head.weight": (v, h),
        f"{lm}.norm.weight": (h,), f"{lm}.norm_moe_gen.weight": (h,),
        "time_embedder.mlp.0.weight": (h, 256), "time_embedder.mlp.0.bias": (h,),
        "time_embedder.mlp.2.weight": (h, h), "time_embedder.mlp.2.bias": (h,),
        "vae2llm.weight": (h, token), "vae2llm.bias": (h,), "llm2vae.weight": (token, h), "llm2vae.bias": (token,),
    }  # fmt: skip
    for n in range(LLM["num_hidden_layers"]):
        at = f"{lm}.layers.{n}"
        for e in ("", "_moe_gen"):
            for name, rows in (("q", h), ("k", k), ("v", k)):
                found[f"{at}.self_attn.{name}_proj{e}.weight"] = (rows, h)
                found[f"{at}.self_attn.{name}_proj{e}.bias"] = (rows,)
            found[f"{at}.self_attn.o_proj{e}.weight"] = (h, h)
            found[f"{at}.self_attn.q_norm{e}.weight"] = found[f"{at}.self_attn.k_norm{e}.weight"] = (d,)
            found[f"{at}.mlp{e}.gate_proj.weight"] = found[f"{at}.mlp{e}.up_proj.weight"] = (i, h)
            found[f"{at}.mlp{e}.down_proj.weight"] = (h, i)
            found[f"{at}.input_layernorm{e}.weight"] = found[f"{at}.post_attention_layernorm{e}.weight"] = (h,)
    return found | _vision_dims(h)


def _vision_dims(h: int) -> dict[str, tuple[int, ...]]:
    w, m = VIT["hidden_size"], VIT["intermediate_size"]
    vit = "vit_model.vision_model"
    found: dict[str, tuple[int, ...]] = {
        "connector.fc1.weight": (h, w), "connector.fc1.bias": (h,),
        "connector.fc2.weight": (h, h), "connector.fc2.bias": (h,),
        f"{vit}.embeddings.patch_embedding.weight": (w, 14 * 14 * 3), f"{vit}.embeddings.patch_embedding.bias": (w,),
        f"{vit}.embeddings.position_embedding.weight": (16, w),
        f"{vit}.post_layernorm.weight": (w,), f"{vit}.post_layernorm.bias": (w,),
    }  # fmt: skip
    for n in range(VIT["num_hidden_layers"] - 1):
        at = f"{vit}.encoder.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found[f"{at}.self_attn.{name}.weight"], found[f"{at}.self_attn.{name}.bias"] = (w, w), (w,)
        for name in ("layer_norm1", "layer_norm2"):
            found[f"{at}.{name}.weight"] = found[f"{at}.{name}.bias"] = (w,)
        found[f"{at}.mlp.fc1.weight"], found[f"{at}.mlp.fc1.bias"] = (m, w), (m,)
        found[f"{at}.mlp.fc2.weight"], found[f"{at}.mlp.fc2.bias"] = (w, m), (w,)
    return found


def autoencoder_shapes() -> dict[str, tuple[int, ...]]:
    """Of ``ae.safetensors``: FLUX's names; a shortcut where the number of channels changes."""
    found: dict[str, tuple[int, ...]] = {}

    def put(name: str, *shape: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, before: int, after: int) -> None:
        put(f"{name}.norm1", before)
        put(f"{name}.conv1", after, before, 3, 3)
        put(f"{name}.norm2", after)
        put(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            put(f"{name}.nin_shortcut", after, before, 1, 1)

    a, b, c, d = LEVELS
    for half in ("encoder", "decoder"):
        for name in ("q", "k", "v", "proj_out"):
            put(f"{half}.mid.attn_1.{name}", d, d, 1, 1)
        put(f"{half}.mid.attn_1.norm", d)
        block(f"{half}.mid.block_1", d, d)
        block(f"{half}.mid.block_2", d, d)
    put("encoder.conv_in", a, 3, 3, 3)
    put("encoder.norm_out", d)
    put("encoder.conv_out", 2 * LATENTS, d, 3, 3)
    put("decoder.conv_in", d, LATENTS, 3, 3)
    put("decoder.norm_out", a)
    put("decoder.conv_out", 3, a, 3, 3)
    for level, (before, after) in enumerate(((a, a), (a, b), (b, c), (c, d))):
        block(f"encoder.down.{level}.block.0", before, after)
        block(f"encoder.down.{level}.block.1", after, after)
        if level < 3:
            put(f"encoder.down.{level}.downsample.conv", after, after, 3, 3)
    for level, (before, after) in enumerate(((b, a), (c, b), (d, c), (d, d))):
        block(f"decoder.up.{level}.block.0", before, after)
        block(f"decoder.up.{level}.block.1", after, after)
        block(f"decoder.up.{level}.block.2", after, after)
        if level > 0:
            put(f"decoder.up.{level}.upsample.conv", after, after, 3, 3)
    return found


def tokenizer() -> tokenizers.Tokenizer:
    """Qwen2's kind: pairs of bytes, with special tokens after all others; here with a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d"), ("Ġ", "a"), ("k", "i")]
    words = [*letters, *("".join(pair) for pair in merges)]
    inner = tokenizers.Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    return inner
