"""Runs of a model with a vision encoder: from the start ratios are 1 and the reference is where the policy is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from tests.models import tiny
from tests.training.runs import ROUNDS, config_of, moved, weights_of
from unigrpo.algorithms.sft import Sft
from unigrpo.models import LoadedModel, Model
from unigrpo.registry import register
from unigrpo.rollout.trajectory import ImageSegment
from unigrpo.sft import Schedule, columns_of, progress, rows_of, spec_of, train
from unigrpo.training.trainer import Trainer
from unigrpo.worlds.shapes.sft_data import Faults, drawn_examples


@register("model", "tiny_seeing", source="the tests")
@dataclass(frozen=True)
class TinySeeing(Model):
    """A tiny random model that sees the colours of an image's quarters."""

    codes: bool = False

    @property
    def paints(self):
        return frozenset({"tokens" if self.codes else "denoising"})

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
        return tiny.model(vision_channels=3, code_levels=(3, 2, 2) if self.codes else ())


def trainer_of(kind: str, **changes) -> Trainer:
    codes = kind == "codes"
    config = config_of(**ROUNDS[kind], rollout={"group_size": 4}, guidance="cfg", **changes)
    return Trainer(replace(config, model=TinySeeing(codes)).check())


@pytest.mark.parametrize("kind", ["editing", "interleaved", "tree", "codes"])
def test_the_first_ratios_are_1_the_reference_is_at_0_and_the_connector_learns(kind):
    trainer = trainer_of(kind)
    before = weights_of(trainer.policy)
    found = trainer.update(0)
    assert found["guard/text"] == found["guard/image"] == 0.0
    assert found["ratio/text_mean"] == 1.0
    other = "loss/image_kl" if kind == "codes" else "loss/regularizer"
    assert found["loss/text_kl"] == found[other] == 0.0
    assert {name for name in moved(before, weights_of(trainer.policy)) if name.startswith("connector")}


def test_scores_of_the_reference_ask_neither_the_autoencoder_nor_the_encoder(monkeypatch):
    trainer = trainer_of("editing")
    spec = trainer.rollout_spec(0)
    trajectories = trainer.rollout(0, spec)
    images = [s for t in trajectories for s in t.segments if isinstance(s, ImageSegment)]
    assert any(image.features is not None and not image.given for image in images)

    def never(*_):
        raise AssertionError("asked again")

    processor = trainer.model.processor
    for name in ("encode", "decode"):
        monkeypatch.setattr(processor.autoencoder, name, never)
    processor.vision = never
    for trajectory in trajectories:
        trainer.prepare([trajectory], [torch.zeros(len(trajectory.row_prompts), len(trajectory.segments))], 0, spec)


def test_evaluations_see_too():
    trainer = trainer_of("editing")
    evaluator = trainer.evaluator
    trajectory = evaluator.sample(trainer.policy, evaluator._spec(1.0), evaluator.prompts[:2], 1)
    *seen, last = (s for s in trajectory.segments if isinstance(s, ImageSegment))
    assert all(image.features is not None for image in seen)
    assert last.features is None


def edits():
    return drawn_examples({"edits": 1.0}, 12, 0, Faults())["edits"]


class TestSft:
    """Supervised fine-tuning goes through the same door."""

    def test_images_are_seen_by_their_own_pixels_where_something_follows_them(self):
        model = tiny.model(vision_channels=3)
        examples = edits()
        columns = columns_of(examples, model)
        images = [(k, s) for k, s in enumerate(columns) if isinstance(s, ImageSegment)]
        pixels = torch.stack([torch.from_numpy(example[0].image.pixels()) for example in examples])
        assert torch.equal(columns[0].features, tiny.Quarters()(pixels))
        for k, image in images:
            assert (image.features is None) == (k == len(columns) - 1)
        rows = torch.tensor([5, 0])
        assert torch.equal(rows_of(columns, rows)[0].features, columns[0].features[rows])

    def test_it_trains_the_connector(self):
        model = tiny.model(vision_channels=3)
        before = weights_of(model.policy)
        with progress() as track:
            data = {"edits": columns_of(edits(), model)}
            train(model, data, {"edits": 1.0}, Sft(), Schedule(steps=1, batch=8), track)
        changed = moved(before, weights_of(model.policy))
        assert {name for name in changed if name.startswith("connector")}
        assert spec_of(model).see is None
