"""The two experts around one attention: layers, embedding and vocabulary head of the mixture of transformers.

Qwen2 blocks with QK-norm; parameter names are those of the published BAGEL-7B-MoT weights (arXiv 2505.14683), in which
the generation expert's end in ``_moe_gen``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigrpo.models.linear import Linear
from unigrpo.models.mot.configuration import MoTConfig
from unigrpo.models.mot.context import Past

#: The experts whose states after a layer are read; of the last layer it may be but one, or none.
Read = Literal["all", "image", "none"]


class RMSNorm(nn.Module):
    """Root-mean-square norm: statistics in fp32, cast back before the weight is applied, as Qwen2 does."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def rotary(position: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1, L, head_dim] of positions [B, L], half-split form, angles in fp32."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device, dtype=torch.float32) / head_dim)
    angle = (position[:, None, :, None].float() * frequency).repeat(1, 1, 1, 2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [B, heads, L, head_dim]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Attention(nn.Module):
    """Projections and QK-norms of both experts around one attention over all tokens."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        for suffix in ("", "_moe_gen"):
            self.add_module(f"q_proj{suffix}", Linear(width, width))
            self.add_module(f"k_proj{suffix}", Linear(width, kv_width))
            self.add_module(f"v_proj{suffix}", Linear(width, kv_width))
            self.add_module(f"o_proj{suffix}", Linear(width, width, bias=False))
            for norm in ("q_norm", "k_norm"):
                alive = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
                self.add_module(f"{norm}{suffix}", alive)

    def project(self, x: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, L, head_dim] of one expert, before rotation."""
        q, k, v = (
            self.get_submodule(f"{name}_proj{suffix}")(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for name in "qkv"
        )
        return self.get_submodule(f"q_norm{suffix}")(q), self.get_submodule(f"k_norm{suffix}")(k), v

    def forward(
        self,
        text: Tensor,
        image: Tensor | None,
        turn: tuple[Tensor, Tensor],
        past: Past,
        mask: Tensor,
        read: Read = "all",
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor, Tensor]]:
        """Attend from the block's tokens to the past and the block itself.

        Args:
            text: [B, Lt, hidden], normed states of the text expert's tokens.
            image: [B, Li, hidden], those of the generation expert's tokens, which come after; None without a picture.
            turn: cosine and sine of the block's positions.
            past: keys and values of the context.
            mask: [B, 1, Lt + Li, T + Lt + Li] bool, True where a token may look.
            read: which experts' output is; None stands for the others.

        Returns:
            Output of both experts, and the keys and values of past and block together.
        """
        q, k, v = self.project(text, "")
        if image is not None:
            q, k, v = (torch.cat(pair, 2) for pair in zip((q, k, v), self.project(image, "_moe_gen"), strict=True))
        q, k = rotate(q, *turn), rotate(k, *turn)
        k, v = past.append(k, v)
        if read == "none":
            return None, None, (k, v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        out = out.transpose(1, 2).flatten(2)
        length = text.shape[1]
        painted = None if image is None else self.get_submodule("o_proj_moe_gen")(out[:, length:])
        written = None if read == "image" else self.get_submodule("o_proj")(out[:, :length])
        return written, painted, (k, v)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each expert with its own norms and MLP."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.self_attn = Attention(config)
        for suffix in ("", "_moe_gen"):
            self.add_module(f"mlp{suffix}", MLP(config))
            self.add_module(f"input_layernorm{suffix}", RMSNorm(config.hidden_size, config.rms_norm_eps))
            self.add_module(f"post_attention_layernorm{suffix}", RMSNorm(config.hidden_size, config.rms_norm_eps))
        self.modulation = (
            Linear(config.hidden_size, 6 * config.hidden_size) if config.time_conditioning == "adaln" else None
        )

    def forward(
        self,
        text: Tensor,
        image: Tensor | None,
        time: Tensor | None,
        turn: tuple[Tensor, Tensor],
        past: Past,
        mask: Tensor,
        read: Read = "all",
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Both experts' states after the layer, and its keys and values; arguments as in :meth:`Attention.forward`.

        States that nobody reads come back as they were.
        """
        norm, norm_gen = self.get_submodule("input_layernorm"), self.get_submodule("input_layernorm_moe_gen")
        after_gen = self.get_submodule("post_attention_layernorm_moe_gen")
        if image is None:
            attended, _, present = self.self_attn(norm(text), None, turn, past, mask, read)
            return self._written(text, attended), None, present
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._modulate(time)
        attended, painted, present = self.self_attn(
            norm(text), norm_gen(image) * (1 + scale_a) + shift_a, turn, past, mask, read
        )
        text = self._written(text, attended)
        if painted is None:
            return text, image, present
        image = image + gate_a * painted
        image = image + gate_m * self.get_submodule("mlp_moe_gen")(after_gen(image) * (1 + scale_m) + shift_m)
        return text, image, present

    def _written(self, text: Tensor, attended: Tensor | None) -> Tensor:
        """The text expert's states after attention and MLP."""
        if attended is None:
            return text
        text = text + attended
        return text + self.get_submodule("mlp")(self.get_submodule("post_attention_layernorm")(text))

    def _modulate(self, time: Tensor | None) -> tuple[Tensor | float, ...]:
        if self.modulation is None or time is None:
            return 0.0, 0.0, 1.0, 0.0, 0.0, 1.0
        parts = self.modulation(F.silu(time))[:, None].chunk(6, -1)
        return parts[0], parts[1], 1 + parts[2], parts[3], parts[4], 1 + parts[5]


class Decoder(nn.Module):
    """Embedding, layers and the final norm of each expert."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)


class LanguageModel(nn.Module):
    """Decoder and vocabulary head."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
