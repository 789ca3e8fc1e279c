"""Janus as a policy of texts and of image codes: both are tokens of one causal language model.

A text is read by the model's word embeddings and predicted by its language head.  An image is N codes of a VQ
autoencoder (arXiv 2501.17811, section 2): an embedding and an MLP of their own read them, a head of their own predicts
them.  The word that begins an image comes before them.  Weights and forward pass are transformers'.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import Tensor, nn

from unigrpo.errors import ConfigError
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.libraries import Foreign
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.policy import Modality


class JanusPolicy(nn.Module):
    """Implements :class:`~unigrpo.models.policy.CodePolicy`; images that are given, or followed, it cannot read.

    Args:
        model: ``JanusForConditionalGeneration``; its dense products are made exact.  Its vision tower and its VQ
            autoencoder are frozen.
        begin: token id of the word that begins an image.
        backbone: the modality whose parameters the language model counts among, as both use it.
    """

    def __init__(self, model: Foreign, begin: int, backbone: Modality = "text"):
        super().__init__()
        self.language = CausalLM(model, "model=janus")
        self.begin, self.backbone = begin, backbone
        self.language.thaw()
        for part in self._painting_parts():
            part.requires_grad_(True)

    @property
    def janus(self) -> Foreign:
        """The model of transformers."""
        return self.language.model

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.language.device

    @property
    def num_image_codes(self) -> int:
        """K, which is itself the token that begins an image."""
        found: int = self.janus.model.generation_embeddings.num_embeddings
        return found

    def __deepcopy__(self, memo: dict[int, object]) -> JanusPolicy:
        """Another policy with weights of its own; what is never trained is there once."""
        inner = self.janus.model
        memo |= {id(part): part for part in (inner.vision_model, inner.aligner, inner.vqmodel)}
        other = memo[id(self)] = type(self).__new__(type(self))
        other.__dict__ = copy.deepcopy(self.__dict__, memo)
        return other

    def start(self, batch: int) -> MoTContext:
        """The empty context of ``batch`` rows."""
        return self.language.start(batch)

    def extend_text(
        self, context: MoTContext, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, MoTContext]:
        """Append tokens [B, L] where ``mask`` holds; logits [B, L, V], or [B, 0, V], and the longer context."""
        return self.language.extend_text(context, tokens, mask, logits=logits)

    def extend_codes(
        self, context: MoTContext, tokens: Tensor, alive: Tensor, first: int = 0
    ) -> tuple[Tensor, MoTContext]:
        """Append some of an image's N + 1 tokens, the ``first`` being in the context; next-code logits [B, L, K].

        They are [B, L]; each takes a position, as words do, where ``alive`` [B] holds.  No token ends an image.
        """
        opens = int(first == 0)
        begin = self.language.embed(torch.full_like(tokens[:, :opens], self.begin))
        codes = self.janus.prepare_embeddings_for_image_generation(tokens[:, opens:])
        # In the dtype of words, also under autocast.
        embedded = torch.cat((begin, codes.to(begin.dtype)), 1)
        states, longer = self.language.extend(context, embedded, alive[:, None].expand(tokens.shape))
        return self.janus.model.generation_head(states), longer

    def codes_of(self, latents: Tensor) -> Tensor:
        """Latents [B, 1, h, w], which are the codes themselves -> codes [B, h * w] int64, row by row."""
        return latents.flatten(1).long()

    def latents_of(self, codes: Tensor) -> Tensor:
        """The inverse of :meth:`codes_of`, fp32, in which every code of up to 2**24 is exact."""
        return codes.unflatten(1, (1, *self.janus.model.vqmodel.quantize.quant_state_dims)).float()

    def extend_image(self, context: MoTContext, latents: Tensor, alive: Tensor) -> MoTContext:
        """Refuse: it reads images in codes alone."""
        _refuse("reads no images", "image_head=tokens and episode=single_round")

    def velocity(self, context: MoTContext, x: Tensor, t: Tensor) -> Tensor:
        """Refuse: it paints in tokens."""
        _refuse("has no velocity", "image_head=tokens")

    def parameters_of(self, modality: Modality) -> Iterator[nn.Parameter]:
        """Trainable parameters: of what reads and predicts codes, or of the head of words; the backbone with either."""
        parts = self._painting_parts()
        if self.backbone == "image":
            parts.append(self.janus.get_decoder())
        image = {id(parameter) for part in parts for parameter in part.parameters()}
        for parameter in self.parameters():
            if parameter.requires_grad and (id(parameter) in image) == (modality == "image"):
                yield parameter

    def _painting_parts(self) -> list[nn.Module]:
        inner = self.janus.model
        return [inner.generation_embeddings, inner.generation_aligner, inner.generation_head]


def _refuse(lacks: str, way_out: str) -> NoReturn:
    raise ConfigError(f"model=janus: {lacks}; use {way_out}")
