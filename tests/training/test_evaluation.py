"""The one evaluator: equal prompts and draws for every arm, both guidance scales, measures by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import torch

from tests.models import tiny
from tests.training.runs import Whim
from unigrpo import registry
from unigrpo.config import RunConfig
from unigrpo.models.mot.checkpoint import MoTModel
from unigrpo.models.processor import StandardProcessor
from unigrpo.rollout.trajectory import Cost, Trajectory
from unigrpo.surroundings import accelerator
from unigrpo.training import evaluation
from unigrpo.training.artifacts import write_samples
from unigrpo.training.evaluation import Evaluation, Evaluator
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.judge import judge_images
from unigrpo.worlds.shapes.metrics import ImageMetric
from unigrpo.worlds.shapes.prompts import geneval_prompt
from unigrpo.worlds.shapes.render import render

MODEL = tiny.model()
SMALL = {"prompts_per_tag": 1, "images_per_prompt": 2, "steps": 3}
EDITS = {"name": "shapes", "task": "edits"}
EPISODE = {"name": "single_round", "max_thinking": 6}


def evaluator(model: MoTModel = MODEL, /, **changes) -> Evaluator:
    data = {"evaluation": {**SMALL, **changes.pop("evaluation", {})}, "episode": EPISODE} | changes
    return Evaluator(RunConfig.from_dict(data), model, accelerator())


def shown(found: Evaluation) -> torch.Tensor:
    """The last picture of every episode."""
    return torch.cat([decoded.last_images() for decoded in found.episodes])


@pytest.fixture(scope="module")
def plain():
    return evaluator()(MODEL.policy, 1.0, 2)


def test_one_row_for_every_picture(plain):
    assert len(plain.rows) == len(shown(plain)) == 12
    assert shown(plain).shape[1:] == (3, 32, 32)
    prompts = evaluator().prompts
    assert [row["prompt"] for row in plain.rows] == [prompt.key for prompt in prompts for _ in range(2)]
    assert [row["image"] for row in plain.rows] == [0, 1] * 6
    assert [row["meaning"] for row in plain.rows] == [prompt.meaning for prompt in prompts for _ in range(2)]
    for row in plain.rows:
        assert row["guidance"] == 1.0
        assert row.keys() >= {"tag", "text", "thinking", "strict", "official", "distance_to_clean", "proxy", "reason"}
        assert row["strict"] <= row["official"]
        json.dumps(row, allow_nan=False)


def test_samples_need_no_row_of_their_prompts(plain, tmp_path):
    """As of metrics that find nothing about single prompts."""
    write_samples(tmp_path / "samples", dataclasses.replace(plain, rows=[]), 2)
    samples = json.loads((tmp_path / "samples" / "index.json").read_text())
    assert [sample["scores"] for sample in samples] == [{}] * 6
    assert all(sample["strip"] for sample in samples)


def test_rows_are_what_the_judge_says_of_the_pictures(plain):
    evaluating = evaluator()
    asked = [prompt for prompt in evaluating.prompts for _ in range(2)]
    verdicts = judge_images(shown(plain), asked)
    for row, verdict in zip(plain.rows, verdicts, strict=True):
        assert (row["strict"], row["official"]) == (verdict.strict, verdict.official)
        assert (row["distance_to_clean"], row["extra"], row["reason"]) == (
            verdict.distance_to_clean,
            verdict.extra,
            verdict.reason,
        )


def test_arms_are_measured_with_the_same_prompts_and_draws(plain):
    """Whatever a run trains with: its seed, sampler, dynamics, guidance, rollout."""
    arm = evaluator(
        seed=7, sampler={"steps": 5, "shift": 3.0, "temperature": 0.5}, dynamics="dance_sde", guidance="cfg",
        rollout={"group_size": 4, "shared_noise": False}, optim={"image_lr": 1.0},
    )  # fmt: skip
    found = arm(MODEL.policy, 1.0, 2)
    assert torch.equal(shown(found), shown(plain))
    assert found.metrics == plain.metrics
    assert arm.set_hash == evaluator().set_hash


@pytest.mark.parametrize("changes", [{"seed": 1}, {"steps": 4}, {"shift": 2.0}, {"temperature": 0.3}])
def test_what_is_measured_with_has_another_hash(plain, changes):
    other = evaluator(evaluation=changes)
    assert other.set_hash != evaluator().set_hash
    assert not torch.equal(shown(other(MODEL.policy, 1.0, 2)), shown(plain))


def test_the_hash_covers_the_prompts_and_not_the_loop():
    assert evaluator(evaluation={"prompts_per_tag": 2}).set_hash != evaluator().set_hash
    loop = {"every": 3, "loop_images_per_prompt": 2, "retention": "shapes", "retention_prompts_per_tag": 3}
    assert evaluator(evaluation=loop).set_hash == evaluator().set_hash
    turns = [evaluator(dataset=EDITS, episode={"name": "editing", "test_turns": n}).set_hash for n in (2, 3, 3)]
    assert turns[0] != turns[1] == turns[2]


def test_results_do_not_depend_on_the_batch(plain, monkeypatch):
    monkeypatch.setattr(evaluation, "_ROWS", 4)
    found = evaluator()(MODEL.policy, 1.0, 2)
    torch.testing.assert_close(shown(found), shown(plain), atol=1e-4, rtol=0)
    assert [row["thinking"] for row in found.rows] == [row["thinking"] for row in plain.rows]
    assert found.cost.nfe == plain.cost.nfe == 12 * 3


def test_fewer_pictures_are_the_first_of_more(plain):
    found = evaluator()(MODEL.policy, 1.0, 1)
    torch.testing.assert_close(shown(found), shown(plain)[::2], atol=1e-4, rtol=0)
    assert "heldout/diversity" not in found.metrics


def test_global_random_numbers_are_neither_used_nor_moved(plain):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(shown(evaluator()(MODEL.policy, 1.0, 2)), shown(plain))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_second_scale_guides_from_the_same_noise(plain):
    guided = evaluator()(MODEL.policy, 2.0, 2)
    assert guided.cost.nfe == 2 * plain.cost.nfe
    assert guided.cost.tokens == plain.cost.tokens
    assert [row["thinking"] for row in guided.rows] == [row["thinking"] for row in plain.rows]
    assert not torch.equal(shown(guided), shown(plain))
    assert {row["guidance"] for row in guided.rows} == {2.0}


def test_drift_is_measured_on_all_tags_alike(monkeypatch):
    """Of 18 prompts in 6 tags, 12: two of each, and of 18 or more all."""
    evaluating, asked = evaluator(evaluation={"prompts_per_tag": 3}), []
    nothing = Trajectory((), 1, (), (), Cost())
    monkeypatch.setattr(evaluating, "sample", lambda *given: asked.append(given[2]) or nothing)
    monkeypatch.setattr(evaluation, "replay", lambda *given: nothing)
    for rows in (12, 18, 99):
        evaluating.drift(MODEL.policy, MODEL.reference(), rows)
    tags = [prompt.tag for prompt in asked[0]]
    assert {tag: tags.count(tag) for tag in tags} == dict.fromkeys(evaluating.dataset.prompts("test"), 2)
    assert asked[1] == asked[2] == list(evaluating.prompts)


def test_the_reference_has_not_drifted_from_itself():
    assert evaluator().drift(MODEL.policy, MODEL.reference()) == {
        "drift/latent_kl": 0.0, "drift/velocity_mse": 0.0, "drift/text_kl": 0.0,
    }  # fmt: skip


def test_drift_is_measured_on_all_steps_with_flow_grpos_noise():
    """By the identity of MATH 7, step by step, where the penalty is known from the velocities alone."""
    moved = tiny.model()
    with torch.no_grad():
        moved.policy.llm2vae.bias += 0.1
    found = evaluator().drift(moved.policy, MODEL.reference())
    assert found["drift/velocity_mse"] == pytest.approx(0.01, rel=1e-4), "every velocity is .1 off"
    assert found["drift/text_kl"] == 0.0
    a, points = 0.8, [1.0, 2 / 3, 1 / 3, 0.0]
    weights = []
    for t, t_next in itertools.pairwise(points):
        sigma = a * (t / (1 - (points[1] if t == 1 else t))) ** 0.5
        weights.append((t - t_next) / 2 * (sigma * (1 - t) / (2 * t) + 1 / sigma) ** 2)
    assert found["drift/latent_kl"] == pytest.approx(0.01 * sum(weights) / 3, rel=1e-3)


def test_drift_of_the_text_policy():
    moved = tiny.model()
    with torch.no_grad():
        moved.policy.language_model.lm_head.weight *= 1.2
    found = evaluator().drift(moved.policy, MODEL.reference())
    assert found["drift/text_kl"] > 0.01


def test_drift_of_pictures_painted_by_tokens():
    """From all codes being equally likely to a single one: KL's estimate is 1/12 - 1 + ln 12 of every code."""
    was, moved = (tiny.model(code_levels=(3, 2, 2)) for _ in range(2))
    with torch.no_grad():
        for model, sure in ((was, 0.0), (moved, 100.0)):
            model.policy.llm2code.weight.zero_()
            model.policy.llm2code.bias.zero_()[5] = sure
    found = evaluator(moved, image_head="tokens").drift(moved.policy, was.policy)
    assert found == {"drift/text_kl": 0.0, "drift/image_kl": pytest.approx(1 / 12 - 1 + math.log(12))}


def test_edits_are_evaluated_in_all_their_turns():
    """One row per turn; training in one turn is measured in three all the same."""
    episode = {"name": "editing", "turns": 1, "max_thinking": 4}
    found = evaluator(dataset=EDITS, episode=episode)(MODEL.policy, 1.0, 2)
    assert len(found.rows) == 3 * 12
    assert sorted({row["turn"] for row in found.rows}) == [1, 2, 3]
    assert found.cost.nfe == 12 * 3 * 3
    assert found.metrics.keys() >= {"editing/O", "editing/turn/3/O", "heldout/diversity"}


STORIES = {"name": "interleaved", "max_pictures": 2, "max_text": 12}
TOLD = {"evaluation": {"prompts_per_tag": 3}, "dataset": {"name": "shapes", "task": "stories"}, "reward": Whim()}


def test_stories_end_when_they_do_and_drift_counts_what_there_is():
    evaluating = evaluator(episode=STORIES, **TOLD)
    found = evaluating(MODEL.policy, 1.0, 2)
    assert len(found.rows) == 12
    assert len({row["pictures"] for row in found.rows}) > 1, "some paint, some do not"
    assert found.cost.nfe == 3 * sum(row["pictures"] for row in found.rows)
    assert set(evaluating.drift(MODEL.policy, MODEL.reference()).values()) == {0.0}
    assert evaluating.set_hash != evaluator().set_hash


def test_a_policy_that_paints_nothing_has_no_diversity():
    silent = TOLD | {"evaluation": {"prompts_per_tag": 3, "seed": 1}}
    found = evaluator(episode=STORIES | {"max_text": 1}, **silent)(MODEL.policy, 1.0, 2)
    assert {row["pictures"] for row in found.rows} == {0}
    assert "heldout/diversity" not in found.metrics
    assert found.metrics["interleaved/mean"] == found.metrics["interleaved/structure"] == 0


def test_retention_is_measured_on_single_pictures_with_its_own_counts():
    counts = {"prompts_per_tag": 3, "retention": "shapes", "retention_prompts_per_tag": 1}
    retention = evaluator(**TOLD | {"evaluation": counts}, episode=STORIES).retention()
    alone = Evaluator(RunConfig.from_dict({"evaluation": SMALL}), MODEL, accelerator())
    assert [prompt.key for prompt in retention.prompts] == [prompt.key for prompt in alone.prompts]
    assert retention(MODEL.policy, 1.0, 1).metrics == alone(MODEL.policy, 1.0, 1).metrics
    assert evaluator().retention() is None


def test_without_thinking_there_is_nothing_to_be_faithful():
    silent = evaluator(episode={"name": "single_round", "thinking": False}, modalities="image_only")
    found = silent(MODEL.policy, 1.0, 1)
    assert {row["thinking"] for row in found.rows} == {""}
    assert found.metrics["thinking/length"] == found.metrics["thinking/faithful"] == 0
    assert "drift/text_kl" not in silent.drift(MODEL.policy, MODEL.reference())


def test_a_perfect_policy_scores_perfectly():
    """Decoded pictures of what each prompt asks for, and plans that say it: the evaluator adds nothing of its own."""
    import random

    from unigrpo.worlds.shapes.examples import satisfying_scene
    from unigrpo.worlds.shapes.thinking import plan_of, write_thinking

    evaluating = evaluator()
    scenes = [satisfying_scene(geneval_prompt(prompt), random.Random(1)) for prompt in evaluating.prompts]
    pictures = torch.from_numpy(render(scenes))
    said = MODEL.tokenizer.encode([write_thinking(plan_of(scene)) for scene in scenes])

    class Artist(torch.nn.Module):
        factor = MODEL.autoencoder.factor

        def decode(self, latents):
            return pictures

    evaluating.processor = StandardProcessor(MODEL.tokenizer, Artist(), MODEL.processor.grid)
    trajectory = evaluating.sample(MODEL.policy, evaluating._spec(1.0), evaluating.prompts, 1)
    segments = (trajectory.segments[0], dataclasses.replace(trajectory.segments[1], tokens=said[0], mask=said[1]))
    evaluating.sample = lambda *_: dataclasses.replace(trajectory, segments=(*segments, trajectory.segments[2]))
    found = evaluating(MODEL.policy, 1.0, 1)
    for name in ("geneval/strict", "geneval/official", "geneval/strict_soft", "thinking/faithful"):
        assert found.metrics[name] == 1.0, name
    assert found.metrics["heldout/extra_objects"] == 0
    assert found.metrics["heldout/distance_to_clean"] < 0.05
    assert found.metrics["heldout/proxy"] > 0.5


def test_the_hash_covers_what_measures_and_not_how_an_arm_paints(monkeypatch):
    plain = evaluator().set_hash
    assert evaluator(image_head="tokens").set_hash == plain, "flow and tokens are compared on the same set"
    with monkeypatch.context() as patch:
        patch.setattr(ImageMetric, "version", 2)
        assert evaluator().set_hash != plain
    with monkeypatch.context() as patch:
        patch.setattr(Shapes, "digest", lambda self: "another")
        assert evaluator().set_hash != plain
    with monkeypatch.context() as patch:
        patch.setattr(registry, "user_sources", lambda value: {"dataset=shapes": "other source"})
        assert evaluator().set_hash != plain
