"""Configuration of the mixture-of-transformers policy, from 1M parameters to BAGEL's 7B/14B-MoT."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from unigrpo.io import JsonObject
from unigrpo.registry import nearest

#: What a config.json says besides, in the words of Hugging Face.
_LABELS: dict[str, object] = {"model_type": "unigrpo_mot", "tie_word_embeddings": False}
#: What one that transformers wrote may say, and nobody reads.
_IGNORED = {*_LABELS, "transformers_version", "architectures", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class MoTConfig:
    """Sizes and switches of :class:`~unigrpo.models.mot.policy.MoTPolicy`.

    The defaults of the switches are BAGEL's; the tiny model sets what its size needs.

    Attributes:
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
        vision_channels: D of the features of a vision encoder, which a connector maps to tokens that the text expert
            reads behind the image; 0 for a policy that reads latents alone.
        vision_positions: side of the table of 2-D positions that the connector adds to features, whose last channel
            is then the number of their place in it (BAGEL: 70); 0 for features without places.
        prediction: what the image head returns: ``"velocity"`` (BAGEL) or ``"data"``, the clean latents, from which the
            velocity is ``(x - x0) / t``.
        bos_token_id: begins every text block.
        eos_token_id: ends every text block.
        pad_token_id: fills ragged batches.
        start_of_image_id: first marker of an image block.
        end_of_image_id: last marker of an image block.
    """

    vocab_size: int = 64
    hidden_size: int = 96
    intermediate_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    qk_norm: bool = True
    latent_channels: int = 8
    latent_patch_size: int = 1
    max_latent_size: int = 64
    latent_size: tuple[int, int] = (4, 4)
    time_conditioning: str = "input"
    code_levels: tuple[int, ...] = ()
    vision_channels: int = 0
    vision_positions: int = 0
    prediction: str = "velocity"
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0
    start_of_image_id: int = 3
    end_of_image_id: int = 4

    def __post_init__(self) -> None:
        if self.time_conditioning not in ("input", "adaln"):
            raise ValueError(f"time_conditioning: expected 'input' or 'adaln', got {self.time_conditioning!r}")
        if self.prediction not in ("velocity", "data"):
            raise ValueError(f"prediction: expected 'velocity' or 'data', got {self.prediction!r}")
        codes = (len(self.code_levels), self.latent_patch_size, self.time_conditioning)
        if self.code_levels and codes != (self.latent_channels, 1, "input"):
            got = (
                f"{self.latent_channels} channels, latent_patch_size={self.latent_patch_size},"
                f" time_conditioning={self.time_conditioning!r}"
            )
            raise ValueError(
                f"code_levels={self.code_levels}: expected one per latent channel, one pixel per token and no"
                f" modulation by time, got {got}"
            )
        if self.vision_positions and not self.vision_channels:
            raise ValueError(f"vision_positions={self.vision_positions}: places of features, but vision_channels=0")
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("heads must divide hidden_size, key-value heads must divide heads")

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> MoTConfig:
        """From the content of a config.json; keys that are not there take their defaults.

        Raises:
            ValueError: unknown keys, or sizes that do not fit.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(data.keys() - fields - _IGNORED):
            raise ValueError(f"unknown key {unknown[0]!r}{nearest(unknown[0], fields)}")
        known: JsonObject = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in fields}
        return cls(**known)

    def to_dict(self) -> dict[str, object]:
        """The content of a config.json."""
        return dataclasses.asdict(self) | _LABELS

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def token_channels(self) -> int:
        """Values of one image token."""
        return self.latent_patch_size**2 * self.latent_channels


#: BAGEL-7B-MoT as published (7B active, 14B in all).
BAGEL_7B_MOT: dict[str, int | tuple[int, int]] = {
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
