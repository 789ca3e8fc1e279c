"""Finite scalar quantisation: values and codes are one and the same, gradients pass the rounding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import tiny
from unigrpo.models.quantised import FiniteScalars, QuantisedAutoencoder

LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple)


@given(LEVELS, st.integers(1, 3), st.integers(1, 4), st.integers(0, 999))
def test_codes_and_latents_are_inverse(levels, height, width, seed):
    scalars = FiniteScalars(levels)
    drawn = torch.Generator().manual_seed(seed)
    codes = torch.randint(scalars.size, (2, height * width), generator=drawn)
    latents = scalars.latents(codes, height, width)
    assert latents.shape == (2, len(levels), height, width)
    assert torch.equal(scalars.codes(latents), codes)
    raw = 5 * torch.randn(2, len(levels), height, width, generator=drawn)
    values = scalars.quantise(raw)
    found = scalars.codes(values)
    assert found.min() >= 0
    assert found.max() < scalars.size
    torch.testing.assert_close(scalars.latents(found, height, width), values, atol=1e-6, rtol=0)


@given(LEVELS)
def test_every_code_is_another_point_of_the_grid(levels):
    scalars = FiniteScalars(levels)
    assert scalars.size == math.prod(levels)
    points = scalars.latents(torch.arange(scalars.size)[None], 1, scalars.size)[0, :, 0].T
    assert len(points.unique(dim=0)) == scalars.size
    for channel, count in enumerate(levels):
        torch.testing.assert_close(points[:, channel].unique(), torch.linspace(-1, 1, count), atol=1e-6, rtol=0)


def test_codes_of_a_small_grid_by_hand():
    """3 x 2 levels, pixels row by row, the first channel fastest."""
    first = torch.tensor([[-1.0, 0.0], [1.0, -1.0]])
    second = torch.tensor([[-1.0, -1.0], [-1.0, 1.0]])
    assert FiniteScalars((3, 2)).codes(torch.stack((first, second))[None]).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("levels", [(2,), (5,), (8,)])
def test_raw_values_go_to_the_nearest_level(levels):
    raw = torch.linspace(-9, 9, 101)[:, None, None, None]
    values = FiniteScalars(levels).quantise(raw).flatten()
    grid = torch.linspace(-1, 1, levels[0])
    bounded = 2 * raw.flatten().sigmoid() - 1
    nearest = (bounded[:, None] - grid).abs().min(1).values
    torch.testing.assert_close((values - bounded).abs(), nearest, atol=1e-6, rtol=0)
    assert len(values.unique()) == levels[0]


def test_the_gradient_passes_the_rounding():
    raw = tiny.randn(2, 3, 2, 2).requires_grad_()
    (FiniteScalars((8, 5, 5)).quantise(raw) * tiny.randn(2, 3, 2, 2, seed=1)).sum().backward()
    bounded = raw.detach().sigmoid()
    torch.testing.assert_close(raw.grad, 2 * bounded * (1 - bounded) * tiny.randn(2, 3, 2, 2, seed=1))


@pytest.mark.parametrize("levels", [(), (5, 1), (0,)])
def test_a_channel_has_two_levels_or_more(levels):
    with pytest.raises(ValueError, match="expected 2 or more"):
        FiniteScalars(levels)


@pytest.fixture
def small() -> QuantisedAutoencoder:
    torch.manual_seed(0)
    return QuantisedAutoencoder((8, 5, 5), width=8)


def test_pictures_become_codes_and_the_codes_pictures(small):
    pictures = tiny.randn(4, 3, 32, 32).tanh()
    with torch.no_grad():
        latents = small.encode(pictures)
        codes = small.scalars.codes(latents)
        again = small.scalars.latents(codes, 4, 4)
        assert codes.shape == (4, 16)
        torch.testing.assert_close(again, latents, atol=1e-6, rtol=0)
        torch.testing.assert_close(small.decode(again), small.decode(latents), atol=1e-5, rtol=0)


def test_a_code_depends_on_its_own_pixels_alone(small):
    pictures = tiny.randn(2, 3, 32, 32).tanh()
    changed = pictures.clone()
    changed[:, :, 8:16, 16:24] *= -1
    moved = (small.encoder(pictures) != small.encoder(changed)).any(1)
    assert moved[:, 1, 2].all()
    assert moved.sum() == len(pictures)


def test_reconstruction_trains_the_encoder_through_the_rounding(small):
    pictures = tiny.randn(4, 3, 32, 32).tanh()
    loss = small.reconstruction_loss(pictures)
    error = small.decoder(small.encode(pictures)) - pictures
    expected = error.square().mean() + error.pow(4).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad.any() for parameter in small.parameters())
