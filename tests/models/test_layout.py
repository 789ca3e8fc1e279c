"""Names, shapes, tables and packing as in the published BAGEL-7B-MoT."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import tiny
from unigrpo.models.mot.configuration import BAGEL_7B_MOT, MoTConfig
from unigrpo.models.mot.policy import LatentPositions, MoTPolicy, TimestepEmbedder, pack, unpack


def published_shapes(config: MoTConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a published checkpoint but those of the ViT and its connector."""
    h, i, d, v = config.hidden_size, config.intermediate_size, config.head_dim, config.vocab_size
    k, token = config.num_key_value_heads * d, config.latent_patch_size**2 * config.latent_channels
    prefix = "language_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}model.embed_tokens.weight": (v, h),
        f"{prefix}lm_head.weight": (v, h),
        f"{prefix}model.norm.weight": (h,),
        f"{prefix}model.norm_moe_gen.weight": (h,),
        "time_embedder.mlp.0.weight": (h, 256),
        "time_embedder.mlp.0.bias": (h,),
        "time_embedder.mlp.2.weight": (h, h),
        "time_embedder.mlp.2.bias": (h,),
        "vae2llm.weight": (h, token),
        "vae2llm.bias": (h,),
        "llm2vae.weight": (token, h),
        "llm2vae.bias": (token,),
        "latent_pos_embed.pos_embed": (config.max_latent_size**2, h),
    }
    for layer in range(config.num_hidden_layers):
        for e in ("", "_moe_gen"):
            at = f"{prefix}model.layers.{layer}."
            for name, rows in (("q", h), ("k", k), ("v", k)):
                shapes[f"{at}self_attn.{name}_proj{e}.weight"] = (rows, h)
                shapes[f"{at}self_attn.{name}_proj{e}.bias"] = (rows,)
            shapes[f"{at}self_attn.o_proj{e}.weight"] = (h, h)
            shapes[f"{at}self_attn.q_norm{e}.weight"] = shapes[f"{at}self_attn.k_norm{e}.weight"] = (d,)
            for name in ("gate_proj", "up_proj"):
                shapes[f"{at}mlp{e}.{name}.weight"] = (i, h)
            shapes[f"{at}mlp{e}.down_proj.weight"] = (h, i)
            for name in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{at}{name}{e}.weight"] = (h,)
    return shapes


def shapes_of(policy: MoTPolicy) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}


def test_state_dict_of_a_scaled_model():
    config = tiny.config(latent_patch_size=2)
    assert shapes_of(MoTPolicy(config)) == published_shapes(config)


def test_state_dict_at_the_published_size():
    config = MoTConfig(**BAGEL_7B_MOT)
    with torch.device("meta"):
        policy = MoTPolicy(config)
    assert shapes_of(policy) == published_shapes(config)
    # The published 14.61e9 less the ViT (403M), its connector (17M) and its table of positions (18M).
    assert sum(parameter.numel() for parameter in policy.parameters()) == 14_170_164_800
    text = sum(parameter.numel() for parameter in policy.parameters_of("text"))
    # Qwen2.5-7B, and 56 QK-norms of 128.
    assert text == 7_615_616_512 + 56 * 128


def test_modulation_is_the_only_addition_of_adaln():
    plain, modulated = shapes_of(tiny.policy()), shapes_of(tiny.policy(time_conditioning="adaln"))
    added = {name.partition("modulation")[1] for name in modulated.keys() - plain.keys()}
    assert added == {"modulation"}
    assert plain.keys() < modulated.keys()


def test_positions_encode_the_column_first():
    side, width = 3, 8
    table = LatentPositions(side, width).pos_embed
    for row in range(side):
        for column in range(side):
            waves = [
                f(place * 10000 ** (-j / 2)) for place in (column, row) for f in (math.sin, math.cos) for j in (0, 1)
            ]
            torch.testing.assert_close(table[row * side + column], torch.tensor(waves), atol=1e-7, rtol=0)


def test_a_picture_takes_the_top_left_corner_of_the_table():
    positions = LatentPositions(5, 8)
    expected = [row * 5 + column for row in range(2) for column in range(3)]
    assert torch.equal(positions(2, 3), positions.pos_embed[expected])
    assert not positions.pos_embed.requires_grad


def test_time_is_embedded_unscaled_with_the_cosines_first():
    embedder = TimestepEmbedder(16)
    seen = []
    embedder.mlp[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    embedder(torch.tensor([0.0, 0.3, 1.0]))
    (waves,) = seen
    assert waves.shape == (3, 256)
    assert waves[0].tolist() == [1.0] * 128 + [0.0] * 128
    for j in (0, 1, 127):
        angle = 0.3 * 10000 ** (-j / 128)
        assert waves[1, j].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert waves[1, 128 + j].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert waves[2, 0].item() == pytest.approx(math.cos(1.0), abs=1e-6)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_unpack_is_the_inverse_of_pack(patch, rows, columns, channels):
    latents = tiny.randn(2, channels, rows * patch, columns * patch)
    tokens = pack(latents, patch)
    assert tokens.shape == (2, rows * columns, patch * patch * channels)
    assert torch.equal(unpack(tokens, patch, rows * patch, columns * patch), latents)


def test_inside_a_token_the_channel_runs_fastest():
    # A value spells its place: hundreds are the channel, tens the row, units the column.
    channel, row, column = torch.meshgrid(torch.arange(2), torch.arange(4), torch.arange(6), indexing="ij")
    tokens = pack((100 * channel + 10 * row + column)[None].float(), 2)[0].int().tolist()
    assert tokens[0] == [0, 100, 1, 101, 10, 110, 11, 111]
    assert tokens[1] == [2, 102, 3, 103, 12, 112, 13, 113]
    assert tokens[3][0] == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time_conditioning": "film"}, "time_conditioning: expected 'input' or 'adaln', got 'film'"),
        ({"prediction": "noise"}, "prediction: expected 'velocity' or 'data', got 'noise'"),
        ({"num_attention_heads": 5}, "heads must divide"),
        ({"num_key_value_heads": 3}, "heads must divide"),
    ],
)
def test_impossible_sizes_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny.config(**changes)
