"""BAGEL's forward pass once more, as slowly and plainly as it can be said: the independent side of the parity tests.

One sample, no cache: every token with its expert, its position and its row of one boolean mask; float64; loops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TEXT, IMAGE = "", "_moe_gen"


@dataclass
class Block:
    """Words, or a picture: by its codes, or its latents at time t (0 is clean; noised it is seen by itself alone).

    Or what is seen in one: features [N, D] at ``places`` (row, column) of a table.
    """

    words: list[int] | None = None
    codes: list[int] | None = None
    latents: Tensor | None = None
    t: float = 0.0
    noised: bool = False
    features: Tensor | None = None
    places: list[tuple[int, int]] | None = None


@dataclass
class Token:
    """One token of the sample."""

    state: Tensor
    expert: str
    position: int
    block: int
    time: Tensor | None = None
    is_patch: bool = False


class Reference:
    """The model with the weights of ``state`` (as float64) and the sizes of ``config``."""

    def __init__(self, config: Any, state: dict[str, Tensor]):
        self.config = config
        self.w = {name: tensor.double() for name, tensor in state.items()}

    def __call__(self, blocks: list[Block]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [L, V] of every block of words, and of every picture the head's output [C, H, W] or [N + 1, K]."""
        tokens = self._tokens(blocks)
        mask = self._mask(tokens, blocks)
        for layer in range(self.config.num_hidden_layers):
            self._layer(f"language_model.model.layers.{layer}", tokens, mask)
        texts, pictures = [], []
        for number, block in enumerate(blocks):
            mine = [token for token in tokens if token.block == number]
            if block.words is not None:
                states = [self._norm("language_model.model.norm", token.state) for token in mine]
                texts.append(torch.stack([self.w["language_model.lm_head.weight"] @ state for state in states]))
            elif block.features is None:
                states = [self._norm("language_model.model.norm_moe_gen", t.state) for t in mine if t.is_patch]
                if block.codes is not None:
                    pictures.append(torch.stack([self._linear("llm2code", state) for state in states]))
                    continue
                values = [self._linear("llm2vae", state) for state in states]
                pictures.append(self._unpatch(values, block.latents.shape))
        return texts, pictures

    def _tokens(self, blocks: list[Block]) -> list[Token]:
        tokens: list[Token] = []
        position = 0
        embedding = self.w["language_model.model.embed_tokens.weight"]
        for number, block in enumerate(blocks):
            if block.words is not None:
                for word in block.words:
                    tokens.append(Token(embedding[word], TEXT, position, number))
                    position += 1
                continue
            start, end = self.config.start_of_image_id, self.config.end_of_image_id
            tokens.append(Token(embedding[start], TEXT, position, number))
            if block.codes is not None:
                codes = self.w["code2llm.weight"]
                tokens.append(Token(codes[-1], IMAGE, position, number, is_patch=True))
                for index, code in enumerate(block.codes):
                    state = codes[code] + self._place(*divmod(index, self.config.latent_size[1]))
                    tokens.append(Token(state, IMAGE, position, number, is_patch=True))
            elif block.features is not None:
                for values, place in zip(block.features.double(), block.places or [], strict=True):
                    tokens.append(Token(self._connected(values) + self._place(*place), TEXT, position, number))
            else:
                time = self._time(block.t)
                for row, column, values in self._patches(block.latents):
                    state = self._linear("vae2llm", values) + time + self._place(row, column)
                    tokens.append(Token(state, IMAGE, position, number, time, is_patch=True))
            tokens.append(Token(embedding[end], TEXT, position, number))
            position += 0 if block.noised else 1
        return tokens

    def _mask(self, tokens: list[Token], blocks: list[Block]) -> Tensor:
        mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
        for q, query in enumerate(tokens):
            for k, key in enumerate(tokens):
                if query.block == key.block:
                    mine = blocks[query.block]
                    mask[q, k] = mine.latents is not None or mine.features is not None or k <= q
                else:
                    mask[q, k] = key.block < query.block and not blocks[key.block].noised
        return mask

    def _patches(self, latents: Tensor) -> list[tuple[int, int, Tensor]]:
        channels, height, width = latents.shape
        p = self.config.latent_patch_size
        found = []
        for row in range(height // p):
            for column in range(width // p):
                values = [
                    latents[c, row * p + y, column * p + x] for y in range(p) for x in range(p) for c in range(channels)
                ]
                found.append((row, column, torch.stack(values).double()))
        return found

    def _unpatch(self, values: list[Tensor], shape: torch.Size) -> Tensor:
        channels, height, width = shape
        p = self.config.latent_patch_size
        out = torch.zeros(channels, height, width, dtype=torch.float64)
        for index, token in enumerate(values):
            row, column = divmod(index, width // p)
            rest = iter(token)
            for y in range(p):
                for x in range(p):
                    for c in range(channels):
                        out[c, row * p + y, column * p + x] = next(rest)
        return out

    def _place(self, row: int, column: int) -> Tensor:
        quarter = self.config.hidden_size // 4
        frequencies = [10000.0 ** (-j / quarter) for j in range(quarter)]
        halves = [
            [function(place * f) for f in frequencies] for place in (column, row) for function in (math.sin, math.cos)
        ]
        return torch.tensor([value for half in halves for value in half], dtype=torch.float64)

    def _connected(self, values: Tensor) -> Tensor:
        x = self._linear("connector.fc1", values)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self._linear("connector.fc2", x)

    def _time(self, t: float) -> Tensor:
        angles = [t * 10000.0 ** (-j / 128) for j in range(128)]
        waves = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        hidden = self._linear("time_embedder.mlp.0", torch.tensor(waves, dtype=torch.float64))
        return self._linear("time_embedder.mlp.2", hidden * hidden.sigmoid())

    def _layer(self, prefix: str, tokens: list[Token], mask: Tensor) -> None:
        modulated = [self._modulation(prefix, token) for token in tokens]
        normed = [
            self._norm(f"{prefix}.input_layernorm{token.expert}", token.state) * (1 + m[1]) + m[0]
            for token, m in zip(tokens, modulated, strict=True)
        ]
        attended = self._attention(f"{prefix}.self_attn", tokens, normed, mask)
        for token, m, change in zip(tokens, modulated, attended, strict=True):
            token.state = token.state + (1 + m[2]) * change
            x = self._norm(f"{prefix}.post_attention_layernorm{token.expert}", token.state) * (1 + m[4]) + m[3]
            mlp = f"{prefix}.mlp{token.expert}"
            gate, up = self._linear(f"{mlp}.gate_proj", x), self._linear(f"{mlp}.up_proj", x)
            token.state = token.state + (1 + m[5]) * self._linear(f"{mlp}.down_proj", gate * gate.sigmoid() * up)

    def _modulation(self, prefix: str, token: Token) -> Any:
        if token.time is None or f"{prefix}.modulation.weight" not in self.w:
            return [0.0] * 6
        return self._linear(f"{prefix}.modulation", token.time * token.time.sigmoid()).chunk(6)

    def _attention(self, prefix: str, tokens: list[Token], normed: list[Tensor], mask: Tensor) -> list[Tensor]:
        config = self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        size = config.hidden_size // heads
        q, k, v = [], [], []
        for token, x in zip(tokens, normed, strict=True):
            per_head = {
                name: self._linear(f"{prefix}.{name}_proj{token.expert}", x).reshape(-1, size) for name in "qkv"
            }
            for name, into in (("q", q), ("k", k)):
                head = per_head[name]
                if f"{prefix}.{name}_norm{token.expert}.weight" in self.w:
                    head = self._norm(f"{prefix}.{name}_norm{token.expert}", head)
                into.append(self._rotate(head, token.position))
            v.append(per_head["v"])
        out = []
        for i, token in enumerate(tokens):
            parts = []
            for head in range(heads):
                kv = head // (heads // kv_heads)
                seen = [j for j in range(len(tokens)) if mask[i, j]]
                scores = torch.stack([q[i][head] @ k[j][kv] for j in seen]) / size**0.5
                weights = (scores - scores.max()).exp()
                weights = weights / weights.sum()
                parts.append(sum(weight * v[j][kv] for weight, j in zip(weights, seen, strict=True)))
            out.append(self._linear(f"{prefix}.o_proj{token.expert}", torch.cat(parts)))
        return out

    def _rotate(self, x: Tensor, position: int) -> Tensor:
        half = x.shape[-1] // 2
        out = x.clone()
        for j in range(half):
            angle = position * self.config.rope_theta ** (-2 * j / (2 * half))
            cos, sin = math.cos(angle), math.sin(angle)
            out[:, j] = x[:, j] * cos - x[:, j + half] * sin
            out[:, j + half] = x[:, j + half] * cos + x[:, j] * sin
        return out

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return self.w[f"{name}.weight"] * x / (x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        out = self.w[f"{name}.weight"] @ x
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out
