"""Tiny pipelines of diffusers' own classes with random weights, one for each row; all of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from unigrpo.models.pipelines import Diffusers
from unigrpo.models.pipelines.loading import PipelineModel, assembled
from unigrpo.models.pipelines.rows import FAMILIES

#: Printable bytes and, for the others, the letters that byte-level tokenizers write for them.
LETTERS = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("im_start", "im_end", "vision_start", "image_pad", "vision_end", "video_pad")
SIDE = 32


def qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    words = {letter: i for i, letter in enumerate([*LETTERS, "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=words, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{word}|>" for word in SPECIAL]})
    tokenizer.chat_template = CHAT
    return tokenizer


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 77
    return tokenizer


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((chr(i), -2.0) for i in range(33, 127))]
    tokenizer = T5Tokenizer(vocab=pieces)
    tokenizer.model_max_length = 512
    return tokenizer


def gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *map(chr, range(33, 127)), "<mask>"]
    return GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def clip(projected: bool = True) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=600, hidden_size=32, intermediate_size=40, num_attention_heads=4, num_hidden_layers=2,
        projection_dim=32, bos_token_id=512, eos_token_id=513, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")
    )


def qwen3(causal: bool = False) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=512,
    )  # fmt: skip
    return (Qwen3ForCausalLM if causal else Qwen3Model)(config)


def writer(kind: str, **settings: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(vocab_size=300, num_hidden_layers=1, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


_SMALL = {"hidden_size": 16, "num_attention_heads": 2}
_NARROW = {**_SMALL, "intermediate_size": 24, "num_key_value_heads": 1, "max_position_embeddings": 64}
_LATENT = {
    "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6,
}  # fmt: skip
#: Architectures that scale their logits, name their sizes otherwise, or have keys and values of different widths.
WRITERS: dict[str, Callable[[], Any]] = {
    "Granite": lambda: writer("Granite", logits_scaling=8.0, **_NARROW),
    "Cohere": lambda: writer("Cohere", logit_scale=0.1, bos_token_id=1, eos_token_id=2, **_NARROW),
    "GPT2": lambda: writer("GPT2", n_positions=64, bos_token_id=1, eos_token_id=1, **_SMALL),
    "Gemma2": lambda: writer("Gemma2", head_dim=8, sliding_window=32, **_NARROW),
    "Mistral": lambda: mistral(sliding_window=32),
    "OPT": lambda: writer("OPT", ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=64, **_SMALL),
    "DeepseekV3": lambda: writer("DeepseekV3", **{**_NARROW, "num_key_value_heads": 2}, **_LATENT),
}


def mistral(sliding_window: int) -> Any:
    return writer("Mistral", sliding_window=sliding_window, head_dim=8, **_NARROW)


def bloom() -> Any:
    return writer("Bloom", hidden_size=16, n_head=2)


def mpt() -> Any:
    return writer("Mpt", d_model=16, n_heads=2)


def gemma2(head_dim: int = 16) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=120,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=head_dim,
        )
    )


def autoencoder(widths: tuple[int, ...] = (4,), channels: int = 4, groups: int = 1) -> Any:
    from diffusers import AutoencoderKL

    levels = len(widths)
    return AutoencoderKL(
        sample_size=SIDE, block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1, latent_channels=channels,
        norm_num_groups=groups, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=1.5,
    )  # fmt: skip


def euler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=euler(shift=3.0), vae=autoencoder(), text_encoder=clip(),
        tokenizer=clip_tokenizer(), text_encoder_2=clip(), tokenizer_2=clip_tokenizer(), text_encoder_3=t5(),
        tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    )  # fmt: skip
    return FluxPipeline(
        transformer=transformer, scheduler=euler(use_dynamic_shifting=True), vae=autoencoder(),
        text_encoder=clip(False), tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


def flux_kontext() -> Any:
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(**flux().components)


def klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        sample_size=SIDE, block_out_channels=(4,), down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), layers_per_block=1, latent_channels=1, norm_num_groups=1,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    vae.bn.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.05]))
    return Flux2KleinPipeline(
        transformer=transformer, scheduler=euler(use_dynamic_shifting=True), vae=vae, text_encoder=qwen3(causal=True),
        tokenizer=qwen_tokenizer(),
    )  # fmt: skip


def video_autoencoder(kind: str, halvings: int, channels: int) -> Any:
    import diffusers

    return getattr(diffusers, kind)(
        base_dim=6, z_dim=channels, dim_mult=[1] * (halvings + 1), num_res_blocks=1,
        temperal_downsample=[False] + [True] * (halvings - 1), latents_mean=[0.1] * channels,
        latents_std=[1.3] * channels,
    )  # fmt: skip


def qwen_processor() -> Any:
    """Qwen's own but for its constructor, which asks for torchvision for the sake of videos."""
    from transformers import Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class PicturesOnly(Qwen2VLProcessor):
        def __init__(self, image_processor: Any, tokenizer: Any):
            self.image_processor, self.tokenizer, self.chat_template = image_processor, tokenizer, None
            self.video_processor = None
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
                [self.image_token, self.video_token]
            )

    return PicturesOnly(Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56), qwen_tokenizer())


#: Name in the settings of Qwen's vision-language models -> special token.
_MARKS = {"vision_start": "vision_start", "vision_end": "vision_end", "image": "image_pad", "video": "video_pad"}


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words, sizes = qwen_tokenizer(), {"hidden_size": 16, "intermediate_size": 24}
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                **sizes, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 300,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            },
            vision_config={**sizes, "depth": 1, "num_heads": 2, "out_hidden_size": 16},
            **{f"{name}_token_id": words.convert_tokens_to_ids(f"<|{word}|>") for name, word in _MARKS.items()},
        )
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    scheduler = euler(use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
    return QwenImagePipeline(
        transformer=transformer, scheduler=scheduler, vae=video_autoencoder("AutoencoderKLQwenImage", 2, 4),
        text_encoder=encoder, tokenizer=words,
    )  # fmt: skip


def qwen_image_edit() -> Any:
    from diffusers import QwenImageEditPipeline

    return QwenImageEditPipeline(**qwen_image().components, processor=qwen_processor())


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[512, 32, 32],
    )  # fmt: skip
    return ZImagePipeline(
        transformer=transformer, scheduler=euler(shift=3.0), vae=autoencoder((8, 8), 16, 8), text_encoder=qwen3(),
        tokenizer=qwen_tokenizer(),
    )  # fmt: skip


def sana() -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        sample_size=SIDE, patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=8,
    )  # fmt: skip
    halves = {"encoder": ("down", "conv"), "decoder": ("up", "interpolate")}
    blocks = {f"{half}_block_types": ("ResBlock", "EfficientViTBlock") for half in halves}
    blocks |= {f"{half}_block_out_channels": (8, 8) for half in halves}
    blocks |= {f"{half}_layers_per_block": (1, 1) for half in halves}
    blocks |= {f"{half}_qkv_multiscales": ((), (5,)) for half in halves}
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, downsample_block_type="conv", upsample_block_type="interpolate",
        scaling_factor=0.4, **blocks,
    )  # fmt: skip
    return SanaPipeline(
        transformer=transformer, scheduler=euler(shift=7.0), vae=vae, text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
    )  # fmt: skip


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1, num_kv_heads=1,
        multiple_of=16, axes_dim_rope=[4, 2, 2], axes_lens=(512, 64, 64), cap_feat_dim=8,
    )  # fmt: skip
    return Lumina2Pipeline(
        transformer=transformer, scheduler=euler(use_dynamic_shifting=True), vae=autoencoder((4, 4, 4, 4)),
        text_encoder=gemma2(4), tokenizer=gemma_tokenizer(),
    )  # fmt: skip


def wan() -> Any:
    from diffusers import WanPipeline, WanTransformer3DModel

    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=64, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    return WanPipeline(
        transformer=transformer, scheduler=euler(shift=7.0), vae=video_autoencoder("AutoencoderKLWan", 3, 16),
        text_encoder=t5(), tokenizer=t5_tokenizer(),
    )  # fmt: skip


def ovis() -> Any:
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel

    transformer = OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return OvisImagePipeline(
        transformer=transformer, scheduler=euler(use_dynamic_shifting=True), vae=autoencoder(), text_encoder=qwen3(),
        tokenizer=qwen_tokenizer(),
    )  # fmt: skip


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=16, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    return ChromaPipeline(
        transformer=transformer, scheduler=euler(use_dynamic_shifting=True), vae=autoencoder(), text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )  # fmt: skip


def krea2() -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    sizes = {"hidden_size": 16, "intermediate_size": 24}
    encoder = Qwen3VLModel(
        Qwen3VLConfig(
            text_config={
                **sizes, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
                "vocab_size": 300,
            },
            vision_config={
                **sizes, "depth": 1, "num_heads": 2, "out_hidden_size": 16, "deepstack_visual_indexes": [0],
            },
        )
    )  # fmt: skip
    transformer = Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, timestep_embed_dim=8, text_hidden_dim=16, num_text_layers=3, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    return Krea2Pipeline(
        transformer=transformer, scheduler=euler(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=video_autoencoder("AutoencoderKLQwenImage", 2, 4), text_encoder=encoder, tokenizer=qwen_tokenizer(),
        text_encoder_select_layers=(0, 1, 2),
    )  # fmt: skip


#: Class of a pipeline -> how to make one.
TINY: dict[str, Callable[[], Any]] = {
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "FluxKontextPipeline": flux_kontext,
    "Flux2KleinPipeline": klein,
    "QwenImagePipeline": qwen_image,
    "QwenImageEditPipeline": qwen_image_edit,
    "ZImagePipeline": z_image,
    "SanaPipeline": sana,
    "Lumina2Pipeline": lumina2,
    "WanPipeline": wan,
    "OvisImagePipeline": ovis,
    "ChromaPipeline": chroma,
    "Krea2Pipeline": krea2,
}
#: What ``model=diffusers`` must be told for one.
TOLD: dict[str, dict[str, Any]] = {
    "Flux2KleinPipeline": {"text_layers": (1,), "max_sequence_length": 48},
    "ZImagePipeline": {"max_sequence_length": 48},
}


def alive(module: Any) -> Any:
    """The same, no weight of which is zero or undefined: what it does not use would go unseen."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.eval().named_parameters():
            if name.startswith(("context_embedder", "txt_in", "model.visual.merger")):
                weight.mul_(20)  # or a text, and what is seen beside it, would hardly matter
            if not weight.isfinite().all() or not weight.any():
                weight.copy_(torch.randn(weight.shape, generator=drawn) * 0.05)
    return module


@cache
def pipeline(name: str) -> Any:
    """One of :data:`TINY`, alive."""
    torch.manual_seed(0)
    found = TINY[name]()
    found.set_progress_bar_config(disable=True)
    for part in found.components.values():
        if isinstance(part, torch.nn.Module):
            alive(part)
    return found


def language_model(folder: Path) -> Path:
    """A causal language model in a folder."""
    torch.manual_seed(1)
    alive(qwen3(causal=True)).save_pretrained(folder)
    tokenizer = qwen_tokenizer()
    tokenizer.save_pretrained(folder)
    return folder


def saved(name: str, folder: Path) -> Path:
    """The same in a folder."""
    pipeline(name).save_pretrained(folder)
    return folder


@cache
def model(name: str) -> PipelineModel:
    """The same as ``model=diffusers`` has it."""
    return assembled(Diffusers(**TOLD.get(name, {})), pipeline(name), FAMILIES[name])
