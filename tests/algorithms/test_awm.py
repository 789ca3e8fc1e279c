"""Advantage-weighted matching against the paper's formula written out row by row, and what must hold of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from tests.models import tiny
from tests.rollouts import roll, spec
from tests.strategies import DOUBLE
from unigrpo.algorithms.algorithm import Batch
from unigrpo.algorithms.awm import Awm, Matched, log_likelihood
from unigrpo.checks import ShapeError
from unigrpo.config import RunConfig
from unigrpo.flow.dynamics import Ode
from unigrpo.noise import EpisodeDraws
from unigrpo.objective.regularizer import VelocityMse
from unigrpo.objective.trust_region import PpoClip, Unclipped
from unigrpo.rollout.points import AtPoints, Point
from unigrpo.rollout.rollout import replay
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, TextScore, TextSegment, Trajectory

B, LATENT = 4, (2, 2, 2)
ALIVE = torch.tensor([True, True, False, True])
PLAIN = {"regularizer": "none", "text_kl": "none"}


def config_of(**changes) -> RunConfig:
    chosen = {
        "dynamics": "ode",
        "image_trust_region": {"name": "ppo_clip", "low": 0.3, "high": 0.3},
        "regularizer": {"name": "velocity_mse", "weight": 0.1},
        "text_kl": {"name": "k3", "weight": 0.1},
        "algorithm": {"name": "awm", "draws": 2, "power": 1.0},
    }
    return RunConfig.from_dict(chosen | changes)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@dataclass
class Case:
    """Prompt, text, image, text, image of four episodes, one of which is over before its first image."""

    batch: Batch
    scores: tuple[object, ...]
    advantage: Tensor
    leaves: tuple[Tensor, ...]

    def loss(self, **changes):
        config = config_of(**changes)

        def policy(trajectory, points=None):
            assert points is self.batch.points, "at the points of the old policy"
            return self.scores

        return config.algorithm.loss(config, self.batch, self.advantage, policy)

    def gradients(self, **changes):
        return torch.autograd.grad(self.loss(**changes).loss, self.leaves, allow_unused=True, materialize_grads=True)


def case_of(seed: int = 0, junk: float = float("nan"), rows: tuple[int, ...] = (0, 1, 2, 3)) -> Case:
    order, leaves = torch.tensor(rows), []
    said = torch.arange(3) < torch.tensor([3, 2, 1, 3])[:, None]
    later = torch.arange(3) < torch.tensor([1, 3, 0, 2])[:, None]
    segments, scores, points = [TextSegment(torch.zeros(2, 3).long(), said[:2], given=True)], [[None]] * 3, {}
    scores = [[None], [None], [None]]
    for k, mask in ((1, said), (2, ALIVE), (3, later), (4, ALIVE)):
        image = k % 2 == 0
        clean = drawn(seed + 10 * k, B, *LATENT)
        clean[~ALIVE] = junk
        segments.append(
            ImageSegment((), clean[order], mask[order]) if image else TextSegment(torch.zeros(B, 3).long(), mask[order])
        )
        if image:
            points[k] = tuple(
                Point(drawn(seed + k + 3 * n, B).sigmoid()[order], drawn(seed + k + 7 * n, B, *LATENT)[order])
                for n in (0, 1)
            )
        for who in range(3):
            values = []
            for n in range(2 if image else 1):
                start = seed + 100 * k + 31 * who + n
                value = drawn(start, B, *LATENT, scale=0.8) if image else drawn(start, B, 3, scale=0.3)
                value[~mask] = junk
                values.append(value[order].requires_grad_())
            leaves += values if who == 1 else []
            scores[who].append(ImageScore(velocities=tuple(values)) if image else TextScore(values[0]))
    old, new, reference = map(tuple, scores)
    trajectory = Trajectory(("a", "b"), 2, tuple(segments), old)
    advantage = drawn(seed + 5, B, 5)[order]
    return Case(Batch(trajectory, old, reference, points), new, advantage, tuple(leaves))


def by_hand(case: Case, power: float = 1.0) -> Tensor:
    """J = J_text + J_image, from the paper: exp of minus w(t) ||v - (e - x_0)||^2, over the old policy's."""
    text, image = [], []
    for row in range(B):
        said, shown = [], []
        for k, segment in enumerate(case.batch.trajectory.segments):
            if segment.given or not segment.alive[row]:
                continue
            a, old, new, ref = case.advantage[row, k], case.batch.old[k], case.scores[k], case.batch.reference[k]
            if isinstance(segment, TextSegment):
                for p, q, r in zip(*(one.log_prob[row][segment.mask[row]] for one in (new, old, ref)), strict=True):
                    ratio = (p - q.detach()).exp()
                    penalty = (r.detach() - p).exp() - 1 - (r.detach() - p)
                    said.append(0.1 * penalty - torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a))
                continue
            for point, v, w, u in zip(
                case.batch.points[k], new.velocities, old.velocities, ref.velocities, strict=True
            ):
                target = point.noise[row] - segment.latents[row]
                mine, theirs = ((one[row] - target).square().mean() for one in (v, w.detach()))
                ratio = (point.t[row] ** power * (theirs - mine)).exp()
                penalty = (v[row] - u[row].detach()).square().mean()
                shown.append(0.1 * penalty - torch.minimum(ratio * a, ratio.clamp(0.7, 1.3) * a))
        text.append(torch.stack(said).mean() if said else torch.zeros((), dtype=DOUBLE))
        image.append(torch.stack(shown).mean() if shown else torch.zeros((), dtype=DOUBLE))
    return torch.stack(text).mean() + torch.stack(image).mean()


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_loss_and_its_gradient_by_hand(power):
    case = case_of()
    region = {"name": "ppo_clip", "low": 0.2, "high": 0.2}
    chosen = {"algorithm": {"name": "awm", "power": power}, "text_trust_region": region}
    found, wanted = case.loss(**chosen).loss, by_hand(case, power)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    theirs = torch.autograd.grad(wanted, case.leaves)
    for mine, other in zip(case.gradients(**chosen), theirs, strict=True):
        torch.testing.assert_close(mine, torch.nan_to_num(other), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("region", [PpoClip(0.3, 0.2), Unclipped()])
@pytest.mark.parametrize("power", [0.0, 2.0])
def test_gradients_are_those_of_finite_differences(region, power):
    point = Point(drawn(1, B).sigmoid(), drawn(2, B, *LATENT))

    def matched(new):
        fixed = (drawn(3, B, *LATENT), drawn(4, B, *LATENT), point, drawn(5, B, *LATENT), drawn(6, B), ALIVE)
        return Matched(new, *fixed)

    new = drawn(7, B, *LATENT).requires_grad_()
    assert gradcheck(lambda v: matched(v).surrogate(power, region).values, new)
    assert gradcheck(lambda v: matched(v).distance(VelocityMse()), new)


@given(st.integers(0, 10**6), st.permutations(range(B)))
def test_the_order_of_rows_does_not_matter(seed, rows):
    one, other = case_of(seed), case_of(seed, rows=tuple(rows))
    torch.testing.assert_close(one.loss().loss, other.loss().loss, atol=1e-12, rtol=1e-12)
    for mine, theirs in zip(one.gradients(), other.gradients(), strict=True):
        torch.testing.assert_close(mine[list(rows)], theirs, atol=1e-12, rtol=1e-12)


@given(st.integers(0, 10**6), st.sampled_from([float("nan"), float("inf"), 1e30]))
def test_p46_what_ended_rows_hold_leaves_no_trace(seed, junk):
    one, other = case_of(seed, 0.0), case_of(seed, junk)
    assert torch.equal(one.loss().loss, other.loss().loss)
    assert one.loss().metrics == other.loss().metrics
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.gradients(), other.gradients(), strict=True))


@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_the_gradient_is_linear_in_the_size_of_advantages(seed, scale):
    one = case_of(seed)
    other = replace(one, advantage=scale * one.advantage)
    for mine, theirs in zip(one.gradients(**PLAIN), other.gradients(**PLAIN), strict=True):
        torch.testing.assert_close(scale * mine, theirs, atol=1e-12, rtol=1e-9)


@given(st.integers(0, 10**6))
def test_without_advantages_only_the_penalties_pull(seed):
    case = case_of(seed)
    still = replace(case, advantage=torch.zeros_like(case.advantage))
    assert all((gradient == 0).all() for gradient in still.gradients(**PLAIN))
    assert any((gradient != 0).any() for gradient in still.gradients())


def test_on_policy_the_gradient_is_pretrainings_weighted_by_advantages():
    """Whatever the trust region: at ratio 1 nothing is clipped."""
    case = case_of()
    old = tuple(
        replace(one, velocities=tuple(v.detach() for v in one.velocities)) if isinstance(one, ImageScore) else one
        for one in case.scores
    )
    case = replace(case, batch=replace(case.batch, old=old))
    found = case.gradients(**PLAIN, modalities="image_only", algorithm={"name": "awm"})
    errors = []
    for k in (2, 4):
        clean = case.batch.trajectory.segments[k].latents
        for point, v in zip(case.batch.points[k], case.scores[k].velocities, strict=True):
            error = (v[ALIVE] - (point.noise - clean)[ALIVE]).square().flatten(1).mean(1)
            errors.append((case.advantage[ALIVE, k] * error).sum() / 4 / B)
    wanted = torch.autograd.grad(sum(errors), case.leaves, allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)
    assert case.loss().image_deviation == 0.0


def test_no_gradient_reaches_the_old_policy_or_the_reference():
    case = case_of()
    case.loss().loss.backward()
    others = [*case.batch.old[1:], *case.batch.reference[1:]]
    tensors = [v for one in others for v in ([one.log_prob] if isinstance(one, TextScore) else one.velocities)]
    assert all(tensor.grad is None for tensor in tensors)


def test_what_is_logged():
    case = case_of()
    found = case.loss()
    errors, drift = [], []
    for k in (2, 4):
        clean, new, ref = case.batch.trajectory.segments[k].latents, case.scores[k], case.batch.reference[k]
        for point, v, u in zip(case.batch.points[k], new.velocities, ref.velocities, strict=True):
            errors.append((v - (point.noise - clean))[ALIVE].square().mean())
            drift.append((v - u)[ALIVE].square().mean())
    assert found.metrics["loss/matching"] == pytest.approx(torch.stack(errors).mean().item())
    assert found.metrics["drift/velocity_mse"] == pytest.approx(torch.stack(drift).mean().item())
    bare = replace(case, batch=replace(case.batch, reference=None)).loss().metrics
    assert not {"loss/regularizer", "drift/velocity_mse"} & set(bare)
    assert bare["ratio/image_mean"] == found.metrics["ratio/image_mean"]


def test_p50_shapes_that_do_not_fit_are_refused():
    point = Point(torch.rand(3), torch.randn(3, *LATENT))
    with pytest.raises(ShapeError):
        log_likelihood(torch.randn(3, *LATENT), torch.randn(3, 2, 2), point)
    with pytest.raises(ShapeError):
        log_likelihood(torch.randn(3, *LATENT), torch.randn(3, *LATENT), replace(point, t=torch.rand(3, 1)))


RULES = spec(dynamics=Ode(), stochastic=())
POLICY = tiny.policy(0)
TRAJECTORY = roll(POLICY, RULES, shared=False)


def prepared(update: int = 0, trajectory: Trajectory = TRAJECTORY, draws: int = 2) -> Batch:
    keys = [str(prompt) for prompt in trajectory.prompts]
    draw = EpisodeDraws((0, "algorithm", update), keys, trajectory.group_size)
    asked = []

    def old(trajectory, points=None):
        asked.append(points)
        return tuple(
            replay(POLICY, replace(RULES, head=AtPoints(RULES.head, trajectory.segments, points)), trajectory).scores
        )

    with torch.no_grad():
        return Awm(draws).prepare(config_of(), trajectory, draw, old, None)


def test_points_are_fresh_in_every_update_and_the_same_whenever_they_are_drawn():
    one, again, later = prepared(), prepared(), prepared(1)
    last = len(TRAJECTORY.segments) - 1
    assert list(one.points) == [last], "of the image, not of the prompt and the text"
    first, second = one.points[last]
    assert torch.equal(first.noise, again.points[last][0].noise)
    assert torch.equal(first.t, again.points[last][0].t)
    for other in (second, later.points[last][0]):
        assert not torch.isclose(first.noise, other.noise).any()
        assert not torch.isclose(first.t, other.t).any()
    assert ((first.t > 0) & (first.t < 1)).all()
    assert len(set(first.t.tolist())) == len(first.t), "every row has its own"


def test_velocities_are_those_of_the_recorded_images_in_their_own_contexts():
    batch = prepared()
    (points,) = batch.points.values()
    context = POLICY.start(len(TRAJECTORY.prompts))
    with torch.no_grad():
        for segment in TRAJECTORY.segments[:-1]:
            if segment.rows != context.batch:
                context = context.repeat(segment.rows // context.batch)
            first = torch.full_like(segment.tokens[:, :1], RULES.bos)
            mask = torch.cat((segment.alive[:, None], segment.mask), 1)
            _, context = POLICY.extend_text(context, torch.cat((first, segment.tokens), 1), mask)
        for point, found in zip(points, batch.old[-1].velocities, strict=True):
            level = point.t[:, None, None, None]
            x = (1 - level) * TRAJECTORY.image.latents + level * point.noise
            torch.testing.assert_close(found, POLICY.velocity(context, x, point.t), atol=1e-6, rtol=0)


def test_what_it_cannot_train_is_refused_and_what_it_does_not_read_too():
    def faults(**changes):
        config = config_of(**changes)
        return list(config.algorithm.conflicts(config))

    assert faults() == []
    (fault,) = faults(image_ratio="raw")
    assert fault == "image_ratio=raw: is not read by this algorithm; leave image_ratio at its default"
    (fault,) = faults(regularizer="latent_kl")
    assert "use regularizer=velocity_mse or none" in fault
    (fault,) = faults(image_head="tokens")
    assert "image_head=tokens has no velocity to match" in fault
    assert faults(image_head="tokens", modalities="text_only") == []
    assert config_of().conflicts() == [], "nor does anybody else miss the steps"
