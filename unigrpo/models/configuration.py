"""Configuration of the mixture-of-transformers policy, from 1M parameters to BAGEL's 7B/14B-MoT."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig


class MoTConfig(PretrainedConfig):
    """Sizes and switches of :class:`~unigrpo.models.mot.MoTPolicy`.

    The defaults of the switches are BAGEL's; the tiny model sets what its size needs.

    Args:
        vocab_size: words, special tokens included.
        hidden_size: width of both experts.
        intermediate_size: width of both SwiGLU MLPs.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads; the head size is ``hidden_size // num_attention_heads``.
        num_key_value_heads: key and value heads (grouped-query attention).
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: epsilon of every RMSNorm.
        qk_norm: RMSNorm on queries and keys, per head.
        latent_channels: channels of the autoencoder's latents.
        latent_patch_size: side of the square of latent pixels that makes one image token.
        max_latent_size: side of the table of 2-D positions, in image tokens.
        latent_size: (height, width) of the latents of a picture that the policy paints.
        time_conditioning: ``"input"`` adds the timestep embedding to the image tokens (BAGEL); ``"adaln"`` also
            modulates the generation expert's layers, which small models need.
        code_levels: levels of each latent channel of a quantised autoencoder, whose codes the policy then paints one by
            one; empty for a policy that paints by flow matching, to which alone the switches on time and prediction
            apply.
        prediction: what the image head returns: ``"velocity"`` (BAGEL) or ``"data"``, the clean latents, from which the
            velocity is ``(x - x0) / t``.
        bos_token_id: begins every text block.
        eos_token_id: ends every text block.
        pad_token_id: fills ragged batches.
        start_of_image_id: first marker of an image block.
        end_of_image_id: last marker of an image block.
    """

    model_type = "unigrpo_mot"

    def __init__(
        self,
        vocab_size: int = 64,
        hidden_size: int = 96,
        intermediate_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        num_key_value_heads: int = 4,
        rope_theta: float = 1e6,
        rms_norm_eps: float = 1e-6,
        qk_norm: bool = True,
        latent_channels: int = 8,
        latent_patch_size: int = 1,
        max_latent_size: int = 64,
        latent_size: tuple[int, int] = (4, 4),
        time_conditioning: str = "input",
        code_levels: tuple[int, ...] = (),
        prediction: str = "velocity",
        bos_token_id: int = 1,
        eos_token_id: int = 2,
        pad_token_id: int = 0,
        start_of_image_id: int = 3,
        end_of_image_id: int = 4,
        **kwargs: Any,
    ):
        if time_conditioning not in ("input", "adaln"):
            raise ValueError(f"time_conditioning: expected 'input' or 'adaln', got {time_conditioning!r}")
        if prediction not in ("velocity", "data"):
            raise ValueError(f"prediction: expected 'velocity' or 'data', got {prediction!r}")
        if code_levels and (len(code_levels), latent_patch_size, time_conditioning) != (latent_channels, 1, "input"):
            got = f"{latent_channels} channels, latent_patch_size={latent_patch_size}, {time_conditioning=}"
            raise ValueError(
                f"code_levels={code_levels}: expected one per latent channel, one pixel per token and no"
                f" modulation by time, got {got}"
            )
        if hidden_size % num_attention_heads or num_attention_heads % num_key_value_heads:
            raise ValueError("heads must divide hidden_size, key-value heads must divide heads")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.qk_norm = qk_norm
        self.latent_channels = latent_channels
        self.latent_patch_size = latent_patch_size
        self.max_latent_size = max_latent_size
        self.latent_size = tuple(latent_size)
        self.time_conditioning = time_conditioning
        self.code_levels = tuple(code_levels)
        self.prediction = prediction
        self.start_of_image_id = start_of_image_id
        self.end_of_image_id = end_of_image_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = False
        super().__init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def token_channels(self) -> int:
        """Values of one image token."""
        return self.latent_patch_size**2 * self.latent_channels


#: BAGEL-7B-MoT as published (7B active, 14B in all).
BAGEL_7B_MOT: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "latent_channels": 16,
    "latent_patch_size": 2,
    "max_latent_size": 64,
    "latent_size": (128, 128),
    "bos_token_id": 151644,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
    "start_of_image_id": 151652,
    "end_of_image_id": 151653,
}
