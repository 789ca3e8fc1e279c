"""Which dense layers are chosen: those of a modality, by whole parts of their names, and never silently none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models import tiny
from tests.models.composed import Composed
from unigrpo.errors import ConfigError
from unigrpo.models.adapters.targets import choose, matches

CPU = torch.device("cpu")
LAYER = "language_model.model.layers.{}."
TEXT = ("self_attn.{}_proj", "mlp.{}_proj")
IMAGE = ("self_attn.{}_proj_moe_gen", "mlp_moe_gen.{}_proj")


def expert(attention: str, mlp: str) -> set[str]:
    """The dense layers of one expert in both layers of the tiny mixture of transformers."""
    own = [*map(attention.format, "qkvo"), *map(mlp.format, ("gate", "up", "down"))]
    return {LAYER.format(k) + name for k in range(2) for name in own}


def test_by_default_it_is_every_dense_layer_of_the_modality():
    chosen = choose(tiny.policy(time_conditioning="adaln"), (), ())
    assert {*chosen["text"]} == expert(*TEXT) | {"language_model.lm_head"}
    heads = {"time_embedder.mlp.0", "time_embedder.mlp.2", "vae2llm", "llm2vae"}
    assert {*chosen["image"]} == expert(*IMAGE) | heads | {LAYER.format(k) + "modulation" for k in range(2)}


def test_a_head_that_is_the_embedding_is_no_choice():
    for tied in (True, False):
        chosen = choose(Composed(tied=tied).load(CPU).policy, (), ())
        assert ("lm.lm_head" in chosen["text"]) == (not tied)
        assert {name.partition(".")[0] for name in chosen["text"]} == {"lm"}
        assert {name.partition(".")[0] for name in chosen["image"]} == {"dit", "connector"}


def test_what_is_frozen_is_no_choice():
    policy = Composed().load(CPU).policy
    policy.dit.requires_grad_(False)
    assert choose(policy, (), ())["image"] == ["connector"]


def test_the_products_inside_of_attention_of_torch_are_no_choice():
    """Its ``out_proj`` is never called: matrices beside it would do nothing."""
    policy = Composed().load(CPU).policy
    policy.dit.add_module("other", nn.MultiheadAttention(4, 1))
    assert not any(name.startswith("dit.other") for name in choose(policy, (), ())["image"])


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("q_proj", "layers.0.self_attn.q_proj", True),
        ("proj", "layers.0.self_attn.q_proj", False),
        ("self_attn.q_proj", "layers.0.self_attn.q_proj", True),
        ("attn.q_proj", "layers.0.self_attn.q_proj", False),
        ("self_attn.*", "layers.0.self_attn.q_proj", True),
        ("self_attn.*", "layers.0.self_attn.q.proj", False),
        ("layers.*.mlp.?p", "layers.11.mlp.up", True),
        ("layers.[0-3].mlp.up", "layers.5.mlp.up", False),
        ("a.q_proj", "q_proj", False),
        ("Q_proj", "q_proj", False),
    ],
)
def test_a_pattern_is_of_whole_parts_at_the_end(pattern, name, fits):
    assert matches(name, pattern) == fits


def test_patterns_choose_in_their_modality():
    policy = tiny.policy()
    chosen = choose(policy, ("q_proj", "mlp.*"), ("mlp_moe_gen.down_proj",))
    assert {*chosen["text"]} == {name for name in expert(*TEXT) if ".mlp." in name or "q_proj" in name}
    assert {*chosen["image"]} == {LAYER.format(k) + "mlp_moe_gen.down_proj" for k in range(2)}


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        ({"text": ["qproj"]}, r"adapter\.text_targets: 'qproj' matches no dense layer of texts .*; nearest are q_proj"),
        # What peers did: half of an MLP was silently not trained.
        ({"image": ["mlp_moe_gen.up_proj", "mlp_moe_gen.down_prj"]}, r"'mlp_moe_gen\.down_prj' .*nearest are mlp_moe_"),
        ({"text": ["q_proj_moe_gen"]}, r"\.layers\.0\.self_attn\.q_proj_moe_gen is one of images, for adapter\.image_"),
        ({"image": ["lm_head"]}, r"language_model\.lm_head is one of texts, for adapter\.text_targets"),
        ({"text": ["xyz"]}, r"there are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head$"),
        ({"text": ["embed_tokens"]}, r"'embed_tokens' matches no dense layer"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(patterns, fault):
    with pytest.raises(ConfigError, match=fault):
        choose(tiny.policy(), patterns.get("text", ()), patterns.get("image", ()))


def test_a_pattern_for_a_shared_weight_is_refused():
    with pytest.raises(ConfigError, match=r"the weight of lm\.lm_head is frozen, or another module has it too"):
        choose(Composed(tied=True).load(CPU).policy, ("lm_head",), ())
