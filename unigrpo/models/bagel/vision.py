"""BAGEL's vision encoder: SigLIP with a dense patch embedding and a table of positions, for images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unigrpo.models.bagel.layout import VisionConfig
from unigrpo.models.bagel.sizes import Resize
from unigrpo.models.mot.policy import pack


class BagelVision(nn.Module):
    """A :class:`~unigrpo.models.vision.VisionEncoder`; computes in fp32, whatever its weights were kept in.

    An image is not brought to a square: its patches take the top left corner of the table of positions.  The last
    channel of a feature is the number of its place there, for the connector has a table of the same places.

    Args:
        config: its sizes.
    """

    #: Shorter side that an image is brought to, in pixels; the official inferencer's.
    SMALLEST = 224

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        self.resize = Resize(config.image_size, min(self.SMALLEST, config.image_size), patch)
        self.embeddings = _Embeddings(patch * patch * config.num_channels, config.side**2, width)
        self.encoder = _encoder(config)
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> features [B, N, D + 1] fp32, patches row by row."""
        size = self.resize(*pixels.shape[2:])
        seen = pixels.float()
        if size != tuple(pixels.shape[2:]):
            # As images of 8 bits they never leave their range.
            seen = interpolate(seen, size, mode="bicubic", antialias=True).clamp(-1, 1)
        patch = self.config.patch_size
        rows, columns = (torch.arange(side // patch, device=pixels.device) for side in size)
        places = (rows[:, None] * self.config.side + columns).flatten()
        states = self.encoder(inputs_embeds=self.embeddings(pack(seen, patch), places)).last_hidden_state
        features = self.post_layernorm(states)
        return torch.cat((features, places.to(features).expand(len(pixels), -1)[..., None]), -1)


class _Embeddings(nn.Module):
    """Patches [B, N, values] at places [N] of the table -> [B, N, hidden]."""

    def __init__(self, values: int, places: int, width: int):
        super().__init__()
        self.patch_embedding = nn.Linear(values, width)
        self.position_embedding = nn.Embedding(places, width)

    def forward(self, patches: Tensor, places: Tensor) -> Tensor:
        return self.patch_embedding(patches) + self.position_embedding(places)


def _encoder(config: VisionConfig) -> nn.Module:
    """SigLIP's layers, those of transformers: [B, N, hidden] -> an object with ``last_hidden_state``."""
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipEncoder

    found = SiglipVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        patch_size=config.patch_size,
        image_size=config.image_size,
        num_channels=config.num_channels,
        layer_norm_eps=config.layer_norm_eps,
        hidden_act="gelu_pytorch_tanh",
    )
    found._attn_implementation = "sdpa"
    return SiglipEncoder(found)
