"""A policy of another make: a causal LM of transformers says, a DiT of diffusers paints, and no cache is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tokenizers
import torch
from torch import Tensor, nn

from unigrpo.models import LoadedModel, Model
from unigrpo.models.autoencoder import TinyAutoencoder
from unigrpo.models.linear import Linear, exact_linears
from unigrpo.models.policy import Modality
from unigrpo.models.processor import LatentGrid, StandardProcessor
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.registry import register

CHANNELS, SIDE, WIDTH = 3, 4, 32
ROLES = {
    "pad": "<|endoftext|>",
    "bos": "<|im_start|>",
    "eos": "<|im_end|>",
    "start_of_image": "<|vision_start|>",
    "end_of_image": "<|vision_end|>",
}


@dataclass(frozen=True)
class Whole:
    """What the LM has read, as it went in and as it came out.

    Attributes:
        embeds: [B, T, D] what went in.
        states: [B, T, D] what came out, which the DiT sees.
        valid: [B, T] bool.
    """

    embeds: Tensor
    states: Tensor
    valid: Tensor

    @property
    def batch(self) -> int:
        return len(self.valid)

    def repeat(self, times: int) -> Whole:
        return Whole(*(part.repeat_interleave(times, 0) for part in self._parts()))

    def rows(self, index: Tensor) -> Whole:
        return Whole(*(part[index] for part in self._parts()))

    def detach(self) -> Whole:
        return Whole(*(part.detach() for part in self._parts()))

    def followed_by(self, longer: Whole) -> Whole:
        length = self.valid.shape[1]
        pairs = ((self.embeds, longer.embeds), (self.states, longer.states))
        joined = (torch.cat((mine, theirs[:, length:].detach()), 1) for mine, theirs in pairs)
        return Whole(*joined, longer.valid)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.embeds, self.states, self.valid


class ComposedPolicy(nn.Module):
    """Two modules and the connector that shows images to the LM."""

    def __init__(self, vocab_size: int, seed: int = 0, tied: bool = False):
        # Slow, and every worker reads this file.
        from diffusers import SD3Transformer2DModel
        from transformers import Qwen3Config, Qwen3ForCausalLM

        super().__init__()
        config = Qwen3Config(
            vocab_size=vocab_size, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied, attn_implementation="eager",
        )  # fmt: skip
        self.lm = exact_linears(Qwen3ForCausalLM(config))
        self.dit = exact_linears(
            SD3Transformer2DModel(
                sample_size=SIDE, patch_size=1, in_channels=CHANNELS, num_layers=2, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
                pooled_projection_dim=WIDTH, out_channels=CHANNELS, pos_embed_max_size=8,
            )
        )  # fmt: skip
        self.connector = Linear(CHANNELS, WIDTH)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # zero-initialised layers too, or half of the model would do nothing
            for parameter in self.parameters():
                scale = 0.2 if parameter.ndim == 1 else 1.0 / parameter[0].numel() ** 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) + (parameter == 1).all())

    @property
    def device(self) -> torch.device:
        return self.connector.weight.device

    def start(self, batch: int) -> Whole:
        nothing = torch.zeros(batch, 0, WIDTH, device=self.device)
        return Whole(nothing, nothing, torch.zeros(batch, 0, dtype=torch.bool, device=self.device))

    def extend_text(self, context: Whole, tokens: Tensor, mask: Tensor, *, logits: bool = True) -> tuple[Tensor, Whole]:
        longer = self._read(context, self.lm.get_input_embeddings()(tokens), mask)
        new = longer.states[:, context.valid.shape[1] :]
        return self.lm.lm_head(new if logits else new[:, :0]), longer

    def extend_image(self, context: Whole, latents: Tensor, alive: Tensor) -> Whole:
        seen = self.connector(latents.flatten(2).transpose(1, 2))
        return self._read(context, seen, alive[:, None].expand(-1, seen.shape[1]))

    def velocity(self, context: Whole, x: Tensor, t: Tensor) -> Tensor:
        said = context.states.where(context.valid[..., None], 0.0).sum(1)
        said = said / context.valid.sum(1).clamp(min=1)[:, None]
        time = 1000 * t.to(x.device, x.dtype).expand(len(x))
        return self.dit(x, said[:, None], said, time, return_dict=False)[0]

    def parameters_of(self, modality: Modality) -> Iterator[nn.Parameter]:
        modules = (self.lm,) if modality == "text" else (self.dit, self.connector)
        return (p for module in modules for p in module.parameters() if p.requires_grad)

    def _read(self, context: Whole, embeds: Tensor, mask: Tensor) -> Whole:
        """All of it once more; a padded token sees itself alone, and nobody sees it."""
        embeds, valid = torch.cat((context.embeds, embeds), 1), torch.cat((context.valid, mask), 1)
        length = valid.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=self.device).tril() & valid[:, None]
        seen = seen | torch.eye(length, dtype=torch.bool, device=self.device)
        bias = torch.zeros(seen.shape, device=self.device).masked_fill(~seen, torch.finfo(torch.float32).min)
        places = (valid.long().cumsum(1) - 1).clamp(min=0)
        found = self.lm.model(
            inputs_embeds=embeds, attention_mask=bias[:, None], position_ids=places, use_cache=False
        ).last_hidden_state
        # What was read before comes out again, with other bits perhaps: it stays what it was.
        return Whole(embeds, torch.cat((context.states, found[:, context.valid.shape[1] :]), 1), valid)


@cache
def tokenizer() -> Tokenizer:
    """Byte-level BPE with the special tokens of Qwen."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(ROLES.values()),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["a red kite, a blue boat"] * 3, trainer)
    return Tokenizer(inner, ROLES)


@register("model", "composed", source="the tests")
@dataclass(frozen=True)
class Composed(Model):
    """A tiny Qwen3 and a tiny SD3 with random weights."""

    seed: int = 0
    tied: bool = False
    """Whether the embedding of words is their head too."""

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
        torch.manual_seed(self.seed)
        autoencoder = TinyAutoencoder(CHANNELS, 8).eval().requires_grad_(False)
        grid = LatentGrid(CHANNELS, SIDE, SIDE, patch=1, largest=8)
        policy = ComposedPolicy(len(tokenizer()), self.seed, self.tied).to(device, dtype).eval()
        return LoadedModel(policy, StandardProcessor(tokenizer(), autoencoder, grid).to(device))

    def save(self, folder: Path, loaded: LoadedModel) -> None:
        tokenizer().save(folder / "tokenizer.json")
        super().save(folder, loaded)
