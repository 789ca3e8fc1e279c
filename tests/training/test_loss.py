"""One minibatch's loss against the same number worked out by hand, and what is logged beside it."""

from __future__ import annotations

import math

import pytest
import torch

from tests.models import tiny
from tests.rollouts import roll, spec
from tests.training.runs import config_of
from unigrpo.algorithms.policy_gradient import minibatch_loss
from unigrpo.rollout.episodes import SingleRound
from unigrpo.rollout.rollout import replay

#: Of the prompt (which counts for nothing), the thinking and the picture of six episodes.
ADVANTAGE = torch.tensor(
    [[9.0, 1.0, 0.5], [9.0, -0.5, -1.0], [9.0, 0.25, 2.0], [9.0, 0.0, 0.0], [9.0, -1.5, 0.25], [9.0, 0.75, -0.5]]
)
OLD, NEW, REFERENCE = tiny.policy(0), tiny.policy(0), tiny.policy(0)
with torch.no_grad():
    for number, policy in ((1, NEW), (2, REFERENCE)):
        for parameter in policy.parameters():
            parameter += 0.01 * tiny.randn(*parameter.shape, seed=number)
RULES = spec()
TRAJECTORY = roll(OLD, RULES, shared=False)


def scored(policy, **changes):
    return tuple(replay(policy, RULES, TRAJECTORY, **changes).scores)


def by_hand(text_weight: float, image_weight: float) -> torch.Tensor:
    """UniGRPO eq. 2 to 8, row by row, with clips of .2 and .02 and both penalties."""
    new, reference, old = scored(NEW), scored(REFERENCE), TRAJECTORY.scores
    mask = TRAJECTORY.thinking.mask
    text = 0.0
    for row in range(6):
        tokens = 0.0
        for k in range(int(mask[row].sum())):
            p, q, ref = (scores[1].log_prob[row, k] for scores in (new, old, reference))
            ratio, a = (p - q).exp(), ADVANTAGE[row, 1]
            surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            tokens = tokens - surrogate + 0.1 * ((ref - p).exp() - 1 - (ref - p))
        text = text + tokens / mask[row].sum() / 6
    image = 0.0
    for now, was, ref in zip(new[-1].steps, old[-1].steps, reference[-1].steps, strict=True):
        for row in range(6):
            z = (TRAJECTORY.image.steps[now.index].x_next[row] - was.mean[row]) / was.std
            log_ratio = -(z * (was.mean[row] - now.mean[row])).mean()
            ratio, a = log_ratio.exp(), ADVANTAGE[row, 2]
            penalty = (now.velocity[row] - ref.velocity[row]).square().mean()
            image = image + (0.1 * penalty - torch.minimum(ratio * a, ratio.clamp(0.98, 1.02) * a)) / 6 / 2
    return text_weight * text + image_weight * image


@pytest.mark.parametrize(("text", "image"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_joint_loss_by_hand(text, image):
    config = config_of(modalities={"name": "joint", "text": text, "image": image})
    found = minibatch_loss(config, TRAJECTORY, scored(NEW), scored(REFERENCE), ADVANTAGE)
    torch.testing.assert_close(found.loss, by_hand(text, image), atol=2e-5, rtol=1e-4)


def test_its_gradient_by_hand():
    config = config_of()
    wanted = [NEW.llm2vae.weight, NEW.language_model.lm_head.weight]
    found = minibatch_loss(config, TRAJECTORY, scored(NEW), scored(REFERENCE), ADVANTAGE)
    mine = torch.autograd.grad(found.loss, wanted)
    theirs = torch.autograd.grad(by_hand(1.0, 1.0), wanted)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-2)


def test_p13_on_policy_the_loss_is_minus_the_mean_advantage():
    config = config_of(regularizer="none", text_kl="none")
    found = minibatch_loss(config, TRAJECTORY, scored(OLD), None, ADVANTAGE)
    torch.testing.assert_close(found.loss, -ADVANTAGE[:, 1:].mean(0).sum(), atol=1e-6, rtol=0)
    assert found.text_deviation == found.image_deviation == 0.0
    assert "loss/regularizer" not in found.metrics
    assert not any(name.startswith("drift") for name in found.metrics)


def test_deviations_are_the_largest_log_ratios():
    found = minibatch_loss(config_of(), TRAJECTORY, scored(NEW), None, ADVANTAGE)
    mask = TRAJECTORY.thinking.mask
    largest = (scored(NEW)[1].log_prob - TRAJECTORY.scores[1].log_prob)[mask].abs().max().item()
    assert found.text_deviation == pytest.approx(largest, rel=1e-6)
    assert 0 < found.image_deviation < 1


def test_diagnostics_by_step():
    found = minibatch_loss(config_of(), TRAJECTORY, scored(NEW), scored(REFERENCE), ADVANTAGE).metrics
    for k in (0, 1):
        assert found[f"ratio/image_mean/{k}"] != 1.0
        assert found[f"ratio/image_std/{k}"] > 0
        assert 0 <= found[f"ratio/image_clip_frac/{k}"] <= 1
    steps = list(zip(scored(NEW)[-1].steps, scored(REFERENCE)[-1].steps, strict=True))
    mse = sum((now.velocity - ref.velocity).square().mean().item() for now, ref in steps) / 2
    kl = sum(((now.mean - ref.mean).square().mean() / (2 * now.std**2)).item() for now, ref in steps) / 2
    assert found["drift/velocity_mse"] == pytest.approx(mse, rel=1e-5)
    assert found["drift/latent_kl"] == pytest.approx(kl, rel=1e-5)
    assert found["loss/regularizer"] == pytest.approx(mse, rel=1e-5), "logged unweighted"


def test_p20_no_gradient_reaches_the_reference_or_the_old_policy():
    old, reference = scored(OLD), scored(REFERENCE)
    trajectory = TRAJECTORY.__class__(TRAJECTORY.prompts, 3, TRAJECTORY.segments, old)
    advantage = ADVANTAGE.clone().requires_grad_()
    minibatch_loss(config_of(), trajectory, scored(NEW), reference, advantage).loss.backward()
    assert all(parameter.grad is None for policy in (OLD, REFERENCE) for parameter in policy.parameters())
    assert advantage.grad is None
    assert NEW.llm2vae.weight.grad is not None
    NEW.zero_grad()


@pytest.mark.parametrize("ratio", ["ratio_norm", "guard"])
def test_guard_weights_steps_by_their_inverse_size(ratio):
    """Of steps of one size the two are the same; here the second is half of the first."""
    import dataclasses

    points = torch.tensor([1.0, 0.6, 0.4, 0.0], dtype=torch.float64)
    walked = dataclasses.replace(RULES, points=points)
    trajectory = roll(OLD, walked, shared=False, episode=SingleRound(thinking=False))
    config = config_of(image_ratio=ratio, modalities="image_only", regularizer="none")
    found = minibatch_loss(config, trajectory, tuple(replay(OLD, walked, trajectory).scores), None, ADVANTAGE[:, 1:])
    weights = torch.tensor([2 / 3, 4 / 3]) if ratio == "guard" else torch.ones(2)
    gradients = torch.autograd.grad(found.loss, [OLD.llm2vae.weight])[0]
    score = replay(OLD, walked, trajectory).scores[-1]
    expected = 0.0
    for now, was, taken, weight in zip(
        score.steps, trajectory.scores[-1].steps, trajectory.image.steps, weights, strict=True
    ):
        z = (taken.x_next - was.mean) / was.std
        log_ratio = -(z * (was.mean - now.mean)).flatten(1).mean(1)
        expected = expected - weight * (log_ratio * ADVANTAGE[:, 2]).mean() / 2
    other = torch.autograd.grad(expected, [OLD.llm2vae.weight])[0]
    torch.testing.assert_close(gradients, other, atol=1e-6, rtol=1e-3)


def test_nothing_logged_is_a_tensor():
    found = minibatch_loss(config_of(), TRAJECTORY, scored(NEW), scored(REFERENCE), ADVANTAGE)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.metrics.values())
