"""BAGEL's guidance by text and image, against its description in numpy, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.tiny import randn
from unigrpo.checks import ShapeError
from unigrpo.compose import compose
from unigrpo.errors import ConfigError
from unigrpo.flow.guidance import Cfg, TextImageCfg

SHAPE = (3, 2, 4, 6)
RENORMS = ("none", "image", "global", "channel", "text_channel")


def velocities(count=3):
    """Conditional, without text, without images; norms of tokens on both sides of the conditional's."""
    return [(1 + k) * randn(*SHAPE, seed=k, dtype=torch.float64) for k in range(count)]


def tokens(v, patch):
    """[B, C, H, W] -> a list of tokens for each image, each with its values."""
    found = []
    for image in v:
        rows, columns = image.shape[1] // patch, image.shape[2] // patch
        found.append([
            image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].ravel()
            for r in range(rows) for c in range(columns)
        ])  # fmt: skip
    return np.array(found)


def expected(renorm, text, image, least, patch, v, u, m):
    """The published formulas, on packed tokens [B, N, values]."""
    v, u, m = (tokens(x.numpy(), patch) for x in (v, u, m))
    if text <= 1:
        return v
    g = u + text * (v - u)

    def per_token(x):
        scale = np.linalg.norm(v, axis=-1, keepdims=True) / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-8)
        return x * np.clip(scale, least, 1)

    if renorm == "text_channel":
        g = per_token(g)
        return m + image * (g - m) if image > 1 else g
    if image > 1:
        g = m + image * (g - m)
    if renorm == "channel":
        return per_token(g)
    if renorm == "global":
        return g * np.clip(np.sqrt((v**2).sum()) / (np.sqrt((g**2).sum()) + 1e-8), least, 1)
    if renorm == "image":
        return np.stack([
            b * np.clip(np.sqrt((a**2).sum()) / (np.sqrt((b**2).sum()) + 1e-8), least, 1)
            for a, b in zip(v, g, strict=True)
        ])  # fmt: skip
    return g


@pytest.mark.parametrize("least", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("text", "image"), [(4.0, 1.0), (4.0, 2.0), (1.3, 0.5), (2.0, 1.5)])
@pytest.mark.parametrize("renorm", RENORMS)
def test_it_is_the_published_formula(renorm, text, image, least):
    v, u, m = velocities()
    guidance = TextImageCfg(text, image, renorm=renorm, renorm_min=least)
    found = guidance.combine(v, *((u, m) if image > 1 else (u,)))
    formula = expected(renorm, text, image, least, 2, v, u, m)
    np.testing.assert_allclose(tokens(found.numpy(), 2), formula, rtol=1e-5, atol=1e-6)


def test_the_norms_differ_from_each_other():
    """Otherwise one would do for another."""
    v, u, m = velocities()
    found = [TextImageCfg(4.0, 2.0, renorm=renorm).combine(v, u, m) for renorm in RENORMS]
    for k, one in enumerate(found):
        assert not any(torch.allclose(one, other, rtol=1e-2) for other in found[k + 1 :])


def test_global_and_image_are_one_for_one_image():
    v, u, _ = (x[:1] for x in velocities())
    pair = [TextImageCfg(renorm=renorm).combine(v, u) for renorm in ("image", "global")]
    torch.testing.assert_close(*pair)


def test_an_image_does_not_depend_on_its_neighbours_but_with_global():
    v, u, m = velocities()
    for renorm in RENORMS:
        guidance = TextImageCfg(4.0, 2.0, renorm=renorm)
        alone, among = guidance.combine(v[:1], u[:1], m[:1])[0], guidance.combine(v, u, m)[0]
        assert torch.allclose(alone, among) == (renorm != "global")


def test_image_renorm_of_text_guidance_is_cfgs_to_the_bit():
    v, u = (x.float() for x in velocities(2))
    for renorm, name in ((True, "image"), (False, "none")):
        assert torch.equal(Cfg(3.0, renorm=renorm).combine(v, u), TextImageCfg(3.0, renorm=name).combine(v, u))


@pytest.mark.parametrize("patch", [1, 2])
def test_a_token_is_a_square_of_latent_pixels(patch):
    v, u, m = velocities()
    found = TextImageCfg(4.0, 2.0, renorm="channel", patch=patch).combine(v, u, m)
    formula = expected("channel", 4.0, 2.0, 0.0, patch, v, u, m)
    np.testing.assert_allclose(tokens(found.numpy(), patch), formula, rtol=1e-5, atol=1e-6)


def test_latents_of_no_whole_tokens_are_refused():
    with pytest.raises(ShapeError, match=r"expected \[B, C, H, W\] .* patch=4, got \[3, 2, 4, 6\]"):
        TextImageCfg(renorm="channel", patch=4).combine(*velocities(2))
    with pytest.raises(ShapeError, match=r"v_cond \[3, 2, 4, 6\], v_branch \[3, 2, 4, 1\]"):
        TextImageCfg().combine(velocities()[0], velocities()[1][..., :1])


def test_branches_are_those_of_the_scales_that_have_an_effect():
    found = {scales: TextImageCfg(*scales).branches for scales in ((4.0, 2.0), (4.0, 1.0), (1.0, 2.0))}
    assert found == {(4.0, 2.0): ("before-request", "requests"), (4.0, 1.0): ("before-request",), (1.0, 2.0): ()}


def test_a_text_scale_of_1_or_less_switches_all_guidance_off():
    assert [TextImageCfg(4.0).guides(t) for t in (0.4, 0.41, 1.0)] == [False, True, True]
    assert not any(TextImageCfg(scale, 2.0).guides(t) for t in (0.5, 1.0) for scale in (1.0, 0.5))


def test_with_the_published_schedule_41_of_49_steps_are_guided():
    from unigrpo.flow.schedule import time_points

    points = time_points(49, 3.0).tolist()[:-1]
    assert sum(map(TextImageCfg().guides, points)) == 41


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text_scale": -1.0}, "expected scales >= 0"),
        ({"low": 0.5, "high": 0.5}, "expected scales >= 0 and 0 <= low < high <= 1"),
        ({"renorm_min": 1.5}, "expected renorm_min from 0 to 1"),
        ({"patch": 0}, "patch >= 1"),
    ],
)
def test_impossible_guidance_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        TextImageCfg(**fields)


@pytest.mark.parametrize(
    ("override", "said"), [("renorm=channel", "use guidance.renorm=image"), ("penalty=conditional", "penalty=guided")]
)
def test_tokens_have_no_velocity(override, said):
    chosen = ["recipe=interleaved_grpo", "guidance=text_image_cfg", f"guidance.{override}"]
    with pytest.raises(ConfigError, match=rf"guidance=text_image_cfg: .* image_head=tokens .*{said}"):
        compose(chosen).check()
