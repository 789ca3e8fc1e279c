"""Nothing but shapes chooses a kernel: a reference is the policy and a replay is the rollout, on any processor."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.exactness.kernels import Recorder, assert_equal, assert_same_kernels, variants
from tests.models import tiny
from tests.rollouts import roll, scores_of, spec
from unigrpo.flow.dynamics import Ode
from unigrpo.flow.guidance import Cfg, CfgFree
from unigrpo.models import LoadedModel
from unigrpo.models.adapters import layers, targets
from unigrpo.models.linear import Linear
from unigrpo.rollout.episodes import Editing, Interleaved, Reflect, SingleRound
from unigrpo.rollout.heads import Flow, Tokens
from unigrpo.rollout.rollout import replay

#: Every operation is recorded, which tracing would slow down as much again.
pytestmark = pytest.mark.no_cover


def with_lora(policy):
    """It with matrices beside its dense layers, none of them 0."""
    layers.attach(policy, targets.choose(policy, (), ()), 3, 6, (0,))
    for k, weight in enumerate(layers.trained(policy).values()):
        weight.data += 0.1 * tiny.randn(*weight.shape, seed=k)
    return policy


POLICIES = {
    "flow": tiny.policy,
    "adaln": lambda: tiny.policy(time_conditioning="adaln", prediction="data"),
    "patches": lambda: tiny.policy(latent_patch_size=2, latent_size=(4, 4)),
    "plain": lambda: tiny.policy(qk_norm=False, num_key_value_heads=4),
    "seeing": lambda: tiny.policy(vision_channels=3),
    "tokens": lambda: tiny.policy(code_levels=(3, 2, 2)),
    "lora": lambda: with_lora(tiny.policy(time_conditioning="adaln", prediction="data")),
}
EPISODES = {
    "single_round": SingleRound(max_thinking=4),
    "interleaved": Interleaved(max_pictures=2, max_text=6),
    "editing": Editing(turns=2, max_thinking=4),
    "reflect": Reflect(rounds=2, max_thinking=4, max_reflection=4),
    "tree": Reflect(rounds=2, max_thinking=4, max_reflection=4, start="shared"),
}
#: Every policy where it paints, every episode with both ways to paint, and both without guidance.
WALKS = [
    *((policy, "single_round", True) for policy in POLICIES if policy != "seeing"),
    ("seeing", "editing", True),  # features are read where something follows an image
    *((policy, episode, True) for policy in ("adaln", "tokens") for episode in EPISODES if episode != "single_round"),
    *((policy, "single_round", False) for policy in ("adaln", "tokens", "lora")),
]


def rules_of(policy: str, guided: bool, context_grad: bool = False):
    head = {"head": Tokens(), "dynamics": Ode(), "stochastic": ()} if policy == "tokens" else {"head": Flow()}
    guidance = Cfg(scale=2.0, renorm=True) if guided else CfgFree()
    see = (lambda image: image.latents.flatten(2).transpose(1, 2)) if policy == "seeing" else None
    return spec(guidance=guidance, context_grad=context_grad, see=see, **head)


@pytest.mark.parametrize(("policy", "episode", "guided"), WALKS)
def test_replay_takes_the_kernels_of_sampling(policy, episode, guided):
    walked = rules_of(policy, guided)
    sampled = []

    def sample(asked):
        # With these draws some story asks for a picture, and goes on when others have ended.
        sampled.append(roll(asked, walked, group=2, seed=2, episode=EPISODES[episode]))
        return sampled[-1]

    assert_same_kernels(POLICIES[policy](), walked, sample)
    assert sampled[0].generated_images > 0


@pytest.mark.parametrize(("policy", "context_grad"), [*((policy, False) for policy in POLICIES), ("adaln", True)])
def test_replay_gives_the_bits_of_sampling(policy, context_grad):
    alive, walked = POLICIES[policy](), rules_of(policy, True, context_grad)
    trajectory = roll(alive, walked, group=2, episode=EPISODES["editing"])
    sampled = scores_of(trajectory) + codes_of(trajectory)
    assert len(sampled) > 3  # two turns of text and picture
    for name, candidate, grad in variants(alive):
        with torch.set_grad_enabled(grad):
            again = replay(candidate, walked, trajectory)
        for old, new in zip(sampled, scores_of(again) + codes_of(again), strict=True):
            assert torch.equal(old, new), name


def codes_of(walked):
    return [s.log_prob for s in walked.scores if getattr(s, "steps", None) == () and s.log_prob is not None]


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_product_is_one_of_rows_however_its_input_lies(bias):
    layer = Linear(4, 6, bias=bias)
    whole = tiny.randn(3, 5, 8)
    for x in (whole[..., :4], whole[:, :3, :4], whole.transpose(0, 1)[..., 4:], tiny.randn(1, 5, 4).expand(3, -1, -1)):
        found = set()
        for model in (layer, copy.deepcopy(layer).requires_grad_(False)):
            with Recorder() as recorder:
                out = model(x)
            assert out.is_contiguous()
            found.add(tuple(name for name, *_ in recorder.operations if "mm" in str(name)))
        assert found == {(torch.ops.aten.addmm.default if bias else torch.ops.aten.mm.default,)}
        torch.testing.assert_close(out, torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_a_reference_without_matrices_takes_the_kernels_of_the_model():
    base, walked = POLICIES["adaln"](), rules_of("adaln", True)
    loaded = LoadedModel(with_lora(copy.deepcopy(base)), tiny.model().processor)
    reference = layers.Adapted(loaded.policy, loaded.processor, loaded).reference()
    trajectory = roll(base, walked, group=2)
    found = []
    for policy in (base, reference):
        with Recorder() as recorder:
            replay(policy, walked, trajectory)
        found.append(recorder.operations)
    assert_equal(*found, "the reference")
