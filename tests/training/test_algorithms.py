"""Algorithms in the trainer: what each keeps, when, and that whoever comes without ratios trains."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.training.runs import config_of
from unigrpo.algorithms.algorithm import Algorithm, MinibatchLoss
from unigrpo.rollout.trajectory import ImageScore
from unigrpo.training.trainer import Trainer

AWM = {"algorithm": "awm", "dynamics": "ode"}
#: As they are where nothing is chosen; the short runs choose others.
UNREAD = {
    name: {"name": "ppo_clip", "low": 0.2, "high": 0.2} for name in ("text_trust_region", "image_trust_region")
} | {"regularizer": "none", "text_kl": "none"}


def test_awm_trains_on_images_of_the_ode_and_starts_from_ratio_1():
    trainer = Trainer(config_of(**AWM, rollout={"shared_noise": False, "minibatches": 2, "epochs": 2}))
    before = {name: parameter.clone() for name, parameter in trainer.policy.named_parameters()}
    spec = trainer.rollout_spec(0)
    trajectories = trainer.rollout(0, spec)
    assert all(not segment.steps for t in trajectories for segment in t.segments if hasattr(segment, "steps"))
    found = trainer.update(0)
    assert found["guard/image"] == found["guard/text"] == 0.0
    assert found["drift/velocity_mse"] > 0, "from the second step on"
    changed = [
        name for name, parameter in trainer.policy.named_parameters() if not torch.equal(before[name], parameter)
    ]
    assert any("moe_gen" in name or "llm2vae" in name for name in changed)


def prepared(trainer, trajectory, update, spec):
    advantage = torch.zeros(len(trajectory.row_prompts), len(trajectory.segments))
    (whole,) = trainer.prepare([trajectory], [advantage], update, spec)
    return whole.batch


def test_the_old_policy_is_the_one_that_sampled():
    """What is kept of a second minibatch is of before the step with the first one."""
    trainer = Trainer(config_of(**AWM, rollout={"shared_noise": False, "minibatches": 2}))
    spec = trainer.rollout_spec(0)
    _, second = trainer.rollout(0, spec)
    kept = prepared(trainer, second, 0, spec)
    scores = trainer.scoring(trainer.policy, "train", spec, trainer.config.modalities)(second, kept.points)
    for old, new in zip(kept.old, scores, strict=True):
        if isinstance(old, ImageScore):
            assert len(old.velocities) == 2
            assert all(torch.equal(a, b) for a, b in zip(old.velocities, new.velocities, strict=True))
            assert not old.velocities[0].requires_grad
            assert new.velocities[0].requires_grad


def test_every_update_has_points_of_its_own():
    trainer = Trainer(config_of(**AWM))
    spec = trainer.rollout_spec(0)
    (trajectory,) = trainer.rollout(0, spec)
    one, again, later = (prepared(trainer, trajectory, update, spec).points for update in (0, 0, 1))
    (number,) = one
    assert torch.equal(one[number][0].noise, again[number][0].noise)
    assert not torch.isclose(one[number][0].noise, later[number][0].noise).any()


@dataclass(frozen=True)
class Entropic(Algorithm):
    """A user's: the mean log-probability of texts, times their advantage."""

    name = "entropic"
    reads = frozenset()

    def loss(self, config, batch, advantage, policy):
        score = policy(batch.trajectory)[1]
        value = (score.log_prob.sum(1) * advantage[:, 1]).mean()
        return MinibatchLoss(-value, {"loss/own": -value.item()})

    def needs_reference(self, config):
        return False


def test_an_algorithm_of_ones_own_is_one_class():
    trainer = Trainer(config_of(**UNREAD, algorithm=Entropic(), modalities="text_only"))
    assert not trainer.needs_reference(1)
    found = trainer.update(1)
    assert found["loss/own"] != 0
    assert found["grad/text"] > 0
    assert trainer.cost["nfe_reference"] == 0


@pytest.mark.parametrize("key", ["text_trust_region", "regularizer"])
def test_what_an_algorithm_does_not_read_is_refused(key):
    """Two arms that differ in it alone would be one run under two names."""
    chosen = UNREAD | {key: {"text_trust_region": "none", "regularizer": "velocity_mse"}[key]}
    config = config_of(**chosen, algorithm=Entropic(), modalities="text_only")
    (fault,) = config.conflicts()
    assert fault.startswith(f"algorithm=entropic: {key}={chosen[key]}: is not read by this algorithm")


@pytest.mark.parametrize("algorithm", ["policy_gradient", "awm"])
def test_the_reference_is_asked_where_a_penalty_has_a_weight(algorithm):
    trainer = Trainer(config_of(algorithm=algorithm))
    assert trainer.needs_reference(1)
    silent = Trainer(config_of(algorithm=algorithm, regularizer="none", text_kl="none"))
    assert not silent.needs_reference(1)
    assert silent.needs_reference(10)
