"""The pipeline that is shipped: how it is made, and that it is what its recipe says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch.nn import functional as F

from unigrpo.checkpoints import RECIPE, SHIPPED, pipeline_folder
from unigrpo.config import EvaluationConfig
from unigrpo.models.mot import checkpoint
from unigrpo.models.pipelines import Diffusers
from unigrpo.plain import build
from unigrpo.worlds.shapes import train_pipeline, untrained_pipeline
from unigrpo.worlds.shapes.examples import faulty_examples
from unigrpo.worlds.shapes.train_pipeline import PipelineRecipe, digest, load, main, train_autoencoder
from unigrpo.worlds.shapes.untrained_pipeline import Sizes
from unigrpo.worlds.shapes.vocabulary import vocabulary

NAME = "tiny-sd3"
SMALL = Sizes(
    autoencoder_widths=(8, 8, 8, 8),
    transformer_layers=1,
    transformer_heads=2,
    transformer_head_width=8,
    language_width=16,
    language_layers=1,
    language_heads=2,
)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    untrained_pipeline.write(folder, SMALL, vocabulary(), seed=0)
    return folder


def test_each_word_is_one_token_and_other_words_are_spelt(untrained):
    tokenizer = load(untrained).policy.pipe.tokenizer
    assert [tokenizer.tokenize(word) for word in vocabulary()] == [[f"{word}</w>"] for word in vocabulary()]
    spelt = tokenizer.tokenize("zebra")
    assert len(spelt) > 1
    assert "".join(spelt) == "zebra</w>"


def test_the_transformer_reads_a_code_of_each_word_and_one_of_its_place(untrained):
    """And they are orthogonal, so that one linear map gives each any embedding; what it reads is not mixed."""
    pipe = load(untrained).policy.pipe
    text = "draw a red circle left of two squares"
    found = pipe.encode_prompt([text], None, None, max_sequence_length=1, do_classifier_free_guidance=False)[0][0]
    assert found.shape == (SMALL.text_length + 1, 2 * SMALL.encoder_width)
    assert not found[-1].any(), "zeros stand for the T5 that is not there"
    tables = [encoder.text_model.embeddings for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    words = torch.cat([table.token_embedding.weight for table in tables], 1)
    places = torch.cat([table.position_embedding.weight for table in tables], 1)
    ids = pipe.tokenizer(text).input_ids
    torch.testing.assert_close(found[: len(ids)], words[ids] + places[: len(ids)])
    known = pipe.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in vocabulary()])
    codes = torch.cat((words[known], places))
    torch.testing.assert_close(codes @ codes.T, torch.eye(len(codes)) * codes.shape[1], atol=1e-3, rtol=0)


def test_encoders_that_are_too_narrow_are_refused(tmp_path):
    with pytest.raises(ValueError, match="encoder_width: expected 89 or more in 2 encoders, got 64"):
        untrained_pipeline.write(tmp_path, dataclasses.replace(SMALL, encoder_width=32), vocabulary(), 0)


def test_an_untrained_transformer_says_no_velocity(untrained):
    """So begins a diffusion transformer; its language model is another module with weights of its own."""
    policy = load(untrained).policy
    context = policy.start(2)
    assert not policy.velocity(context, torch.randn(2, 8, 4, 4), torch.tensor(0.5)).any()


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The only ones that an autoencoder is trained on."""
    drawn = faulty_examples(np.random.default_rng(0), 16)
    found = torch.from_numpy(np.stack([example.picture for example in drawn]))
    monkeypatch.setattr(train_pipeline, "usual_images", lambda seed: found)
    return found


def test_the_autoencoder_is_taught_the_latents_of_another(untrained, images):
    teacher = checkpoint.load("tiny-shapes").autoencoder
    vae, latents = load(untrained).policy.pipe.vae, teacher.encode(images)

    def errors() -> tuple[float, float]:
        with torch.no_grad():
            encoded, decoded = vae.encode(images).latent_dist.mode(), vae.decode(latents).sample
        return F.mse_loss(encoded, latents).item(), F.mse_loss(decoded, images).item()

    before = errors()
    recipe = PipelineRecipe(sizes=SMALL, autoencoder_steps=30, autoencoder_batch=8, autoencoder_lr=5e-2)
    train_autoencoder(vae, teacher, recipe, Progress(disable=True))
    after = errors()
    assert after[0] < 0.9 * before[0]
    assert after[1] < 0.5 * before[1]


@pytest.mark.usefixtures("images")
def test_the_command_leaves_the_same_pipeline_from_the_same_seed(tmp_path, monkeypatch, capsys):
    small = EvaluationConfig(prompts_per_tag=1, images_per_prompt=1, steps=1)
    monkeypatch.setattr(train_pipeline, "EvaluationConfig", lambda: small)
    sizes = [f"sizes.{name}={json.dumps(value)}" for name, value in dataclasses.asdict(SMALL).items()]
    settings = ["examples=8", "steps=2", "autoencoder_steps=1", "batch=2", "noises=1", *sizes]
    for name in ("one", "two"):
        torch.manual_seed(len(name + capsys.readouterr().out))
        assert main([str(tmp_path / name), *settings]) == 0
    one, two = (json.loads((tmp_path / name / RECIPE).read_text()) for name in ("one", "two"))
    assert one["sha256"] == digest(tmp_path / "one") == two["sha256"]
    assert build(PipelineRecipe, one["recipe"]) == PipelineRecipe(
        sizes=SMALL, examples=8, steps=2, autoencoder_steps=1, batch=2, noises=1
    )
    settings = sorted((tmp_path / "one").rglob("*.json"))
    assert not [path for path in settings if str(tmp_path) in path.read_text()], "its files do not depend on its place"
    assert one["scores"].keys() >= {"geneval/strict", "guided/geneval/strict"}
    assert "strict" in capsys.readouterr().out
    assert load(tmp_path / "one").policy.transformer.proj_out.weight.any(), "it has been trained"
    assert main([str(tmp_path / "three"), "steps"]) == 2


class TestShipped:
    @pytest.fixture
    def folder(self) -> Path:
        return pipeline_folder("model.path", NAME)

    def test_it_is_small_and_is_what_its_recipe_says(self, folder):
        recipe = json.loads((folder / RECIPE).read_text())
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 8 * 2**20
        assert recipe["sha256"] == digest(folder)
        assert build(PipelineRecipe, recipe["recipe"]).steps > 0

    def test_it_has_as_many_parameters_as_the_mixture_of_transformers(self, folder):
        """Within 5 %; encoders and autoencoders, which are not trained, apart."""
        composed, unified = (
            sum(parameter.numel() for parameter in model.policy.parameters())
            for model in (load(folder), checkpoint.load("tiny-shapes"))
        )
        assert abs(composed / unified - 1) < 0.05

    def test_it_speaks_the_language_of_its_world(self, folder):
        loaded = load(folder)
        assert loaded.processor.tokenizer.words().keys() >= set(vocabulary())
        assert loaded.processor.latent_shape() == checkpoint.load("tiny-shapes").processor.latent_shape()

    def test_its_certificate_holds(self, folder):
        assert Diffusers(NAME, max_sequence_length=1).remarks() == []

    def test_a_path_is_a_path(self, folder, monkeypatch):
        assert folder == SHIPPED / NAME
        assert pipeline_folder("model.path", f"./{NAME}") == Path(NAME)
        monkeypatch.setenv("HOME", "/home/me")
        assert pipeline_folder("model.path", "~/sd3") == Path("/home/me/sd3")
        assert pipeline_folder("model.language_model", f"{NAME}/language_model") == folder / "language_model"
