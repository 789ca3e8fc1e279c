"""A folder's weights compute what they compute elsewhere: autoencoder, vision encoder, and the whole policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.models import tiny
from tests.models.bagel import published
from tests.models.bagel.flux import Flux
from tests.models.reference import Block, Reference
from unigrpo.data.prompt import Prompt
from unigrpo.models.bagel import Bagel
from unigrpo.models.bagel.sizes import Resize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("bagel"), side=4)


@pytest.fixture(scope="module")
def model(folder):
    return Bagel(str(folder)).load(CPU)


def pictures(*size, seed=0):
    return tiny.randn(2, 3, *size, seed=seed).tanh()


def test_the_autoencoder_is_fluxs(folder, model):
    flux, mine = Flux(load_file(folder / "ae.safetensors")), model.autoencoder
    with torch.no_grad():
        latents = mine.encode(pictures(32, 48))
        decoded = mine.decode(latents)
    assert latents.shape == (2, 4, 4, 6)
    torch.testing.assert_close(latents, flux.encode(pictures(32, 48).double()).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded, flux.decode(latents.double()).float(), atol=1e-5, rtol=0)
    assert decoded.std() > 0.1
    assert mine.factor == 8


def siglip(weights, rows):
    """SigLIP of transformers with a folder's weights, for square images of ``rows`` patches a side."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {name: published.VIT[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    kind = {"patch_size": 14, "image_size": 14 * rows, "num_hidden_layers": 2, "vision_use_head": False}
    model = SiglipVisionModel(SiglipVisionConfig(**sizes, **kind)).eval()
    prefix = "vit_model.vision_model."
    mine = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    # A convolution's kernel is [out, channel, y, x]; the folder's rows run over y, x, channel.
    patches = mine["embeddings.patch_embedding.weight"].view(-1, 14, 14, 3).permute(0, 3, 1, 2)
    places = [row * 4 + column for row in range(rows) for column in range(rows)]
    mine["embeddings.patch_embedding.weight"] = patches
    mine["embeddings.position_embedding.weight"] = mine["embeddings.position_embedding.weight"][places]
    model.load_state_dict(mine)
    return model, places


@pytest.mark.parametrize("rows", [4, 2])
def test_the_vision_encoder_is_siglip_in_the_corner_of_its_table(folder, model, rows, monkeypatch):
    other, places = siglip(load_file(folder / "ema.safetensors"), rows)
    vision = model.processor.vision
    monkeypatch.setattr(vision, "resize", Resize(56, 14, 14))
    seen = pictures(14 * rows, 14 * rows)
    with torch.no_grad():
        expected = other(pixel_values=seen).last_hidden_state
    features = vision(seen)
    torch.testing.assert_close(features[..., :-1], expected, atol=1e-5, rtol=0)
    assert features[0, :, -1].tolist() == places


def test_an_image_of_another_shape_keeps_it(model):
    """56 is the longest side here: 32 x 64 pixels are seen as 2 x 4 patches."""
    features = model.processor.vision(pictures(32, 64))
    assert features.shape == (2, 8, 17)
    assert features[1, :, -1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_the_policy_reads_an_edit_as_the_plain_forward_does(folder, model):
    """Source by latents and by pixels, request, thinking, and the image being made: all from the files' own names."""
    weights = load_file(folder / "ema.safetensors")
    prompt = Prompt("p", "a red kite", images=(Pixels(pictures(50, 40)[0]),))
    image, request = model.processor.encode([prompt], 48, 32)
    found = [(row, column) for row in range(4) for column in range(3)]  # 48 x 32 pixels are seen as 56 x 42
    assert image.latents.shape == (1, 4, 6, 4)
    assert image.features[0, :, -1].tolist() == [4 * row + column for row, column in found]
    begin, end = 261, 262  # <|im_start|> and <|im_end|>, by their place in the vocabulary
    words, said = [begin, *request.tokens[0].tolist()], [begin, 9, 70, 33, end]
    assert words[-1] == end
    noisy = tiny.randn(4, 6, 4, seed=4)
    blocks = [Block(latents=image.latents[0].double()), Block(features=image.features[0, :, :-1], places=found)]
    blocks += [Block(words), Block(said), Block(latents=noisy.double(), t=0.6, noised=True)]
    config = model.policy.config
    assert (config.start_of_image_id, config.end_of_image_id) == (263, 264)
    texts, images = Reference(config, weights)(blocks)
    policy, there, logits = model.policy, torch.tensor([True]), []
    with torch.no_grad():
        context = policy.extend_image(policy.start(1), image.latents, there)
        context = policy.extend_features(context, image.features, there)
        for block in (words, said):
            tokens = torch.tensor([block])
            scores, context = policy.extend_text(context, tokens, torch.ones_like(tokens, dtype=torch.bool))
            logits.append(scores[0])
        velocity = policy.velocity(context, noisy[None], torch.tensor(0.6))
    for mine, theirs in zip(logits, texts, strict=True):
        torch.testing.assert_close(mine, theirs.float(), atol=5e-5, rtol=0)
    torch.testing.assert_close(velocity[0], images[-1].float(), atol=5e-5, rtol=0)
    assert velocity.std() > 0.1


class Pixels:
    """An image source."""

    def __init__(self, pixels):
        self.found = pixels.numpy().astype(np.float32)

    def pixels(self):
        return self.found

    def digest(self):
        return "none"


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        # As the description of the official transform has them.
        (Resize(1024, 512, 16), (1000, 1000), (992, 992)),
        (Resize(1024, 512, 16), (100, 900), (112, 1024)),
        (Resize(1024, 512, 16), (1024, 1024), (1024, 1024)),
        # Worked out by hand from its rule.
        (Resize(1024, 512, 16), (300, 400), (512, 688)),
        (Resize(980, 224, 14), (1024, 1024), (980, 980)),
        (Resize(980, 224, 14), (100, 200), (224, 448)),
        (Resize(980, 224, 14), (512, 768), (518, 770)),
    ],
)
def test_sizes_that_an_image_is_seen_in(rule, size, expected):
    assert rule(*size) == expected
    assert rule(*reversed(size)) == expected[::-1]
