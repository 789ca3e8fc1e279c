"""The pipelines of diffusers that are known, one row each; a pipeline that is not takes a row of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from unigrpo.models.libraries import Arguments, Foreign
from unigrpo.models.pipelines.family import (
    Conditions,
    Family,
    Pipeline,
    Size,
    interpolated_mu,
    reversed_time,
    standard_scale,
    standardised,
    thousandfold,
    to_standardised,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor


#: Tokens of a text, where a pipeline's call has another default than its ``encode_prompt``.
_OF_CALL = 512
#: Of pipelines whose ``encode_prompt`` would encode a negative prompt, too.
_PLAIN: Arguments = {"do_classifier_free_guidance": False}


def folded(x: Tensor) -> Tensor:
    """Map [B, C, h, w] -> tokens [B, h/2 w/2, 4 C]: squares of four latent pixels, channels slowest."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unfolded(tokens: Tensor, size: Size) -> Tensor:
    """The inverse of :func:`folded`."""
    (b, _, c), (h, w) = tokens.shape, size
    return tokens.view(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, h, w)


def flat(x: Tensor) -> Tensor:
    """Map [B, C, h, w] -> tokens [B, h w, C]."""
    return x.flatten(2).transpose(1, 2)


def raised(tokens: Tensor, size: Size) -> Tensor:
    """The inverse of :func:`flat`."""
    return tokens.transpose(1, 2).unflatten(2, size)


def rescaled(conditional: Tensor, unconditional: Tensor, scale: float, dim: int = -1) -> Tensor:
    """``u + scale (c - u)``, brought to the norm that ``c`` has along ``dim``."""
    found = unconditional + scale * (conditional - unconditional)
    return found * (conditional.norm(dim=dim, keepdim=True) / found.norm(dim=dim, keepdim=True))


def rescaled_by_token(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """:func:`rescaled`, each token of four latent pixels by itself."""
    size = (conditional.shape[2], conditional.shape[3])
    return unfolded(rescaled(folded(conditional), folded(unconditional), scale), size)


def _unfolded_of_call(pipe: Pipeline, tokens: Tensor, size: Size) -> Tensor:
    return unfolded(tokens, size)


def _one_frame(x: Tensor) -> Tensor:
    return x[:, :, None]


def _true_scale(scale: float, rows: int, negative: str) -> Arguments:
    """A pipeline with a second scale, for guidance by a negative text; below its 1 it does without."""
    return {"true_cfg_scale": scale, "negative_prompt": [negative] * rows} if scale > 1 else {}


def _scale_from_zero(scale: float, rows: int, negative: str) -> Arguments:
    """A pipeline that adds its scale times the difference to what is conditional."""
    return standard_scale(scale - 1, rows, negative)


def encoded(
    *names: str | None, leading: tuple[None, ...] = (), shared: tuple[str, ...] = (), **told: object
) -> Callable[..., Conditions]:
    """How a pipeline encodes whose ``encode_prompt`` returns the transformer's arguments one after the other.

    Args:
        names: of those arguments, None for what is not used.
        leading: prompts for further encoders, which read the first one's where they are None.
        shared: the arguments that have no batch.
        told: what ``encode_prompt`` is told, unless the model's options say otherwise.
    """

    def encode(pipe: Pipeline, texts: list[str], **options: object) -> Conditions:
        # A copy: Z-Image writes its chat template into the list that it is given.
        found = pipe.encode_prompt(list(texts), *leading, **{**told, **options})
        given = {name: value for name, value in zip(names, found, strict=True) if name is not None}
        return Conditions(
            {name: value for name, value in given.items() if name not in shared}, {name: given[name] for name in shared}
        )

    return encode


def _positions(size: Size, device: torch.device) -> Tensor:
    """[h w, 3]: 0, row and column of every token."""
    import torch

    places = torch.zeros(*size, 3)
    places[..., 1] += torch.arange(size[0])[:, None]
    places[..., 2] += torch.arange(size[1])
    return places.flatten(0, 1).to(device)


def _halved(x: Tensor) -> Size:
    """Rows and columns of tokens of a map."""
    return x.shape[2] // 2, x.shape[3] // 2


# -- Stable Diffusion 3 ------------------------------------------------------------------------------------------------


def _sd3_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    return {"hidden_states": x, "timestep": t}


def _in_channels(pipe: Pipeline) -> int:
    return int(pipe.transformer.config.in_channels)


def _quarter_of_in_channels(pipe: Pipeline) -> int:
    return _in_channels(pipe) // 4


SD3 = Family(
    encode=encoded("encoder_hidden_states", None, "pooled_projections", None, leading=(None, None), **_PLAIN),
    call=_sd3_call,
    channels=_in_channels,
    time=thousandfold,
    sigmas=None,
    patch=2,
)

# -- FLUX.1 ------------------------------------------------------------------------------------------------------------


def _flux_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    return {"hidden_states": folded(x), "timestep": t, "img_ids": _positions(_halved(x), x.device)}


FLUX = Family(
    encode=encoded("encoder_hidden_states", "pooled_projections", "txt_ids", leading=(None,), shared=("txt_ids",)),
    call=_flux_call,
    channels=_quarter_of_in_channels,
    unpack=unfolded,
    patch=2,
    told=_true_scale,
    to_call=folded,
    from_call=_unfolded_of_call,
)

# -- FLUX.1 Kontext ----------------------------------------------------------------------------------------------------


def _kontext_refer(given: Arguments, latents: Tensor) -> Arguments:
    """What is edited stands in the places of the noise, on another sheet."""
    import torch

    places = _positions(_halved(latents), latents.device)
    places[:, 0] = 1
    return {
        **given,
        "hidden_states": torch.cat((given["hidden_states"], folded(latents)), 1),
        "img_ids": torch.cat((given["img_ids"], places)),
    }


KONTEXT = replace(
    FLUX,
    refer=_kontext_refer,
    # Or its call would scale both images to about a megapixel.
    sized=lambda height, width: {
        "height": height, "width": width, "max_area": height * width, "_auto_resize": False,
    },
)  # fmt: skip

# -- FLUX.2 klein ------------------------------------------------------------------------------------------------------


def _klein_places(x: Tensor, moment: int) -> Tensor:
    """[B, h w, 4]: moment, row, column and 0 of every token."""
    import torch

    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    places = torch.cartesian_prod(torch.tensor([moment]), rows, columns, torch.arange(1))
    return places.expand(len(x), -1, -1).to(x.device)


def _klein_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    return {"hidden_states": flat(x), "timestep": t, "img_ids": _klein_places(x, 0), "guidance": None}


def _klein_refer(given: Arguments, latents: Tensor) -> Arguments:
    """What is edited stands in the places of the noise, at another moment."""
    import torch

    return {
        **given,
        "hidden_states": torch.cat((given["hidden_states"], flat(latents)), 1),
        "img_ids": torch.cat((given["img_ids"], _klein_places(latents, 10)), 1),
    }


def _klein_mu(pipe: Pipeline, tokens: int, steps: int) -> float:
    """It depends on the number of steps, by fitted lines that diffusers has."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    return float(compute_empirical_mu(tokens, steps))


def _klein_moments(pipe: Pipeline, like: Tensor) -> tuple[Tensor, Tensor]:
    norm = pipe.vae.bn
    std = (norm.running_var + pipe.vae.config.batch_norm_eps).sqrt()
    return norm.running_mean.to(like)[:, None, None], std.to(like)[:, None, None]


def _klein_decode(pipe: Pipeline, latents: Tensor) -> Tensor:
    from torch.nn.functional import pixel_shuffle

    mean, std = _klein_moments(pipe, latents)
    return pipe.vae.decode(pixel_shuffle(latents * std + mean, 2), return_dict=False)[0]


def _klein_to_latents(pipe: Pipeline, pictures: Tensor) -> Tensor:
    from torch.nn.functional import pixel_unshuffle

    raw = pixel_unshuffle(pipe.vae.encode(pictures).latent_dist.mode(), 2)
    mean, std = _klein_moments(pipe, raw)
    return (raw - mean) / std


def _klein_of_call(pipe: Pipeline, latents: Tensor, size: Size) -> Tensor:
    """It ends with latents whose scaling is undone."""
    from torch.nn.functional import pixel_unshuffle

    mean, std = _klein_moments(pipe, latents)
    return (pixel_unshuffle(latents, 2) - mean) / std


KLEIN = Family(
    encode=encoded("encoder_hidden_states", "txt_ids"),
    call=_klein_call,
    channels=_in_channels,
    unpack=raised,
    mu=_klein_mu,
    tokens=lambda size, channels: size[0] * size[1],
    decode=_klein_decode,
    to_latents=_klein_to_latents,
    factor=2,
    refer=_klein_refer,
    # Its call knows no negative text but the empty one.
    told=lambda scale, rows, negative: {"guidance_scale": scale},
    from_call=_klein_of_call,
)

# -- Qwen-Image --------------------------------------------------------------------------------------------------------


def _qwen_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    return {"hidden_states": folded(x), "timestep": t, "img_shapes": [[(1, *_halved(x))]] * len(x)}


QWEN_IMAGE = Family(
    encode=encoded("encoder_hidden_states", "encoder_hidden_states_mask", max_sequence_length=_OF_CALL),
    call=_qwen_call,
    channels=_quarter_of_in_channels,
    unpack=unfolded,
    guided=rescaled_by_token,
    decode=standardised,
    to_latents=to_standardised,
    patch=2,
    negative=" ",
    told=_true_scale,
    to_call=folded,
    from_call=_unfolded_of_call,
)

# -- Qwen-Image-Edit ---------------------------------------------------------------------------------------------------


def _qwen_refer(given: Arguments, latents: Tensor) -> Arguments:
    """What is edited is a second image, of which the transformer is told the size."""
    import torch

    return {
        **given,
        "hidden_states": torch.cat((given["hidden_states"], folded(latents)), 1),
        "img_shapes": [[*shapes, (1, *_halved(latents))] for shapes in given["img_shapes"]],
    }


def _qwen_size(height: int, width: int) -> Size:
    """About a megapixel."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    columns, rows, _ = pipeline_qwenimage_edit.calculate_dimensions(1024 * 1024, width / height)
    return int(rows), int(columns)


def _qwen_edit_encode(pipe: Pipeline, texts: list[str], **options: object) -> Conditions:
    """The place of a picture is the template's: one that a text spells would be without a picture."""
    return QWEN_IMAGE.encode(pipe, [text.replace(pipe.processor.image_token, "") for text in texts], **options)


QWEN_IMAGE_EDIT = replace(
    QWEN_IMAGE,
    encode=_qwen_edit_encode,
    refer=_qwen_refer,
    sees=True,
    own_size=_qwen_size,
    shown=lambda picture, rows: {"image": [picture] * rows},
)

# -- Z-Image -----------------------------------------------------------------------------------------------------------


def _z_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    return {"x": list(x[:, :, None].unbind(0)), "t": t}


def _z_unpack(output: Foreign, size: Size) -> Tensor:
    import torch

    return torch.stack(list(output))[:, :, 0]


Z_IMAGE = Family(
    encode=encoded("cap_feats", None, **_PLAIN),
    call=_z_call,
    channels=lambda pipe: int(pipe.transformer.in_channels),
    unpack=_z_unpack,
    time=reversed_time,
    sign=-1,
    patch=2,
    told=_scale_from_zero,
)

# -- Sana --------------------------------------------------------------------------------------------------------------


def _sana_told(scale: float, rows: int, negative: str) -> Arguments:
    """Sizes as they are asked for, and prompts as they are: its call would rewrite them by an instruction."""
    plain = {"use_resolution_binning": False, "complex_human_instruction": None}
    return {"guidance_scale": scale, "negative_prompt": negative, **plain}


SANA = Family(
    encode=encoded("encoder_hidden_states", "encoder_attention_mask", None, None, **_PLAIN),
    call=_sd3_call,
    channels=_in_channels,
    time=lambda pipe, sigma: sigma * 1000 * pipe.transformer.config.timestep_scale,
    sigmas=None,
    told=_sana_told,
)

# -- Lumina 2 ----------------------------------------------------------------------------------------------------------


def _lumina2_encode_negative(pipe: Pipeline, texts: list[str], **options: object) -> Conditions:
    """Without the system prompt that stands before the others."""
    _, _, embeds, mask = pipe.encode_prompt(texts, True, negative_prompt=texts, **options)
    return Conditions({"encoder_hidden_states": embeds, "encoder_attention_mask": mask})


LUMINA2 = Family(
    encode=encoded("encoder_hidden_states", "encoder_attention_mask", None, None, **_PLAIN),
    encode_negative=_lumina2_encode_negative,
    call=_sd3_call,
    channels=_in_channels,
    time=reversed_time,
    sign=-1,
    # As published: the pipeline takes the second of [B, C, h, w] for the number of tokens, and norms along rows.
    tokens=lambda size, channels: channels,
    guided=rescaled,
    patch=2,
    told=lambda scale, rows, negative: {"guidance_scale": scale, "negative_prompt": negative},
)

# -- Wan 2.1, one frame ------------------------------------------------------------------------------------------------


def _wan_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    return {"hidden_states": x[:, :, None], "timestep": t}


WAN = Family(
    encode=encoded("encoder_hidden_states", None, max_sequence_length=_OF_CALL, **_PLAIN),
    call=_wan_call,
    channels=_in_channels,
    unpack=lambda output, size: output[:, :, 0],
    time=thousandfold,
    sigmas=None,
    decode=standardised,
    to_latents=to_standardised,
    patch=2,
    told=lambda scale, rows, negative: {**standard_scale(scale, rows, negative), "num_frames": 1},
    to_call=_one_frame,
    from_call=lambda pipe, latents, size: latents[:, :, 0],
)

# -- Ovis-Image --------------------------------------------------------------------------------------------------------


OVIS = Family(
    encode=encoded("encoder_hidden_states", None, "txt_ids", None, shared=("txt_ids",), **_PLAIN),
    call=_flux_call,
    channels=_quarter_of_in_channels,
    unpack=unfolded,
    patch=2,
    to_call=folded,
    from_call=_unfolded_of_call,
)

# -- Chroma ------------------------------------------------------------------------------------------------------------


def _chroma_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    """The mask of the text goes on over all image tokens."""
    import torch

    given = _flux_call(pipe, x, t, told)
    image = torch.ones(given["hidden_states"].shape[:2], device=x.device)
    return {**given, "attention_mask": torch.cat((told["attention_mask"].to(image), image), 1)}


CHROMA = Family(
    encode=encoded(
        "encoder_hidden_states", "txt_ids", "attention_mask", None, None, None, shared=("txt_ids",), **_PLAIN
    ),
    call=_chroma_call,
    channels=_quarter_of_in_channels,
    unpack=unfolded,
    patch=2,
    to_call=folded,
    from_call=_unfolded_of_call,
)

# -- Krea 2 ------------------------------------------------------------------------------------------------------------


def _krea2_call(pipe: Pipeline, x: Tensor, t: Tensor, told: Arguments) -> Arguments:
    length = told["encoder_hidden_states"].shape[1]
    places = pipe.prepare_position_ids(length, *_halved(x), x.device)
    return {"hidden_states": folded(x), "timestep": t, "position_ids": places}


def _krea2_mu(pipe: Pipeline, tokens: int, steps: int) -> float:
    return 1.15 if pipe.config.is_distilled else interpolated_mu(pipe, tokens, steps, many=6400)


KREA2 = Family(
    encode=encoded("encoder_hidden_states", "encoder_attention_mask"),
    call=_krea2_call,
    channels=_quarter_of_in_channels,
    unpack=unfolded,
    mu=_krea2_mu,
    decode=standardised,
    to_latents=to_standardised,
    patch=2,
    told=_scale_from_zero,
    to_call=folded,
    from_call=_unfolded_of_call,
)

#: Name of a pipeline's class, as in its model_index.json -> its row.
FAMILIES: Mapping[str, Family] = {
    "StableDiffusion3Pipeline": SD3,
    "FluxPipeline": FLUX,
    "FluxKontextPipeline": KONTEXT,
    "Flux2KleinPipeline": KLEIN,
    "QwenImagePipeline": QWEN_IMAGE,
    "QwenImageEditPipeline": QWEN_IMAGE_EDIT,
    "ZImagePipeline": Z_IMAGE,
    "SanaPipeline": SANA,
    "Lumina2Pipeline": LUMINA2,
    "WanPipeline": WAN,
    "OvisImagePipeline": OVIS,
    "ChromaPipeline": CHROMA,
    "Krea2Pipeline": KREA2,
}
