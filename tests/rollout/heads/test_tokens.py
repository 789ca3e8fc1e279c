"""Pictures painted token by token: replay is sampling, scores are those of what is drawn, who trains whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import tiny
from tests.rollouts import Constant, pictures_of, prompts_of, roll, scores_of, spec
from unigrpo.config import RunConfig
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.models.mot import checkpoint
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.rollout.episodes import Editing, Interleaved, Reflect, SingleRound
from unigrpo.rollout.heads import Tokens
from unigrpo.rollout.rollout import Rollout, RolloutSpec, replay
from unigrpo.rollout.trajectory import ImageSegment, TextScore, TextSegment, Trajectory

LEVELS, CODES = (3, 2, 2), 12
POLICY = tiny.policy(code_levels=LEVELS).requires_grad_(False)
SILENT = SingleRound(thinking=False)
EPISODES: dict[str, Any] = {
    "single_round": SingleRound(max_thinking=4),
    "interleaved": Interleaved(max_pictures=2, max_text=6),
    "editing": Editing(turns=3, max_thinking=4),
    "reflect": Reflect(rounds=3, max_thinking=4, max_reflection=6),
    "tree": Reflect(rounds=2, max_thinking=4, max_reflection=6, start="shared"),
}
GUIDANCE = st.sampled_from([CfgFree(), Cfg(scale=2.5), Cfg(scale=3.0, renorm=True), Cfg(scale=1.0)])


def walked(**changes: Any) -> RolloutSpec:
    return spec(**{"head": Tokens(), "dynamics": Ode(), "stochastic": ()} | changes)


def policy() -> MoTPolicy:
    return tiny.policy(code_levels=LEVELS)


def painted(trajectory: Trajectory) -> list[ImageSegment]:
    return [s for s in trajectory.segments if isinstance(s, ImageSegment) and not s.given]


@settings(max_examples=40)
@given(st.sampled_from(sorted(EPISODES)), GUIDANCE, st.sampled_from([1.0, 0.7]), st.booleans(), st.integers(0, 999))
def test_p33_replay_by_the_same_weights_is_bit_identical(kind, guidance, heat, context_grad, seed):
    """Over source pictures, over those the policy painted, over ragged ends: log-ratios are exactly 0."""
    given_rules = walked(guidance=guidance, temperature=heat, context_grad=context_grad)
    trajectory = roll(POLICY, given_rules, seed=seed, episode=EPISODES[kind], shared=False)
    again = replay(policy(), given_rules, trajectory)
    found = scores_of(trajectory)
    assert len(found) == len(scores_of(again)) > 0
    assert all(map(torch.equal, found, scores_of(again)))
    for segment, score in zip(trajectory.segments, again.scores, strict=True):
        assert (score is None) == segment.given
        if isinstance(segment, ImageSegment) and not segment.given:
            assert segment.tokens.shape == score.log_prob.shape == (segment.rows, 4)
            assert torch.equal(POLICY.codes_of(segment.latents), segment.tokens)
            assert (score.log_prob[segment.alive] < 0).all()
            assert not score.log_prob[~segment.alive].any()
            assert score.log_prob.requires_grad
            assert score.steps == ()


@pytest.mark.parametrize("kind", ["interleaved", "editing", "reflect"])
def test_replay_without_pictures_scores_the_same_words(kind):
    trajectory = roll(POLICY, walked(), episode=EPISODES[kind], shared=False)
    again = replay(POLICY, walked(), trajectory, images=False)
    for old, new in zip(trajectory.scores, again.scores, strict=True):
        assert isinstance(old, TextScore) or new is None
        assert not isinstance(old, TextScore) or torch.equal(old.log_prob, new.log_prob)


def by_hand(logits_of: Any, codes: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of one row's codes, each from a forward pass of its own."""
    found = []
    for k in range(len(codes)):
        begun = torch.cat((torch.tensor([CODES]), codes[:k]))[None]
        found.append(logits_of(begun)[0, k].log_softmax(-1)[codes[k]])
    return torch.stack(found)


@pytest.mark.parametrize("guidance", [CfgFree(), Cfg(scale=2.5), Cfg(scale=3.0, renorm=True)])
def test_scores_by_hand(guidance):
    """Temperature, guidance of every code's own logits, and the pictures alone as what guides away."""
    trajectory = roll(POLICY, walked(guidance=guidance, temperature=0.8), ["a"], 2, episode=EPISODES["editing"])
    source, first = pictures_of("a", POLICY.latent_shape), painted(trajectory)[0]
    texts = [s for s in trajectory.segments if isinstance(s, TextSegment)][:2]
    one = torch.ones(1, dtype=torch.bool)
    for row in range(2):
        begun = torch.cat((torch.tensor([[CODES]]), POLICY.codes_of(source.latents)), 1)
        _, bare = POLICY.extend_codes(POLICY.start(1), begun, one)
        context = bare
        for text in texts:
            own = row if text.rows == 2 else 0
            words = torch.tensor([[1, *text.tokens[own, text.mask[own]].tolist()]])
            _, context = POLICY.extend_text(context, words, torch.ones_like(words, dtype=torch.bool))

        def logits_of(codes: torch.Tensor, context=context, bare=bare) -> torch.Tensor:
            alive, free = (POLICY.extend_codes(c, codes, one)[0] for c in (context, bare))
            return guidance.combine(alive[:, -1], free[:, -1]).expand(1, codes.shape[1], -1) / 0.8

        expected = by_hand(logits_of, first.tokens[row])
        torch.testing.assert_close(trajectory.scores[3].log_prob[row], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("guidance", "heat"), [(CfgFree(), 0.6), (Cfg(scale=2.0, renorm=True), 1.0)])
def test_codes_are_drawn_from_the_distribution_that_scores_them(guidance, heat):
    """Frequencies of the first code, and of the likeliest pair, are their probabilities."""
    group = 4000
    trajectory = roll(POLICY, walked(guidance=guidance, temperature=heat), ["a"], group, episode=SILENT)
    tokens, log_prob = trajectory.image.tokens, trajectory.scores[-1].log_prob
    counts = torch.bincount(tokens[:, 0], minlength=CODES) / group
    for code in tokens[:, 0].unique().tolist():
        probability = log_prob[tokens[:, 0] == code, 0].exp()
        torch.testing.assert_close(probability, probability[:1].expand_as(probability), atol=1e-5, rtol=0)
        assert abs(counts[code] - probability[0]) < 4 * (probability[0] / group) ** 0.5
    pairs = tokens[:, 0] * CODES + tokens[:, 1]
    likely = torch.bincount(pairs, minlength=CODES**2).argmax()
    chosen = pairs == likely
    share, expected = chosen.float().mean(), log_prob[chosen, :2].sum(1).exp()[0]
    assert abs(share - expected) < 4 * (expected / group) ** 0.5


def test_a_draw_takes_the_code_under_it():
    """Uniforms near 0 take the first code, near 1 the last one."""
    for value, code in ((0.0, 0), (1 - 1e-7, CODES - 1)):
        trajectory = roll(
            POLICY, walked(), episode=SILENT, alter=lambda what, drawn, v=value: torch.full_like(drawn, v)
        )
        assert (trajectory.image.tokens == code).all()


def test_guidance_at_scale_1_is_no_guidance_bit_for_bit():
    free, one = (
        roll(POLICY, walked(guidance=guidance), episode=EPISODES["reflect"]) for guidance in (CfgFree(), Cfg(scale=1.0))
    )
    assert all(map(torch.equal, scores_of(free), scores_of(one)))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(painted(free), painted(one), strict=True))
    assert free.cost == one.cost


def test_draws_do_not_depend_on_the_batch_split():
    whole = roll(POLICY, walked(), keys="abc", episode=SingleRound(max_thinking=4))
    for place, key in enumerate("abc"):
        alone = roll(POLICY, walked(), keys=[key], episode=SingleRound(max_thinking=4))
        assert torch.equal(whole.image.tokens[3 * place : 3 * place + 3], alone.image.tokens)


def ragged() -> Trajectory:
    trajectory = roll(POLICY, walked(), keys="abcd", episode=EPISODES["interleaved"], shared=False)
    assert len({int(s.alive.sum()) for s in painted(trajectory)} | {0, 12}) > 2
    return trajectory


def test_an_episode_that_is_over_does_not_move_on():
    trajectory = ragged()
    words = sum(s.mask.sum(1) + s.alive for s in trajectory.segments if isinstance(s, TextSegment) and s.rows == 12)
    prompt = trajectory.segments[0].mask.sum(1).repeat_interleave(3) + 1
    pictures = sum(s.alive.long() for s in painted(trajectory))
    rollout = replay(POLICY, walked(), trajectory)
    assert torch.equal(rollout.contexts[0].position, prompt + words + pictures)


@pytest.mark.parametrize("context_grad", [True, False])
def test_what_stands_in_the_rows_of_ended_episodes_does_not_matter(context_grad):
    """Neither to a score nor to a gradient."""
    trajectory, found = ragged(), []
    for rubbish in (False, True):
        segments = tuple(
            replace(s, tokens=s.tokens.where(s.alive[:, None], 7)) if isinstance(s, ImageSegment) and rubbish else s
            for s in trajectory.segments
        )
        mine = policy()
        rollout = replay(mine, walked(context_grad=context_grad), replace(trajectory, segments=segments))
        torch.cat([score.flatten() for score in scores_of(rollout)]).sum().backward()
        found.append((scores_of(rollout), {n: p.grad for n, p in mine.named_parameters() if p.grad is not None}))
    (scores, gradients), (others, other_gradients) = found
    assert all(map(torch.equal, scores, others))
    assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("context_grad", [True, False])
def test_gradients_pass_between_modalities_only_where_the_rules_say_so(context_grad):
    """Of a picture into earlier words, and of later words into the picture; within a modality they always pass."""
    trajectory = roll(POLICY, walked(), episode=EPISODES["editing"])
    early = trajectory.segments[2]
    words = set(early.tokens[early.mask].tolist())

    def reached(index: int) -> tuple[bool, bool]:
        """Whether the loss of a segment reaches the early words, and the generation expert."""
        mine = policy()
        replay(mine, walked(context_grad=context_grad), trajectory).scores[index].log_prob.sum().backward()
        rows = mine.language_model.model.embed_tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        return words <= set(rows), any(p.grad is not None and p.grad.any() for p in mine.parameters_of("image"))

    assert trajectory.segments[3].tokens is not None
    assert reached(3) == (context_grad, True), "a picture"
    assert reached(5) == (True, context_grad), "a later text"


def test_work_is_counted_in_tokens():
    """Of six rows: the words of prompts and their beginnings, four codes drawn, and a block of five."""
    words = int(prompts_of("ab").mask.sum()) + 2
    assert roll(POLICY, walked(), episode=SILENT).cost.tokens == words + 6 * (4 + 5)
    assert roll(POLICY, walked(guidance=Cfg(2.0)), episode=SILENT).cost.tokens == words + 2 * 6 * (4 + 5)
    assert roll(POLICY, walked(), episode=SILENT).cost.nfe == 0


def test_a_picture_that_nothing_follows_is_in_the_context_all_the_same():
    """It was scored in the block that put it there: nothing is left to look at."""
    rollout = Rollout(POLICY, walked(latent_shape=POLICY.latent_shape), 2)
    rollout.condition_on(prompts_of("ab"))
    before = rollout.contexts[0].position
    rollout.generate_image(Constant(2, 0.5))
    assert torch.equal(rollout.contexts[0].position, before + 1)
    assert rollout.pending_image is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    alive = {}
    for name, levels in (("flow", ()), ("tokens", LEVELS)):
        alive[name] = tmp_path_factory.mktemp(name)
        checkpoint.save(alive[name], tiny.model(code_levels=levels))
    return {name: str(folder) for name, folder in alive.items()}


class TestConflicts:
    """What a configuration may not ask for."""

    def config(self, head: str, checkpoint: str, **changes: Any) -> RunConfig:
        plain = {"image_head": head, "model": {"name": "mot", "checkpoint": checkpoint}}
        codes = {"dynamics": "ode", "image_ratio": "raw"} if head == "tokens" else {}
        return RunConfig.from_dict(plain | codes | changes)

    @pytest.mark.parametrize("updates", [0, 10])
    def test_head_and_checkpoint_go_together(self, folders, updates):
        for head, name in (("flow", "flow"), ("tokens", "tokens")):
            assert self.config(head, folders[name]).conflicts() == []
        (fault,) = self.config("tokens", folders["flow"], optim={"updates": updates}).conflicts()
        assert "image_head=tokens: generates images token by token" in fault
        assert "generates by denoising; use image_head=flow" in fault
        (fault,) = self.config("flow", folders["tokens"], optim={"updates": updates}).conflicts()
        assert "use image_head=tokens" in fault

    def test_what_needs_denoising_steps_is_refused(self, folders):
        (fault,) = self.config("tokens", folders["tokens"], dynamics="flow_sde").conflicts()
        assert "dynamics=flow_sde has no step to add noise to; use dynamics=ode" in fault
        (fault,) = self.config("tokens", folders["tokens"], regularizer="velocity_mse").conflicts()
        assert "regularizer=velocity_mse has no velocity to penalise" in fault
        (fault,) = self.config("tokens", folders["tokens"], image_ratio="guard").conflicts()
        assert "image_ratio=guard is of denoising steps; use raw" in fault

    def test_a_missing_checkpoint_is_named(self):
        assert any("nowhere" in fault for fault in self.config("tokens", "nowhere").conflicts())
