"""Mixture of transformers in BAGEL's architecture: two experts, one shared attention.

Text tokens, and the two markers that enclose a picture, go through the text expert; latent patches, noised or clean,
through the generation expert (``_moe_gen``).  All tokens of a sequence attend in one shared attention: text causally,
the tokens of a picture to each other and to everything before.  A picture takes one rotary position.  Parameter names
are those of the published BAGEL-7B-MoT weights (arXiv 2505.14683).

With ``code_levels`` pictures are painted token by token instead: the generation expert reads and predicts codes of a
quantised autoencoder, causally, row by row.  Nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from unigrpo.checks import ShapeError
from unigrpo.models.linear import Linear
from unigrpo.models.mot.configuration import MoTConfig
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.mot.decoder import DecoderLayer, LanguageModel, Read, rotary
from unigrpo.models.policy import Modality
from unigrpo.models.quantised import FiniteScalars


class TimestepEmbedder(nn.Module):
    """t in [0, 1] -> hidden, through 128 cosines and sines and a two-layer MLP."""

    FREQUENCIES = 128

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(2 * self.FREQUENCIES, width), nn.SiLU(), Linear(width, width))

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
        """[height * width, hidden]: an image occupies the table's top left corner.

        Raises:
            ShapeError: it is larger than the table.
        """
        if max(height, width) > self.side:
            raise ShapeError(f"an image of {height} x {width} tokens: expected at most {self.side} a side")
        row = torch.arange(height, device=self.pos_embed.device)
        column = torch.arange(width, device=self.pos_embed.device)
        return self.pos_embed[(row[:, None] * self.side + column).flatten()]


class Connector(nn.Module):
    """Features of a vision encoder to tokens of the text expert: BAGEL's MLP of two layers, and its table of places.

    Args:
        channels: D of the features.
        width: of the tokens.
        side: of the table; 0 for features without places.
    """

    def __init__(self, channels: int, width: int, side: int = 0):
        super().__init__()
        self.fc1, self.act, self.fc2 = Linear(channels, width), nn.GELU("tanh"), Linear(width, width)
        self.places = LatentPositions(side, width) if side else None

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, D], or [B, N, D + 1] whose last channel is a place in the table -> [B, N, hidden]."""
        dtype = self.fc1.weight.dtype
        if self.places is None:
            return self.fc2(self.act(self.fc1(features.to(dtype))))
        tokens = self.fc2(self.act(self.fc1(features[..., :-1].to(dtype))))
        return tokens + self.places.pos_embed[features[..., -1].long()]


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


class MoTPolicy(nn.Module):
    """The unified policy: implements :class:`~unigrpo.models.policy.Policy`.

    Attributes:
        config: its sizes and switches.
        connector: features [B, N, D] of a vision encoder -> tokens [B, N, hidden] that the text expert reads behind a
            picture; None for a policy that reads latents alone.
    """

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.language_model = LanguageModel(config)
        if config.code_levels:
            self.scalars = FiniteScalars(config.code_levels)
            self.code2llm = nn.Embedding(self.num_image_codes + 1, width)
            self.llm2code = Linear(width, self.num_image_codes)
        else:
            self.time_embedder = TimestepEmbedder(width)
            self.vae2llm = Linear(config.token_channels, width)
            self.llm2vae = Linear(width, config.token_channels)
        self.latent_pos_embed = LatentPositions(config.max_latent_size, width)
        channels, places = config.vision_channels, config.vision_positions
        self.connector: nn.Module | None = Connector(channels, width, places) if channels else None
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if self.config.hidden_size > 512 else 0.05)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.language_model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, hence of its contexts."""
        return self.language_model.lm_head.weight.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a painted picture."""
        height, width = self.config.latent_size
        return self.config.latent_channels, height, width

    @property
    def num_image_codes(self) -> int:
        """Number of codes; itself the token that begins a picture."""
        return self.scalars.size

    def start(self, batch: int) -> MoTContext:
        """The empty context of ``batch`` rows."""
        config, device, dtype = self.config, self.device, self.dtype
        empty = torch.zeros(batch, config.num_key_value_heads, 0, config.head_dim, device=device, dtype=dtype)
        layers = (empty,) * config.num_hidden_layers
        valid = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        return MoTContext(layers, layers, valid, torch.zeros(batch, dtype=torch.int64, device=device))

    def extend_text(
        self, context: MoTContext, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, MoTContext]:
        """Append tokens [B, L] where ``mask`` holds; logits [B, L, V], or [B, 0, V], and the longer context."""
        length = tokens.shape[1]
        order = mask.long().cumsum(1)
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        seen = torch.cat((context.valid[:, None].expand(-1, length, -1), causal & mask[:, None]), -1)
        # A padded query looks at itself alone: softmax over nothing would be NaN, and its state is never read.
        alone = torch.eye(length, dtype=torch.bool, device=tokens.device) & ~mask[:, :, None]
        seen[:, :, context.valid.shape[1] :] |= alone
        states = self.language_model.model.embed_tokens(tokens)
        read: Read = "all" if logits else "none"
        states, _, extended = self._walk_layers(
            context, states, None, None, context.position[:, None] + order - 1, seen, read
        )
        scores = self.language_model.lm_head(self.language_model.model.norm(states if logits else states[:, :0]))
        valid = torch.cat((context.valid, mask), 1)
        return scores, replace(extended, valid=valid, position=context.position + order[:, -1])

    def extend_image(self, context: MoTContext, latents: Tensor, alive: Tensor) -> MoTContext:
        """Append a clean picture [B, C, H, W] (t = 0) between its two markers, where ``alive`` [B] bool holds."""
        time = torch.zeros(latents.shape[0], device=latents.device)
        _, extended = self._image_block(context, latents, time, "none")
        valid = alive[:, None].expand(-1, extended.keys[0].shape[2] - context.valid.shape[1])
        return replace(extended, valid=torch.cat((context.valid, valid), 1), position=context.position + alive)

    def extend_features(self, context: MoTContext, features: Tensor, alive: Tensor) -> MoTContext:
        """Append features [B, N, D] of a picture between two markers: all see each other, at one position."""
        assert self.connector is not None, "no connector: the configuration has vision_channels=0"
        # As the embeddings of words: in the weights' dtype, also under autocast.
        read = self.connector(features).to(self.dtype)
        tokens = torch.cat((self._markers(len(read)), read), 1)
        valid = torch.cat((context.valid, alive[:, None].expand(-1, tokens.shape[1])), 1)
        # Rows without the picture look too: softmax over nothing would be NaN, and nothing reads their state.
        seen = torch.cat((context.valid, torch.ones_like(valid[:, context.valid.shape[1] :])), 1)[:, None]
        position = context.position[:, None].expand(-1, tokens.shape[1])
        _, _, extended = self._walk_layers(context, tokens, None, None, position, seen, "none")
        return replace(extended, valid=valid, position=context.position + alive)

    def velocity(self, context: MoTContext, x: Tensor, t: Tensor) -> Tensor:
        """Noise - data at ``x`` [B, C, H, W], ``t`` 0-d or [B]; fp32 or the dtype of ``x`` if wider."""
        time = t.to(x.device, torch.float32).expand(x.shape[0])
        states, _ = self._image_block(context, x, time, "image", keep=False)
        tokens = self.llm2vae(self.language_model.model.norm_moe_gen(states)).to(x.dtype)
        out = unpack(tokens, self.config.latent_patch_size, x.shape[2], x.shape[3])
        if self.config.prediction == "velocity":
            return out
        return (x - out) / time.to(x.dtype).clamp(min=1e-3)[:, None, None, None]

    def extend_codes(
        self, context: MoTContext, tokens: Tensor, alive: Tensor, first: int = 0
    ) -> tuple[Tensor, MoTContext]:
        """Append tokens of a picture that is painted token by token, where ``alive`` [B] bool holds.

        The N + 1 tokens of a picture are the one that begins it and its N codes, each at the 2-D position of its pixel.
        The first marker comes in with the first of them, the last marker with the last.

        Args:
            context: ends before the picture, or inside it.
            tokens: [B, L] int64, some of them in a row.
            alive: [B] bool.
            first: how many of them the context holds.

        Returns:
            Logits [B, L, K] of the code that follows each of them, and the longer context.
        """
        config, (batch, length) = self.config, tokens.shape
        places = self.latent_pos_embed(*config.latent_size)
        begins, ends = first == 0, first + length > len(places)
        markers = [config.start_of_image_id] * begins + [config.end_of_image_id] * ends
        text = self.language_model.model.embed_tokens(torch.tensor(markers, dtype=torch.int64, device=tokens.device))
        image = self.code2llm(tokens) + torch.cat((torch.zeros_like(places[:1]), places))[first : first + length]
        # A block's markers stand before its other tokens; what comes when is said by the mask.
        order = torch.tensor([-1] * begins + [length] * ends + list(range(length)), device=tokens.device)
        causal = (order[:, None] >= order).expand(batch, -1, -1)
        seen = torch.cat((context.valid[:, None].expand(-1, len(order), -1), causal), -1)
        position = context.position[:, None].expand(-1, len(order))
        _, states, extended = self._walk_layers(
            context, text.expand(batch, -1, -1), image, None, position, seen, "image"
        )
        assert states is not None
        valid = torch.cat((context.valid, alive[:, None].expand(-1, len(order))), 1)
        logits = self.llm2code(self.language_model.model.norm_moe_gen(states))
        return logits, replace(extended, valid=valid, position=context.position + alive * ends)

    def codes_of(self, latents: Tensor) -> Tensor:
        """Codes [B, N] int64 of a quantised autoencoder's latents [B, C, H, W]."""
        return self.scalars.codes(latents)

    def latents_of(self, codes: Tensor) -> Tensor:
        """The inverse of :meth:`codes_of`."""
        return self.scalars.latents(codes, *self.config.latent_size)

    def parameters_of(self, modality: Modality) -> Iterator[nn.Parameter]:
        """Trainable parameters of the text expert (with embeddings and head) or of the generation expert."""
        image = {id(parameter) for module in self._image_modules() for parameter in module.parameters()}
        for parameter in self.parameters():
            if parameter.requires_grad and (id(parameter) in image) == (modality == "image"):
                yield parameter

    def _image_modules(self) -> Iterator[nn.Module]:
        yield self.language_model.model.norm_moe_gen
        if self.config.code_levels:
            yield from (self.code2llm, self.llm2code)
        else:
            yield from (self.time_embedder, self.vae2llm, self.llm2vae)
        for layer in self.language_model.model.layers:
            assert isinstance(layer, DecoderLayer)
            if layer.modulation is not None:
                yield layer.modulation
            for owner, names in (
                (layer, ("mlp", "input_layernorm", "post_attention_layernorm")),
                (layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
            ):
                yield from (owner.get_submodule(f"{name}_moe_gen") for name in names)

    def _markers(self, batch: int) -> Tensor:
        """Start and end of an image, [batch, 2, hidden], tokens of the text expert.

        They stand before the block's other tokens instead of around them: within a picture attention is full and all
        tokens share one position, so order has no effect and no token needs to be moved between experts.
        """
        ids = torch.tensor([self.config.start_of_image_id, self.config.end_of_image_id], device=self.device)
        return self.language_model.model.embed_tokens(ids).expand(batch, -1, -1)

    def _image_block(
        self, context: MoTContext, latents: Tensor, time: Tensor, read: Read, *, keep: bool = True
    ) -> tuple[Tensor, MoTContext]:
        """States of a picture's tokens, and keys and values with it and its markers appended."""
        config = self.config
        batch, _, height, width = latents.shape
        patch = config.latent_patch_size
        text = self._markers(batch)
        embedded = self.time_embedder(time)
        image = self.vae2llm(pack(latents, patch).to(self.dtype)) + embedded[:, None]
        image = image + self.latent_pos_embed(height // patch, width // patch)
        length = text.shape[1] + image.shape[1]
        whole = torch.ones(batch, length, dtype=torch.bool, device=latents.device)
        seen = torch.cat((context.valid, whole), 1)[:, None]
        position = context.position[:, None].expand(-1, length)
        _, states, extended = self._walk_layers(context, text, image, embedded, position, seen, read, keep=keep)
        assert states is not None
        return states, extended

    def _walk_layers(
        self,
        context: MoTContext,
        text: Tensor,
        image: Tensor | None,
        time: Tensor | None,
        position: Tensor,
        seen: Tensor,
        read: Read,
        *,
        keep: bool = True,
    ) -> tuple[Tensor, Tensor | None, MoTContext]:
        """States after the last layer of the experts that are ``read``, and the context with all keys and values.

        What nobody reads is not computed in the last layer.  Unless they are to ``keep``, the keys and values of a
        layer are gone when the next one begins.  Which of the new places are valid, and at what position they end, is
        the caller's to say.
        """
        turn = rotary(position, self.config.head_dim, self.config.rope_theta, text.dtype)
        mask = seen[:, None]
        pasts, room = context.layers(position.shape[1])
        layers = self.language_model.model.layers
        keys, values = [], []
        for number, (layer, past) in enumerate(zip(layers, pasts, strict=True), start=1):
            of_layer = read if number == len(layers) else "all"
            text, image, (key, value) = layer(text, image, time, turn, past, mask, of_layer)
            if keep:
                keys.append(key)
                values.append(value)
        return text, image, replace(context, keys=tuple(keys), values=tuple(values), room=room)
