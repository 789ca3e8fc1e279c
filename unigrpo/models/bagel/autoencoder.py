"""FLUX's autoencoder under its own names, computed by diffusers' ``AutoencoderKL``, whose mathematics is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from unigrpo.models.autoencoder import DiffusersAutoencoder
from unigrpo.models.bagel.layout import AutoencoderConfig, autoencoder_names

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

#: Of the latents, as FLUX has them: ``z = SCALE (mean - SHIFT)``.
SCALE, SHIFT = 0.3611, 0.1159


def autoencoder(config: AutoencoderConfig, weights: Mapping[str, Tensor]) -> DiffusersAutoencoder:
    """The autoencoder with these weights, by FLUX's names; it takes them over and copies none."""
    import torch

    with torch.device("meta"):
        model = _model(config)
    names = autoencoder_names(config)
    model.load_state_dict({mine: _dense(mine, weights[name]) for name, (mine, _) in names.items()}, assign=True)
    return DiffusersAutoencoder(model.eval().requires_grad_(False))


def flux_weights(config: AutoencoderConfig, model: AutoencoderKL) -> dict[str, Tensor]:
    """The weights of such an autoencoder by FLUX's names, in FLUX's layout."""
    weights = model.state_dict()
    return {name: weights[mine].reshape(shape) for name, (mine, shape) in autoencoder_names(config).items()}


def _dense(mine: str, weight: Tensor) -> Tensor:
    """A weight in diffusers' shape: its attention has dense products for convolutions of one pixel."""
    return weight.flatten(1) if ".attentions." in mine and weight.dim() == 4 else weight


def _model(config: AutoencoderConfig) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    levels = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
