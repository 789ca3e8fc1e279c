"""Causal language models of transformers, as the part of a policy that writes.

Its weights, its forward pass and its cache's layout are the library's.  The cache itself is kept as
:class:`~unigrpo.models.mot.context.MoTContext`, which is never changed in place: groups share it, and gradients flow
through it.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from unigrpo.errors import ConfigError
from unigrpo.models.libraries import Foreign
from unigrpo.models.linear import exact_linears
from unigrpo.models.mot.context import MoTContext, Past


class CausalLM(nn.Module):
    """A causal language model that reads blocks of tokens behind a context.

    Args:
        model: with a head of words, such as ``AutoModelForCausalLM`` loads; its dense products are made exact.
        named: what messages call it.

    Raises:
        ConfigError: it has no head, layers that do not see everything before a token, or no such cache.

    Attributes:
        reach: the most tokens of a context, where it has a window or a table of positions; else None.
    """

    def __init__(self, model: Foreign, named: str):
        super().__init__()
        if model.get_output_embeddings() is None:
            raise ConfigError(f"{named}: {type(model).__name__} has no head that writes words; name a causal LM")
        self.model: Foreign = exact_linears(model)
        self.named = named
        self.reach = _reach(model.config.get_text_config(decoder=True), model, named)
        self.sizes = self._sizes(named)

    @torch.no_grad()
    def _sizes(self, named: str) -> list[tuple[int, int, int]]:
        """Heads, width of a key and width of a value in each layer, as they are found behind one token.

        Raises:
            ConfigError: the model cannot be asked as :meth:`_read` asks.
        """
        from transformers import DynamicCache

        token, cache = torch.zeros(1, 1, dtype=torch.int64, device=self.device), DynamicCache()
        mask = torch.ones_like(token, dtype=torch.bool)
        try:
            if "position_ids" not in inspect.signature(self.model.get_decoder().forward).parameters:
                raise TypeError("it takes no positions, and would count padding")
            bias = _bias(mask[:, :0], mask, self._embeddings.weight.dtype)
            self._read(self.embed(token), bias, token, cache, logits=True)
            found = [(layer.keys, layer.values) for layer in cache.layers]
            return [(k.shape[1], k.shape[3], v.shape[3]) for k, v in found]
        except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"{named}: {type(self.model).__name__} cannot go on behind a context by masks, positions and a cache of"
                f" keys and values ({reason}); name a language model of another architecture"
            ) from error

    def thaw(self) -> None:
        """Let what reads and writes words want gradients, and nothing else, such as a tower that sees."""
        self.model.requires_grad_(False)
        for part in (self.model.get_decoder(), self._embeddings, self.model.get_output_embeddings()):
            part.requires_grad_(True)

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end a text of its own, as its ``generation_config`` has them."""
        settings = self.model.generation_config
        found = None if settings is None else settings.eos_token_id
        named = found if isinstance(found, list) else [found]
        return tuple(i for i in named if i is not None and i < self.model.get_output_embeddings().out_features)

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
        weight = self._embeddings.weight
        keys, values = (
            tuple(
                torch.zeros(batch, size[0], 0, size[side], device=weight.device, dtype=weight.dtype)
                for size in self.sizes
            )
            for side in (1, 2)
        )
        valid = torch.zeros(batch, 0, dtype=torch.bool, device=weight.device)
        return MoTContext(keys, values, valid, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] -> what the first layer reads, [B, L, hidden]."""
        found: Tensor = self._embeddings(tokens)
        return found

    def extend_text(
        self, context: MoTContext, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, MoTContext]:
        """Append tokens [B, L] where ``mask`` holds; logits [B, L, V], or [B, 0, V], and the longer context.

        Raises:
            ConfigError: the context would have more tokens than the model can tell apart or see at once.
        """
        found, longer = self._extend(context, self.embed(tokens), mask, logits=logits)
        words = self.model.get_output_embeddings().out_features
        return (found if logits else found.new_zeros(len(tokens), 0, words)), longer

    def extend(self, context: MoTContext, embedded: Tensor, mask: Tensor) -> tuple[Tensor, MoTContext]:
        """Append what is embedded, [B, L, hidden], where ``mask`` holds; last states, alike, and the longer context."""
        return self._extend(context, embedded, mask, logits=False)

    def _extend(
        self, context: MoTContext, embedded: Tensor, mask: Tensor, *, logits: bool
    ) -> tuple[Tensor, MoTContext]:
        from transformers import Cache

        order = mask.long().cumsum(1)
        # Places with padding are at least as many as tokens, and known without a look at the device.
        if self.reach is not None and context.valid.shape[1] + mask.shape[1] > self.reach:
            self.check_length(int((context.position + order[:, -1]).max()))
        pasts, room = context.layers(embedded.shape[1])
        cache = Cache(layers=[_layers()(past) for past in pasts])
        # A padded token has the place of the one before it: a table of positions may have none behind that.
        places = (context.position[:, None] + order - 1).clamp(min=0)
        found = self._read(embedded, _bias(context.valid, mask, context.keys[0].dtype), places, cache, logits=logits)
        longer = MoTContext(
            tuple(layer.keys for layer in cache.layers),
            tuple(layer.values for layer in cache.layers),
            torch.cat((context.valid, mask), 1),
            context.position + order[:, -1],
            room,
        )
        return found, longer

    def check_length(self, tokens: int) -> None:
        """Refuse a context of so many tokens where it has more than :attr:`reach`.

        Raises:
            ConfigError: it has.
        """
        if self.reach is not None and tokens > self.reach:
            raise ConfigError(
                f"{self.named}: {type(self.model).__name__} reads up to {self.reach} tokens, by its window or its table"
                f" of positions, but prompt and reply have {tokens}; make them shorter, such as by episode.max_thinking"
            )

    def _read(self, embedded: Tensor, bias: Tensor, places: Tensor, cache: Foreign, *, logits: bool) -> Tensor:
        """The library's own pass, which lengthens ``cache``: logits as the model scales and caps them, or states."""
        given = {
            "inputs_embeds": embedded,
            "attention_mask": bias,
            "position_ids": places,
            "past_key_values": cache,
            "use_cache": True,
        }
        found: Tensor
        found = self.model(**given).logits if logits else self.model.get_decoder()(**given).last_hidden_state
        return found


@functools.cache
def _layers() -> type[Foreign]:
    """The library's layer of a cache, but the context chooses its memory; the library copies all at every token."""
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):
        def __init__(self, past: Past):
            super().__init__()
            self.past, self.keys, self.values, self.is_initialized = past, past.keys, past.values, True

        def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
            self.keys, self.values = self.past.append(key_states, value_states)
            return self.keys, self.values

    return Layer


def _reach(config: Foreign, model: Foreign, named: str) -> int | None:
    """The most tokens for which each sees all before it and has a position of its own; None where there is no bound.

    Raises:
        ConfigError: there are layers that see only some of what is before a token, however little that is.
    """
    listed = getattr(config, "layer_types", None)
    kinds = set(listed or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"{named}: expected layers of full attention, or with a window, got {', '.join(sorted(kinds))}; a replay of"
            " whole blocks would not see what its sampling saw"
        )
    # Older architectures have one window for all layers, and no list of kinds.
    windowed = "sliding_attention" in kinds if listed else True
    window = getattr(config, "sliding_window", None) if windowed else None
    rows, words = getattr(config, "max_position_embeddings", 0) or 0, model.get_input_embeddings()
    # OPT leaves two rows of its table unused.
    tables = [
        part
        for part in model.get_decoder().modules()
        if isinstance(part, nn.Embedding) and part is not words and rows <= part.num_embeddings <= rows + 2
    ]
    bounds = [bound for bound in (window, rows if tables else None) if bound]
    return min(bounds, default=None)


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
    """Read one from a folder in Hugging Face's layout, safetensors only; fp32 by default, whatever the files have.

    Steps of a small learning rate would be rounded away in bf16.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    from transformers import AutoModelForCausalLM

    model = pretrained(AutoModelForCausalLM, folder, dtype or torch.float32, named, "a causal language model")
    return CausalLM(model.to(device), named)


def pretrained(kind: Foreign, folder: Path, dtype: torch.dtype | None, named: str, what: str) -> Foreign:
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
