"""Pictures to latents and back: shapes, scale, and the same contract for diffusers' AutoencoderKL."""

from __future__ import annotations

import pytest
import torch

from tests.models import tiny
from unigrpo.models.autoencoder import DiffusersAutoencoder, TinyAutoencoder, reconstruction_loss


def pictures(count: int = 4) -> torch.Tensor:
    return tiny.randn(count, 3, 32, 32).tanh()


@pytest.fixture
def small() -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder(channels=5, width=8).requires_grad_(False)


@pytest.fixture
def vae(tmp_path):
    from diffusers import AutoencoderKL  # slow, and every worker reads this file

    torch.manual_seed(0)
    alive = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()
    alive.save_pretrained(tmp_path / "vae")
    return alive, DiffusersAutoencoder(tmp_path / "vae").eval()


def test_sides_shrink_by_eight_and_grow_again(small):
    latents = small.encode(pictures())
    assert latents.shape == (4, 5, 4, 4)
    assert small.decode(latents).shape == (4, 3, 32, 32)


def test_decoded_pictures_stay_in_range(small):
    decoded = small.decode(100 * tiny.randn(2, 5, 4, 4))
    assert decoded.abs().max() == 1


def test_encoding_draws_nothing(small):
    assert torch.equal(small.encode(pictures()), small.encode(pictures()))


def test_fitted_latents_have_mean_0_and_unit_variance_in_every_channel(small):
    raw = small.encode(pictures(16))
    small.fit_scale(pictures(16))
    latents = small.encode(pictures(16))
    assert (raw.std((0, 2, 3)) - 1).abs().max() > 0.1
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(5), atol=1e-5, rtol=0)


def test_the_scale_is_undone_by_decoding(small):
    before = small.decode(small.encode(pictures()))
    small.fit_scale(pictures(16))
    torch.testing.assert_close(small.decode(small.encode(pictures())), before, atol=1e-5, rtol=0)


def test_reconstruction_loss_by_hand(small):
    noise = 0.1 * tiny.randn(4, 5, 4, 4, seed=1)
    raw = small.encoder(pictures())
    error = (small.decoder(raw + noise) - pictures()).square().mean()
    assert reconstruction_loss(small, pictures(), noise).item() == pytest.approx(
        (error + 1e-3 * raw.square().mean()).item()
    )


def test_diffusers_autoencoder_shifts_and_scales_the_mean(vae):
    inner, wrapped = vae
    with torch.no_grad():
        latents = wrapped.encode(pictures())
        mean = inner.encode(pictures()).latent_dist.mean
        assert latents.shape == (4, 4, 16, 16)
        torch.testing.assert_close(latents, (mean - 0.25) * 0.5)
        torch.testing.assert_close(wrapped.decode(latents), inner.decode(mean).sample.clamp(-1, 1), atol=1e-5, rtol=0)


def test_diffusers_autoencoder_draws_nothing(vae):
    _, wrapped = vae
    with torch.no_grad():
        assert torch.equal(wrapped.encode(pictures()), wrapped.encode(pictures()))


def test_a_picture_does_not_depend_on_those_beside_it(vae, monkeypatch):
    """Each is translated by itself: whole batches would take other kernels, and gigabytes for megapixels."""
    _, ours = vae
    rows: list[int] = []
    for name in ("encode", "decode"):
        inner = getattr(ours.model, name)
        monkeypatch.setattr(ours.model, name, lambda x, inner=inner: (rows.append(len(x)), inner(x))[1])
    latents = tiny.randn(3, 4, 8, 8)
    decoded = ours.decode(latents)
    encoded = ours.encode(decoded)
    assert rows == [1] * 6
    assert torch.equal(decoded[1:2], ours.decode(latents[1:2]))
    assert torch.equal(encoded[2:], ours.encode(decoded[2:]))
