"""Names and dimensions in a published BAGEL folder, and what they are called here: data and functions, without torch.

The policy's names are the published ones but for one table (:func:`ours`).  The autoencoder's are those of FLUX, each
paired with the name of the same weight in diffusers' ``AutoencoderKL`` (:func:`autoencoder_names`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unigrpo.models.mot.configuration import MoTConfig

Shape = tuple[int, ...]
Dims = Mapping[str, Shape]

#: Before every name of the vision encoder.
VISION_PREFIX = "vit_model.vision_model."
#: The two tables of 2-D positions: fixed by a formula, so that a folder may lack them.
LATENT_PLACES, VISION_PLACES = "latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"
#: What BAGEL calls otherwise than :class:`~unigrpo.models.mot.policy.MoTPolicy`.
_OURS = {VISION_PLACES: "connector.places.pos_embed"}
_THEIRS = {mine: theirs for theirs, mine in _OURS.items()}
#: Of the time embedding: 128 cosines and 128 sines.
_WAVES = 256


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision encoder, SigLIP's.

    Attributes:
        hidden_size: D of its features.
        intermediate_size: of its MLPs.
        num_hidden_layers: layers that are there, one less than ``vit_config.json`` says.
        num_attention_heads: of each.
        patch_size: side of the square of pixels behind one feature.
        image_size: longest side of an image.
        num_channels: of an image.
        layer_norm_eps: epsilon of every LayerNorm.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    image_size: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    @property
    def side(self) -> int:
        """Places in a row of its table of positions."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder, FLUX's.

    Attributes:
        channels: of each level, from the image to the latents.
        blocks: residual blocks of a level on the way down; one more on the way up.
        latent_channels: of the latents.
    """

    channels: tuple[int, ...]
    blocks: int
    latent_channels: int

    @property
    def factor(self) -> int:
        """Side of the square of pixels behind one latent pixel."""
        return 2 ** (len(self.channels) - 1)


def ours(name: str) -> str:
    """The policy's name of a published weight."""
    return _OURS.get(name, name)


def theirs(name: str) -> str:
    """The published name of a weight of the policy."""
    return _THEIRS.get(name, name)


def policy_dims(config: MoTConfig) -> dict[str, Shape]:
    """Published name -> shape of all weights of a policy."""
    h, token = config.hidden_size, config.token_channels
    dims: dict[str, Shape] = {
        "language_model.model.embed_tokens.weight": (config.vocab_size, h),
        "language_model.lm_head.weight": (config.vocab_size, h),
        "language_model.model.norm.weight": (h,),
        "language_model.model.norm_moe_gen.weight": (h,),
        LATENT_PLACES: (config.max_latent_size**2, h),
        **_linear("time_embedder.mlp.0", h, _WAVES),
        **_linear("time_embedder.mlp.2", h, h),
        **_linear("vae2llm", h, token),
        **_linear("llm2vae", token, h),
    }
    for layer in range(config.num_hidden_layers):
        for expert in ("", "_moe_gen"):
            dims |= _layer_dims(config, f"language_model.model.layers.{layer}", expert)
    if config.vision_channels:
        dims[VISION_PLACES] = (config.vision_positions**2, h)
        dims |= _linear("connector.fc1", h, config.vision_channels) | _linear("connector.fc2", h, h)
    return dims


def _layer_dims(config: MoTConfig, at: str, expert: str) -> dict[str, Shape]:
    """One layer's weights of one expert: ``q_proj_moe_gen.weight``, but ``mlp_moe_gen.up_proj.weight``."""
    h, i, d = config.hidden_size, config.intermediate_size, config.head_dim
    narrow = config.num_key_value_heads * d
    attention, mlp = f"{at}.self_attn", f"{at}.mlp{expert}"
    return {
        **_linear(f"{attention}.q_proj{expert}", h, h),
        **_linear(f"{attention}.k_proj{expert}", narrow, h),
        **_linear(f"{attention}.v_proj{expert}", narrow, h),
        f"{attention}.o_proj{expert}.weight": (h, h),
        f"{attention}.q_norm{expert}.weight": (d,),
        f"{attention}.k_norm{expert}.weight": (d,),
        f"{mlp}.gate_proj.weight": (i, h),
        f"{mlp}.up_proj.weight": (i, h),
        f"{mlp}.down_proj.weight": (h, i),
        f"{at}.input_layernorm{expert}.weight": (h,),
        f"{at}.post_attention_layernorm{expert}.weight": (h,),
    }


def vision_dims(config: VisionConfig) -> dict[str, Shape]:
    """Published name -> shape of all weights of the vision encoder; the patch embedding is a dense product."""
    d, i = config.hidden_size, config.intermediate_size
    dims: dict[str, Shape] = {
        **_linear("embeddings.patch_embedding", d, config.patch_size**2 * config.num_channels),
        "embeddings.position_embedding.weight": (config.side**2, d),
        **_norm("post_layernorm", d),
    }
    for layer in range(config.num_hidden_layers):
        at = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            dims |= _linear(f"{at}.self_attn.{name}", d, d)
        dims |= _norm(f"{at}.layer_norm1", d) | _norm(f"{at}.layer_norm2", d)
        dims |= _linear(f"{at}.mlp.fc1", i, d) | _linear(f"{at}.mlp.fc2", d, i)
    return {f"{VISION_PREFIX}{name}": shape for name, shape in dims.items()}


def autoencoder_names(config: AutoencoderConfig) -> dict[str, tuple[str, Shape]]:
    """FLUX's name -> diffusers' name and FLUX's shape of every weight of the autoencoder."""
    return {
        f"{theirs}.{kind}": (f"{mine}.{kind}", shape)
        for theirs, mine, weight in _autoencoder_modules(config)
        for kind, shape in (("weight", weight), ("bias", weight[:1]))
    }


def _autoencoder_modules(config: AutoencoderConfig) -> Iterator[tuple[str, str, Shape]]:
    """FLUX's name, diffusers' name and the weight's shape of all modules with weights; every one has a bias."""
    channels, z, top = config.channels, config.latent_channels, config.channels[-1]
    for half in ("encoder", "decoder"):
        for number in (1, 2):
            yield from _resnet(f"{half}.mid.block_{number}", f"{half}.mid_block.resnets.{number - 1}", top, top)
        yield from _attention(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", top)
    yield "encoder.conv_in", "encoder.conv_in", (channels[0], 3, 3, 3)
    yield "encoder.norm_out", "encoder.conv_norm_out", (top,)
    yield "encoder.conv_out", "encoder.conv_out", (2 * z, top, 3, 3)
    yield "decoder.conv_in", "decoder.conv_in", (top, z, 3, 3)
    yield "decoder.norm_out", "decoder.conv_norm_out", (channels[0],)
    yield "decoder.conv_out", "decoder.conv_out", (3, channels[0], 3, 3)
    last = len(channels) - 1
    for level, width in enumerate(channels):
        for block in range(config.blocks):
            before = width if block else channels[max(level - 1, 0)]
            at = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
            yield from _resnet(f"{at[0]}.block.{block}", f"{at[1]}.resnets.{block}", before, width)
        # FLUX counts the decoder's levels as the encoder's, diffusers in the order in which they run.
        at = f"decoder.up.{level}", f"decoder.up_blocks.{last - level}"
        for block in range(config.blocks + 1):
            before = width if block else channels[min(level + 1, last)]
            yield from _resnet(f"{at[0]}.block.{block}", f"{at[1]}.resnets.{block}", before, width)
        square = (width, width, 3, 3)
        if level < last:
            yield f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv", square
        if level > 0:
            yield f"{at[0]}.upsample.conv", f"{at[1]}.upsamplers.0.conv", square


def _resnet(theirs: str, mine: str, before: int, after: int) -> Iterator[tuple[str, str, Shape]]:
    for number, width in ((1, before), (2, after)):
        yield f"{theirs}.norm{number}", f"{mine}.norm{number}", (width,)
        yield f"{theirs}.conv{number}", f"{mine}.conv{number}", (after, width, 3, 3)
    if before != after:
        yield f"{theirs}.nin_shortcut", f"{mine}.conv_shortcut", (after, before, 1, 1)


def _attention(theirs: str, mine: str, width: int) -> Iterator[tuple[str, str, Shape]]:
    """FLUX's projections are convolutions of one pixel, diffusers' dense products."""
    yield f"{theirs}.norm", f"{mine}.group_norm", (width,)
    for one, other in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield f"{theirs}.{one}", f"{mine}.{other}", (width, width, 1, 1)


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
