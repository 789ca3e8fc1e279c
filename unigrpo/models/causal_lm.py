"""Any causal language model of transformers, as the part of a policy that writes.

Its weights, its forward pass and its cache's layout are the library's.  The cache itself is kept as
:class:`~unigrpo.models.mot.context.MoTContext`, which is never changed in place: groups share it, and gradients flow
through it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unigrpo.errors import ConfigError
from unigrpo.models.linear import exact_linears
from unigrpo.models.mot.context import MoTContext


class CausalLM(nn.Module):
    """A causal language model that reads blocks of tokens behind a context.

    Args:
        model: with a head of words, such as ``AutoModelForCausalLM`` loads; its dense products are made exact.
        named: what messages call it.

    Raises:
        ConfigError: it has no head, or layers that do not see everything before a token.
    """

    def __init__(self, model: Any, named: str):
        super().__init__()
        if model.get_output_embeddings() is None:
            raise ConfigError(f"{named}: {type(model).__name__} has no head that writes words; name a causal LM")
        self.model: Any = exact_linears(model)
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ConfigError(
                f"{named}: expected layers of full attention alone, got {', '.join(sorted(kinds))}; a replay of whole"
                " blocks would not see what its sampling saw"
            )
        self.config: Any = config
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)

    def thaw(self) -> None:
        """Let what reads and writes words want gradients, and nothing else, such as a tower that sees."""
        self.model.requires_grad_(False)
        for part in (self.model.get_decoder(), self._embeddings, self.model.get_output_embeddings()):
            part.requires_grad_(True)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._embeddings.weight.device

    @property
    def _embeddings(self) -> nn.Embedding:
        found: nn.Embedding = self.model.get_input_embeddings()
        return found

    def start(self, batch: int) -> MoTContext:
        """The empty context of ``batch`` rows."""
        config, weight = self.config, self._embeddings.weight
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        empty = torch.zeros(batch, heads, 0, width, device=weight.device, dtype=weight.dtype)
        layers = (empty,) * config.num_hidden_layers
        valid = torch.zeros(batch, 0, dtype=torch.bool, device=weight.device)
        return MoTContext(layers, layers, valid, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] -> what the first layer reads, [B, L, hidden]."""
        found: Tensor = self._embeddings(tokens)
        return found

    def extend_text(
        self, context: MoTContext, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, MoTContext]:
        """Append tokens [B, L] where ``mask`` holds; logits [B, L, V], or [B, 0, V], and the longer context."""
        states, longer = self.extend(context, self.embed(tokens), mask)
        scores = self.model.get_output_embeddings()(states if logits else states[:, :0])
        return (scores if self.cap is None else torch.tanh(scores / self.cap) * self.cap), longer

    def extend(self, context: MoTContext, embedded: Tensor, mask: Tensor) -> tuple[Tensor, MoTContext]:
        """Append what is embedded, [B, L, hidden], where ``mask`` holds; last states, alike, and the longer context."""
        from transformers import DynamicCache

        order = mask.long().cumsum(1)
        cache = DynamicCache(ddp_cache_data=zip(context.keys, context.values, strict=True))
        found = self.model.get_decoder()(
            inputs_embeds=embedded,
            attention_mask=_bias(context.valid, mask, context.keys[0].dtype),
            position_ids=context.position[:, None] + (order - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        longer = MoTContext(
            tuple(layer.keys for layer in cache.layers),
            tuple(layer.values for layer in cache.layers),
            torch.cat((context.valid, mask), 1),
            context.position + order[:, -1],
        )
        return found.last_hidden_state, longer


def _bias(valid: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, [B, 1, L, T + L]: 0 where a token may look, the least number elsewhere.

    A padded token looks at itself alone: softmax over nothing would be NaN, and its state is never read.
    """
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril() & mask[:, None]
    alone = torch.eye(length, dtype=torch.bool, device=mask.device) & ~mask[:, :, None]
    before = valid[:, None] & mask[:, :, None]
    seen = torch.cat((before, causal & mask[:, :, None] | alone), -1)[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, torch.finfo(dtype).min)


def load(folder: Path, device: torch.device, dtype: torch.dtype | None, named: str) -> CausalLM:
    """Read one from a folder in Hugging Face's layout, safetensors only.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    from transformers import AutoModelForCausalLM

    model = pretrained(AutoModelForCausalLM, folder, dtype, named, "a causal language model")
    return CausalLM(model.to(device), named)


def pretrained(kind: Any, folder: Path, dtype: torch.dtype | None, named: str, what: str) -> Any:
    """A model of transformers in evaluation mode, safetensors only.

    Args:
        kind: the class that reads it.
        folder: in Hugging Face's layout.
        dtype: by default that of its weights.
        named: what messages call it.
        what: and what they say that it should be.

    Raises:
        ConfigError: it cannot be read, or lacks weights, which the library would draw at random.
    """
    try:
        model, found = kind.from_pretrained(
            folder,
            dtype=dtype or "auto",
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # the library raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{named}: {folder} cannot be read as {what} ({reason})") from error
    if lacking := sorted(found["missing_keys"]):
        raise ConfigError(f"{named}: {folder}: {len(lacking)} weights are missing, such as {lacking[0]}")
    return model.eval()
