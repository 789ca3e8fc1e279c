"""Mixture of transformers in BAGEL's architecture: two experts, one shared attention.

Qwen2 blocks with QK-norm.  Text tokens, and the two markers that enclose a picture, go through the text expert; latent
patches, noised or clean, through the generation expert (``_moe_gen``).  All tokens of a sequence attend in one shared
attention: text causally, the tokens of a picture to each other and to everything before.  A picture takes one rotary
position.  Parameter names are those of the published BAGEL-7B-MoT weights (arXiv 2505.14683).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel

from unigrpo.models.configuration import MoTConfig
from unigrpo.models.policy import Context, Modality


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
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

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
            self.add_module(f"q_proj{suffix}", nn.Linear(width, width))
            self.add_module(f"k_proj{suffix}", nn.Linear(width, kv_width))
            self.add_module(f"v_proj{suffix}", nn.Linear(width, kv_width))
            self.add_module(f"o_proj{suffix}", nn.Linear(width, width, bias=False))
            for norm in ("q_norm", "k_norm"):
                made = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
                self.add_module(f"{norm}{suffix}", made)

    def project(self, x: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, L, head_dim] of one expert, before rotation."""
        q, k, v = (
            self.get_submodule(f"{name}_proj{suffix}")(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for name in "qkv"
        )
        return self.get_submodule(f"q_norm{suffix}")(q), self.get_submodule(f"k_norm{suffix}")(k), v

    def forward(
        self, text: Tensor, image: Tensor | None, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Attend from the block's tokens to the past and the block itself.

        Args:
            text: [B, Lt, hidden], normed states of the text expert's tokens.
            image: [B, Li, hidden], those of the generation expert's tokens, which come after; None without a picture.
            turn: cosine and sine of the block's positions.
            past: keys and values of the context.
            mask: [B, 1, Lt + Li, T + Lt + Li] bool, True where a token may look.

        Returns:
            Output of both experts, and the keys and values of past and block together.
        """
        q, k, v = self.project(text, "")
        if image is not None:
            q, k, v = (torch.cat(pair, 2) for pair in zip((q, k, v), self.project(image, "_moe_gen"), strict=True))
        q, k = rotate(q, *turn), rotate(k, *turn)
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        out = out.transpose(1, 2).flatten(2)
        length = text.shape[1]
        painted = None if image is None else self.get_submodule("o_proj_moe_gen")(out[:, length:])
        return self.get_submodule("o_proj")(out[:, :length]), painted, (k, v)


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
            nn.Linear(config.hidden_size, 6 * config.hidden_size) if config.time_conditioning == "adaln" else None
        )

    def forward(
        self,
        text: Tensor,
        image: Tensor | None,
        time: Tensor | None,
        turn: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Both experts' states after the layer, and its keys and values; arguments as in :meth:`Attention.forward`."""
        norm, norm_gen = self.get_submodule("input_layernorm"), self.get_submodule("input_layernorm_moe_gen")
        after, after_gen = (self.get_submodule(f"post_attention_layernorm{s}") for s in ("", "_moe_gen"))
        if image is None:
            attended, _, present = self.self_attn(norm(text), None, turn, past, mask)
            text = text + attended
            return text + self.get_submodule("mlp")(after(text)), None, present
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._modulate(time)
        attended, painted, present = self.self_attn(
            norm(text), norm_gen(image) * (1 + scale_a) + shift_a, turn, past, mask
        )
        text = text + attended
        image = image + gate_a * painted
        text = text + self.get_submodule("mlp")(after(text))
        image = image + gate_m * self.get_submodule("mlp_moe_gen")(after_gen(image) * (1 + scale_m) + shift_m)
        return text, image, present

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
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class TimestepEmbedder(nn.Module):
    """t in [0, 1] -> hidden, through 128 cosines and sines and a two-layer MLP."""

    FREQUENCIES = 128

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """[B] -> [B, hidden]; the angles are fp32 whatever the weights' dtype."""
        ladder = torch.arange(self.FREQUENCIES, device=t.device, dtype=torch.float32) / self.FREQUENCIES
        angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * ladder)
        return self.mlp(torch.cat((angle.cos(), angle.sin()), -1).to(next(self.parameters()).dtype))


class LatentPositions(nn.Module):
    """Frozen 2-D sine table; half of the channels encodes the column, the other half the row."""

    def __init__(self, side: int, width: int):
        super().__init__()
        quarter = width // 4
        frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
        angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency
        line = torch.cat((angle.sin(), angle.cos()), -1)
        column, row = line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)
        table = torch.cat((column, row), -1).flatten(0, 1).float()
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.side = side

    def forward(self, height: int, width: int) -> Tensor:
        """[height * width, hidden]: an image occupies the table's top left corner."""
        row = torch.arange(height, device=self.pos_embed.device)
        column = torch.arange(width, device=self.pos_embed.device)
        return self.pos_embed[(row[:, None] * self.side + column).flatten()]


def pack(latents: Tensor, patch: int) -> Tensor:
    """Latent map [B, C, H, W] -> tokens [B, N, patch * patch * C], patches row by row, channel fastest inside."""
    b, c, h, w = latents.shape
    grid = latents.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpack(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack` for a latent map of ``height`` x ``width``."""
    b = tokens.shape[0]
    grid = tokens.reshape(b, height // patch, width // patch, patch, patch, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height, width)


class MoTPolicy(PreTrainedModel):
    """The unified policy: implements :class:`~unigrpo.models.policy.Policy`."""

    config_class = MoTConfig
    config: MoTConfig
    base_model_prefix = ""

    def __init__(self, config: MoTConfig):
        super().__init__(config)
        width = config.hidden_size
        self.language_model = LanguageModel(config)
        self.time_embedder = TimestepEmbedder(width)
        self.vae2llm = nn.Linear(config.token_channels, width)
        self.llm2vae = nn.Linear(width, config.token_channels)
        self.latent_pos_embed = LatentPositions(config.max_latent_size, width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if self.config.hidden_size > 512 else 0.05)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a painted picture."""
        height, width = self.config.latent_size
        return self.config.latent_channels, height, width

    def start(self, batch: int) -> Context:
        """The empty context of ``batch`` rows."""
        config, device, dtype = self.config, self.device, self.dtype
        empty = torch.zeros(batch, config.num_key_value_heads, 0, config.head_dim, device=device, dtype=dtype)
        layers = (empty,) * config.num_hidden_layers
        valid = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        return Context(layers, layers, valid, torch.zeros(batch, dtype=torch.int64, device=device))

    def extend_text(self, context: Context, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Context]:
        """Append tokens [B, L] where ``mask`` holds; logits [B, L, V] and the longer context."""
        length = tokens.shape[1]
        order = mask.long().cumsum(1)
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        seen = torch.cat((context.valid[:, None].expand(-1, length, -1), causal & mask[:, None]), -1)
        # A padded query looks at itself alone: softmax over nothing would be NaN, and its state is never read.
        alone = torch.eye(length, dtype=torch.bool, device=tokens.device) & ~mask[:, :, None]
        seen[:, :, context.valid.shape[1] :] |= alone
        states = self.language_model.model.embed_tokens(tokens)
        states, _, extended = self._walk_layers(
            context, states, None, None, context.position[:, None] + order - 1, seen
        )
        logits = self.language_model.lm_head(self.language_model.model.norm(states))
        grown = Context(*extended, torch.cat((context.valid, mask), 1), context.position + order[:, -1])
        return logits, grown

    def extend_image(self, context: Context, latents: Tensor) -> Context:
        """Append a clean picture [B, C, H, W] (t = 0) between its two markers."""
        time = torch.zeros(latents.shape[0], device=latents.device)
        _, (keys, values), seen = self._image_block(context, latents, time)
        valid = torch.ones(context.batch, seen - context.valid.shape[1], dtype=torch.bool, device=latents.device)
        return Context(keys, values, torch.cat((context.valid, valid), 1), context.position + 1)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        """Noise - data at ``x`` [B, C, H, W], ``t`` 0-d or [B]; fp32 or the dtype of ``x`` if wider."""
        time = t.to(x.device, torch.float32).expand(x.shape[0])
        states, _, _ = self._image_block(context, x, time)
        tokens = self.llm2vae(self.language_model.model.norm_moe_gen(states)).to(x.dtype)
        out = unpack(tokens, self.config.latent_patch_size, x.shape[2], x.shape[3])
        if self.config.prediction == "velocity":
            return out
        return (x - out) / time.to(x.dtype).clamp(min=1e-3)[:, None, None, None]

    def parameters_of(self, modality: Modality) -> Iterator[nn.Parameter]:
        """Trainable parameters of the text expert (with embeddings and head) or of the generation expert."""
        image = {id(parameter) for module in self._image_modules() for parameter in module.parameters()}
        for parameter in self.parameters():
            if parameter.requires_grad and (id(parameter) in image) == (modality == "image"):
                yield parameter

    def _image_modules(self) -> Iterator[nn.Module]:
        yield from (self.time_embedder, self.vae2llm, self.llm2vae, self.language_model.model.norm_moe_gen)
        for layer in self.language_model.model.layers:
            assert isinstance(layer, DecoderLayer)
            if layer.modulation is not None:
                yield layer.modulation
            for owner, names in (
                (layer, ("mlp", "input_layernorm", "post_attention_layernorm")),
                (layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
            ):
                yield from (owner.get_submodule(f"{name}_moe_gen") for name in names)

    def _image_block(
        self, context: Context, latents: Tensor, time: Tensor
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], tuple[Tensor, ...]], int]:
        """States of a picture's tokens, keys and values with it appended, and their length.

        The markers are put before the patches instead of around them: within a picture attention is full and all
        tokens share one position, so order has no effect and no token needs to be moved between experts.
        """
        config = self.config
        batch, _, height, width = latents.shape
        patch = config.latent_patch_size
        markers = torch.tensor([config.start_of_image_id, config.end_of_image_id], device=latents.device)
        text = self.language_model.model.embed_tokens(markers).expand(batch, -1, -1)
        embedded = self.time_embedder(time)
        image = self.vae2llm(pack(latents, patch).to(self.dtype)) + embedded[:, None]
        image = image + self.latent_pos_embed(height // patch, width // patch)
        length = text.shape[1] + image.shape[1]
        whole = torch.ones(batch, length, dtype=torch.bool, device=latents.device)
        seen = torch.cat((context.valid, whole), 1)[:, None]
        position = context.position[:, None].expand(-1, length)
        _, states, extended = self._walk_layers(context, text, image, embedded, position, seen)
        assert states is not None
        return states, extended, seen.shape[-1]

    def _walk_layers(
        self,
        context: Context,
        text: Tensor,
        image: Tensor | None,
        time: Tensor | None,
        position: Tensor,
        seen: Tensor,
    ) -> tuple[Tensor, Tensor | None, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        turn = rotary(position, self.config.head_dim, self.config.rope_theta, text.dtype)
        mask = seen[:, None]
        keys, values = [], []
        for layer, past in zip(
            self.language_model.model.layers, zip(context.keys, context.values, strict=True), strict=True
        ):
            text, image, (key, value) = layer(text, image, time, turn, past, mask)
            keys.append(key)
            values.append(value)
        return text, image, (tuple(keys), tuple(values))
