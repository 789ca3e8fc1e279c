"""Folders of published models in their published sizes, without weights: what `unigrpo estimate` reads of them.

The sizes are those of the models' public configurations.  Tokenizers are the tiny ones of the tests: how a text is
spelled decides no memory but that of its few tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from tests.models.bagel import published
from tests.models.pipelines import tiny
from unigrpo.models.bagel.layout import AutoencoderConfig, VisionConfig, autoencoder_names, policy_dims, vision_dims
from unigrpo.models.mot.configuration import BAGEL_7B_MOT, MoTConfig

CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
    "projection_dim": 768, "vocab_size": 49408,
}  # fmt: skip
CLIP_G = CLIP_L | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
T5_XXL = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
#: Of SD3 and FLUX.1, which differ in scale and shift.
VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "sample_size": 1024, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
SD3_5_MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}  # fmt: skip
FLUX_1 = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
QWEN_IMAGE = {
    "patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 3584, "axes_dims_rope": [16, 56, 56], "guidance_embeds": False,
}  # fmt: skip
QWEN_VAE = {
    "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "temperal_downsample": [False, True, True], "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16,
}  # fmt: skip
QWEN_2_5 = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "rope_theta": 1e6,
}  # fmt: skip
VISION_OF_QWEN = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "out_hidden_size": 3584}
FLUX_AE = AutoencoderConfig((128, 256, 512, 512), 2, 16)
SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 980,
}  # fmt: skip


def sd3_5_medium(folder: Path) -> Path:
    """stabilityai/stable-diffusion-3.5-medium."""
    parts: dict[str, Any] = {
        "transformer": ("SD3Transformer2DModel", SD3_5_MEDIUM),
        "vae": ("AutoencoderKL", VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
        "scheduler": tiny.euler(shift=3.0),
        "text_encoder": ("CLIPTextModelWithProjection", _clip(CLIP_L)),
        "text_encoder_2": ("CLIPTextModelWithProjection", _clip(CLIP_G)),
        "text_encoder_3": ("T5EncoderModel", _t5()),
        "tokenizer": tiny.clip_tokenizer(), "tokenizer_2": tiny.clip_tokenizer(), "tokenizer_3": tiny.t5_tokenizer(),
    }  # fmt: skip
    return _pipeline(folder, "StableDiffusion3Pipeline", parts)


def flux_1_dev(folder: Path) -> Path:
    """black-forest-labs/FLUX.1-dev."""
    parts: dict[str, Any] = {
        "transformer": ("FluxTransformer2DModel", FLUX_1),
        "vae": ("AutoencoderKL", VAE | {"scaling_factor": 0.3611, "shift_factor": 0.1159}),
        "scheduler": tiny.euler(shift=3.0, use_dynamic_shifting=True),
        "text_encoder": ("CLIPTextModel", _clip(CLIP_L)), "text_encoder_2": ("T5EncoderModel", _t5()),
        "tokenizer": tiny.clip_tokenizer(), "tokenizer_2": tiny.t5_tokenizer(),
    }  # fmt: skip
    return _pipeline(folder, "FluxPipeline", parts)


def qwen_image(folder: Path) -> Path:
    """Qwen/Qwen-Image."""
    from transformers import Qwen2_5_VLConfig

    mrope = {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}
    encoder = Qwen2_5_VLConfig(text_config=QWEN_2_5 | {"rope_scaling": mrope}, vision_config=VISION_OF_QWEN)
    parts: dict[str, Any] = {
        "transformer": ("QwenImageTransformer2DModel", QWEN_IMAGE), "vae": ("AutoencoderKLQwenImage", QWEN_VAE),
        "scheduler": tiny.euler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        "text_encoder": ("Qwen2_5_VLForConditionalGeneration", encoder), "tokenizer": tiny.qwen_tokenizer(),
    }  # fmt: skip
    return _pipeline(folder, "QwenImagePipeline", parts)


def bagel_7b_mot(folder: Path) -> Path:
    """ByteDance-Seed/BAGEL-7B-MoT: files of weights that say how large they are and are empty behind that."""
    folder.mkdir(parents=True)
    (folder / "llm_config.json").write_text(json.dumps(QWEN_2_5 | {"rms_norm_eps": 1e-6, "hidden_act": "silu"}))
    (folder / "vit_config.json").write_text(json.dumps(SIGLIP | {"layer_norm_eps": 1e-6}))
    vision = VisionConfig(**SIGLIP | {"num_hidden_layers": SIGLIP["num_hidden_layers"] - 1})
    whole = MoTConfig(**BAGEL_7B_MOT, vision_channels=vision.hidden_size, vision_positions=vision.side)
    shapes, shards = policy_dims(whole) | vision_dims(vision), {}
    for number in range(0, len(shapes), 100):  # one file would be too large to map on a small machine
        names = [*islice(shapes, number, number + 100)]
        shards |= dict.fromkeys(names, f"ema-{number}.safetensors")
        _say(folder / f"ema-{number}.safetensors", {name: shapes[name] for name in names}, "BF16")
    (folder / "ema.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    _say(folder / "ae.safetensors", {name: shape for name, (_, shape) in autoencoder_names(FLUX_AE).items()}, "F32")
    published.tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


#: Recipe of a published model -> how to make its folder.
FOLDERS: Mapping[str, Callable[[Path], Path]] = {
    "sd3_medium_geneval_lora": sd3_5_medium,
    "flux_lora": flux_1_dev,
    "qwen_image_thinking_lora": qwen_image,
    "bagel_unigrpo_lora_1x80gb": bagel_7b_mot,
    "bagel_unigrpo_full_8x80gb": bagel_7b_mot,
}


def _clip(sizes: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(**sizes)


def _t5() -> Any:
    from transformers import T5Config

    return T5Config(**T5_XXL)


def _pipeline(folder: Path, name: str, parts: Mapping[str, Any]) -> Path:
    """``parts``: schedulers and tokenizers themselves; of modules their class and configuration."""
    index: dict[str, Any] = {"_class_name": name}
    for part, made in parts.items():
        place = folder / part
        place.mkdir(parents=True)
        if not isinstance(made, tuple):
            made.save_pretrained(place)
            index[part] = [type(made).__module__.partition(".")[0], type(made).__name__]
        elif isinstance(made[1], dict):
            (place / "config.json").write_text(json.dumps({"_class_name": made[0], **made[1]}))
            index[part] = ["diffusers", made[0]]
        else:
            made[1].save_pretrained(place)
            index[part] = ["transformers", made[0]]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _say(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """A file of safetensors that takes no room: its header, and a hole."""
    end, header = 0, {}
    for name, shape in shapes.items():
        size = prod(shape) * {"BF16": 2, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)
