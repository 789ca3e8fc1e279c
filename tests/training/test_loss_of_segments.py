"""The loss of episodes of many segments and unequal length, worked out row by row; what was not made counts nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training.runs import config_of
from unigrpo.algorithms.policy_gradient import minibatch_loss
from unigrpo.checks import ShapeError
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, StepScore, TextScore, TextSegment, Trajectory

close = torch.testing.assert_close
DOUBLE = torch.float64
P, G = 2, 2
B, LENGTH, CODES, LATENT = P * G, 4, 3, (2, 2, 2)
DTS = (0.3, 0.15)
STD = torch.tensor(0.4, dtype=DOUBLE)
TEXT_CLIP, IMAGE_CLIP, KL, MSE = 0.2, 0.02, 0.1, 0.1
PLAIN = {"regularizer": "none", "text_kl": "none"}


@dataclass(frozen=True)
class Case:
    """A minibatch: what minibatch_loss takes, with the leaves of the policy's scores."""

    trajectory: Trajectory
    scores: tuple[object, ...]
    reference: tuple[object, ...]
    advantage: Tensor
    leaves: tuple[Tensor, ...]

    def loss(self, **changes):
        return minibatch_loss(config_of(**changes), self.trajectory, self.scores, self.reference, self.advantage)

    def gradients(self, **changes):
        found = self.loss(**changes).loss
        return torch.autograd.grad(found, self.leaves, allow_unused=True, materialize_grads=True)

    def kept(self, columns):
        """The same with some of its segments alone."""

        def of(items):
            return tuple(items[k] for k in columns)

        segments, scores = of(self.trajectory.segments), of(self.trajectory.scores)
        trajectory = replace(self.trajectory, segments=segments, scores=scores)
        return Case(trajectory, of(self.scores), of(self.reference), self.advantage[:, list(columns)], self.leaves)


class Draws:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape, scale=1.0):
        return scale * torch.randn(shape, generator=self.generator, dtype=DOUBLE)


def text_of(lengths, turn=0, **changes):
    mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    return TextSegment(torch.zeros(len(lengths), LENGTH, dtype=torch.long), mask, turn=turn, **changes)


def picture_of(alive, turn=0, tokens=False, **changes):
    codes = torch.zeros(len(alive), CODES, dtype=torch.long) if tokens else None
    return ImageSegment((), torch.zeros(len(alive), *LATENT), torch.tensor(alive), turn=turn, tokens=codes, **changes)


def scored(segment, draw, junk, leaves=None):
    """Random scores of a segment, with ``junk`` where nothing was made."""

    def values(mask, *shape, scale):
        drawn = draw(*shape, scale=scale)
        drawn[~mask] = junk
        if leaves is not None:
            leaves.append(drawn.requires_grad_())
        return drawn

    if segment.given:
        return None
    if isinstance(segment, TextSegment):
        return TextScore(values(segment.mask, *segment.mask.shape, scale=0.3))
    rows = segment.rows
    if segment.tokens is not None:
        return ImageScore(log_prob=values(segment.alive, rows, CODES, scale=0.03))
    steps = []
    for index, dt in enumerate(DTS):
        velocity = values(segment.alive, rows, *LATENT, scale=1.0)
        mean, log_prob = values(segment.alive, rows, *LATENT, scale=0.1), values(segment.alive, rows, scale=0.03)
        steps.append(StepScore(index, velocity, mean, STD, dt, log_prob))
    return ImageScore(tuple(steps))


def case_of(segments, seed=0, junk=float("nan")):
    draw, leaves = Draws(seed), []
    old, reference = (tuple(scored(segment, draw, junk) for segment in segments) for _ in range(2))
    new = tuple(scored(segment, draw, junk, leaves) for segment in segments)
    trajectory = Trajectory(("a", "b"), G, tuple(segments), old)
    return Case(trajectory, new, reference, draw(B, len(segments)), tuple(leaves))


def story(tokens=False):
    """Prompt; text, picture; text, picture; text.  Two rows end early, one of them before its first picture."""
    return (
        text_of([2, 4], given=True),
        text_of([4, 3, 1, 2]),
        picture_of([True, True, False, True], tokens=tokens),
        text_of([2, 3, 0, 1], turn=1),
        picture_of([True, True, False, False], turn=1, tokens=tokens),
        text_of([1, 1, 0, 0], turn=2),
    )


def clipped(log_ratio, advantage, clip):
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def k3(log_prob, ref):
    return (ref - log_prob).exp() - 1 - (ref - log_prob)


def actions_of(case, row):
    """The losses of one episode's text actions and of its image actions, in two lists."""
    text, image = [], []
    for segment, old, new, ref, a in zip(
        case.trajectory.segments, case.trajectory.scores, case.scores, case.reference, case.advantage[row], strict=True
    ):
        if segment.given:
            continue
        if isinstance(segment, TextSegment):
            for k in range(int(segment.mask[row].sum())):
                p, q, r = (score.log_prob[row, k] for score in (new, old, ref))
                text.append(KL * k3(p, r) - clipped(p - q, a, TEXT_CLIP))
        elif segment.tokens is not None and segment.alive[row]:
            for k in range(CODES):
                p, q, r = (score.log_prob[row, k] for score in (new, old, ref))
                image.append(KL * k3(p, r) - clipped(p - q, a, IMAGE_CLIP))
        elif segment.alive[row]:
            for now, was, other in zip(new.steps, old.steps, ref.steps, strict=True):
                drift = (was.mean[row] - now.mean[row]).square().mean() / (2 * STD**2)
                log_ratio = STD * (now.log_prob[row] - was.log_prob[row] + drift)
                penalty = (now.velocity[row] - other.velocity[row]).square().mean()
                image.append(MSE * penalty - clipped(log_ratio, a, IMAGE_CLIP))
    return text, image


def mean(values):
    return sum(values) / max(len(values), 1)


def by_hand(case, aggregation, text_weight=1.0, image_weight=1.0):
    rows = [actions_of(case, row) for row in range(B)]
    if aggregation == "trajectory_mean":
        weighted = [[text_weight * v for v in text] + [image_weight * v for v in image] for text, image in rows]
        return mean([mean(values) for values in weighted])
    images = mean([mean(image) for _, image in rows])
    if aggregation == "token_mean":
        return text_weight * mean([value for text, _ in rows for value in text]) + image_weight * images
    return text_weight * mean([mean(text) for text, _ in rows]) + image_weight * images


@pytest.mark.parametrize("tokens", [False, True], ids=["flow", "tokens"])
@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "trajectory_mean"])
@pytest.mark.parametrize(("text", "image"), [(1.0, 1.0), (0.5, 2.0)])
def test_the_loss_of_a_story_and_its_gradient_by_hand(tokens, aggregation, text, image):
    case = case_of(story(tokens))
    changes = {"aggregation": aggregation, "modalities": {"name": "joint", "text": text, "image": image}}
    expected = by_hand(case, aggregation, text, image)
    close(case.loss(**changes).loss, expected)
    theirs = torch.autograd.grad(expected, case.leaves, allow_unused=True, materialize_grads=True)
    for one, other in zip(case.gradients(**changes), theirs, strict=True):
        close(one, other)


@given(
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from(["sequence_mean", "token_mean", "trajectory_mean"]),
    st.sampled_from([float("nan"), float("inf"), 1e30]),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from(["raw", "ratio_norm", "guard"]),
)
def test_p46_what_was_not_made_may_hold_anything(tokens, seed, aggregation, junk, text_ratio, image_ratio):
    changes = {"aggregation": aggregation, "text_ratio": text_ratio, "image_ratio": image_ratio}
    clean, soiled = (case_of(story(tokens), seed, value) for value in (0.0, junk))
    one, other = clean.loss(**changes), soiled.loss(**changes)
    assert torch.equal(one.loss, other.loss)
    assert one.metrics == other.metrics
    assert (one.text_deviation, one.image_deviation) == (other.text_deviation, other.image_deviation)
    for leaf, mine, theirs in zip(soiled.leaves, clean.gradients(**changes), soiled.gradients(**changes), strict=True):
        assert torch.equal(mine, theirs)
        assert (theirs[~leaf.isfinite() | (leaf == junk)] == 0).all()


@pytest.mark.parametrize("tokens", [False, True], ids=["flow", "tokens"])
def test_given_and_shared_segments_count_nothing(tokens):
    """A start that the members of a group share, the tree's, has one row per prompt; a source picture is given."""
    case = case_of((text_of([2, 3]), picture_of([True] * P, tokens=tokens), *story(tokens)[1:]))
    own = case.kept(range(2, 7))
    assert torch.equal(case.loss().loss, own.loss().loss)
    given = (picture_of([True] * B, given=True), text_of([1] * B, given=True))
    with_given = replace(
        own,
        trajectory=replace(
            own.trajectory,
            segments=(*given, *own.trajectory.segments),
            scores=(None, None, *own.trajectory.scores),
        ),
        scores=(None, None, *own.scores),
        reference=(None, None, *own.reference),
        advantage=torch.cat((torch.full((B, 2), float("nan"), dtype=DOUBLE), own.advantage), 1),
    )
    assert torch.equal(with_given.loss().loss, own.loss().loss)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "trajectory_mean"])
def test_p48_segments_that_nobody_made_change_nothing(aggregation):
    more = case_of((*story(), text_of([0] * B, turn=2), picture_of([False] * B, turn=2)))
    close(more.loss(aggregation=aggregation).loss, more.kept(range(6)).loss(aggregation=aggregation).loss)


def test_all_of_an_episodes_texts_share_one_mean_and_so_do_its_pictures():
    """Four tokens and one: each counts a fifth, and not the single one as much as the four."""
    case = case_of((text_of([4] * B), text_of([1] * B, turn=1)))
    advantage = torch.tensor([1.0, 6.0], dtype=DOUBLE).expand(B, 2)
    on_policy = replace(case, scores=case.trajectory.scores, advantage=advantage)
    assert on_policy.loss(**PLAIN, modalities="text_only").loss.item() == pytest.approx(-(4 * 1 + 6) / 5)


@pytest.mark.parametrize("text_ratio", ["token", "sequence"])
def test_every_text_is_pushed_by_its_own_advantage(text_ratio):
    """Two texts of two tokens, one worth 2 and one worth -2: a ratio that they shared would push neither."""
    case = case_of((text_of([2] * B), text_of([2] * B, turn=1)))
    advantage = torch.tensor([2.0, -2.0], dtype=DOUBLE).expand(B, 2)
    on_policy = replace(case, scores=case.trajectory.scores, advantage=advantage)
    leaves = tuple(score.log_prob.requires_grad_() for score in on_policy.scores)
    old = tuple(TextScore(score.log_prob.detach().clone()) for score in on_policy.scores)
    on_policy = replace(on_policy, trajectory=replace(case.trajectory, scores=old), leaves=leaves)
    first, second = on_policy.gradients(**PLAIN, modalities="text_only", text_ratio=text_ratio)
    for gradient, each in ((first, -2.0), (second, 2.0)):
        close(gradient[:, :2], torch.full((B, 2), each / (4 * B), dtype=DOUBLE))


@pytest.mark.parametrize("aggregation", ["sequence_mean", "trajectory_mean"])
def test_nobody_painted(aggregation):
    case = case_of(story()[:2])
    for modalities in ("joint", "text_only"):
        found = case.loss(aggregation=aggregation, modalities=modalities)
        assert found.loss.item() == pytest.approx(by_hand(case, aggregation).item())
        assert found.image_deviation == 0.0
        assert not any("image" in name for name in found.metrics)
    nothing = case.loss(aggregation=aggregation, modalities="image_only")
    assert nothing.loss.item() == 0.0
    nothing.loss.backward()
    assert nothing.metrics == {}


def test_pictures_that_were_not_scored_are_left_out():
    """With modalities=text_only the pictures are not replayed, with image_only the texts' scores are of no interest."""
    case = case_of(story())
    blind = tuple(None if isinstance(score, ImageScore) else score for score in case.scores)
    changes = {"modalities": "text_only"}
    assert torch.equal(replace(case, scores=blind).loss(**changes).loss, case.loss(**changes).loss)
    assert not any("image" in name for name in case.loss(**changes).metrics)
    assert not any("text" in name for name in case.loss(modalities="image_only").metrics)


def test_image_tokens_are_clipped_like_pictures_and_penalised_like_texts():
    case = case_of(story(tokens=True))
    found = case.loss()
    names = {"loss/image", "loss/image_kl", "ratio/image_mean", "ratio/image_std", "ratio/image_clip_frac"}
    assert {name for name in found.metrics if "image" in name} == names
    log_ratios = [
        (new.log_prob - old.log_prob)[segment.alive]
        for segment, new, old in zip(case.trajectory.segments, case.scores, case.trajectory.scores, strict=True)
        if isinstance(segment, ImageSegment)
    ]
    assert found.image_deviation == pytest.approx(torch.cat(log_ratios).abs().max().item())
    wide = case.loss(image_trust_region={"name": "ppo_clip", "low": 0.5, "high": 0.5})
    assert wide.metrics["ratio/image_clip_frac"] == 0 < found.metrics["ratio/image_clip_frac"]
    penalties = [[k3(*pair) for pair in pairs] for pairs in image_pairs(case)]
    assert found.metrics["loss/image_kl"] == pytest.approx(mean([mean(row) for row in penalties]).item())


def image_pairs(case):
    for row in range(B):
        yield [
            (new.log_prob[row, k], ref.log_prob[row, k])
            for segment, new, ref in zip(case.trajectory.segments, case.scores, case.reference, strict=True)
            if isinstance(segment, ImageSegment) and segment.alive[row]
            for k in range(CODES)
        ]


def test_steps_are_logged_by_index_over_all_pictures_made():
    case = case_of(story())
    metrics = case.loss(image_ratio="raw").metrics
    alive = [segment for segment in case.trajectory.segments if isinstance(segment, ImageSegment)]
    old, new, ref = (
        [score for score in scores if isinstance(score, ImageScore)]
        for scores in (case.trajectory.scores, case.scores, case.reference)
    )
    for k in range(len(DTS)):
        ratios = [
            (now.steps[k].log_prob - was.steps[k].log_prob)[picture.alive].exp()
            for now, was, picture in zip(new, old, alive, strict=True)
        ]
        assert metrics[f"ratio/image_mean/{k}"] == pytest.approx(torch.cat(ratios).mean().item())
        assert metrics[f"ratio/image_std/{k}"] == pytest.approx(torch.cat(ratios).std(correction=0).item())
    drifts = [
        (one.velocity - other.velocity).square().flatten(1).mean(1)[picture.alive]
        for now, there, picture in zip(new, ref, alive, strict=True)
        for one, other in zip(now.steps, there.steps, strict=True)
    ]
    assert metrics["drift/velocity_mse"] == pytest.approx(torch.cat(drifts).mean().item())


def test_without_a_reference_there_is_no_penalty():
    case = case_of(story())
    bare = minibatch_loss(config_of(), case.trajectory, case.scores, None, case.advantage)
    close(bare.loss, case.loss(**PLAIN).loss)
    assert not any(name.startswith("drift") or "kl" in name or "regularizer" in name for name in bare.metrics)


def test_advantages_that_do_not_fit_are_refused():
    case = case_of(story())
    for wrong in (case.advantage[:, 0], case.advantage[:, :5], case.advantage[:2], case.advantage.T):
        with pytest.raises(ShapeError, match=r"\[B, S\] of shape \[4, 6\], got"):
            replace(case, advantage=wrong).loss()
