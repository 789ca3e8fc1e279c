"""The RL trainer on a tiny random model: what moves, what must not, what is logged, what stops a run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from tests.models.bagel import published
from tests.models.janus import tiny as tiny_janus
from tests.models.pipelines import tiny as tiny_pipelines
from tests.training import runs
from tests.training.runs import config_of, moved, weights_of
from unigrpo import registry
from unigrpo.config import RunConfig, slot_of
from unigrpo.errors import ConfigError, NonFiniteLoss, RatioGuardError
from unigrpo.flow.guidance import CfgFree
from unigrpo.rewards import ImageReward
from unigrpo.rollout.rollout import replay
from unigrpo.rollout.trajectory import ImageScore
from unigrpo.training import trainer as trainer_module
from unigrpo.training.trainer import Trainer


def test_math_9_12_the_reference_stays_and_drift_is_0_before_the_first_step():
    trainer = Trainer(config_of())
    reference, policy = runs.digest_of(trainer.reference), runs.digest_of(trainer.policy)
    assert reference == policy
    first = trainer.update(0)
    for name in ("drift/velocity_mse", "drift/latent_kl", "loss/regularizer", "loss/text_kl"):
        assert first[name] == 0, name
    second = trainer.update(1)
    assert second["drift/velocity_mse"] > 0
    assert runs.digest_of(trainer.reference) == reference
    assert runs.digest_of(trainer.policy) != policy
    assert not any(parameter.requires_grad for parameter in trainer.reference.parameters())


def test_a_salt_draws_all_anew_and_starts_from_the_same_weights():
    plain, salted = Trainer(config_of()), Trainer(config_of(salt=1))
    assert not moved(weights_of(plain.policy), weights_of(salted.policy))
    assert any(plain.prompts(update) != salted.prompts(update) for update in range(4))
    windows = ([trainer.rollout_spec(update).stochastic for update in range(4)] for trainer in (plain, salted))
    assert next(windows) != next(windows)
    for trainer in (plain, salted):
        trainer.update(0)
    everything = {name for name, parameter in plain.policy.named_parameters() if parameter.requires_grad}
    assert moved(weights_of(plain.policy), weights_of(salted.policy)) >= everything - {"latent_pos_embed.pos_embed"}


def test_every_trained_parameter_moves():
    trainer = Trainer(config_of())
    before = weights_of(trainer.policy)
    trainer.update(0)
    names = {name for name, parameter in trainer.policy.named_parameters() if parameter.requires_grad}
    assert names == before.keys() - {"latent_pos_embed.pos_embed"}
    assert moved(before, weights_of(trainer.policy)) == names


@pytest.mark.parametrize("recipe", ["unigrpo", "flow_grpo", "flow_grpo_fast", "mix_grpo", "dance_grpo", "grpo_guard"])
def test_p13_first_log_ratios_are_exactly_0_in_every_recipe(recipe):
    found = Trainer(runs.recipe_of(recipe)).update(0)
    assert found["guard/image"] == 0.0
    assert found["guard/text"] == 0.0
    ratios = {value for name, value in found.items() if name.startswith("ratio/image_mean/")}
    assert ratios == {1.0}
    assert {value for name, value in found.items() if "clip_frac" in name} == {0.0}


def test_p13_first_log_ratios_of_text_grpo_are_exactly_0():
    found = Trainer(runs.recipe_of("text_grpo")).update(0)
    assert found["guard/text"] == 0.0
    assert found["ratio/text_mean"] == 1.0
    assert not any(name.startswith(("ratio/image", "grad/image", "loss/image")) for name in found)


@pytest.mark.parametrize(
    ("joint", "alone"),
    [({"text": 1.0, "image": 0.0}, "text_only"), ({"text": 0.0, "image": 1.0}, "image_only")],
)
def test_math_9_7_joint_with_a_weight_of_0_is_the_single_modality(joint, alone):
    one = runs.trained(config_of(modalities={"name": "joint", **joint}), 2)
    other = runs.trained(config_of(modalities=alone), 2)
    assert moved(one, other) == set()


@pytest.mark.parametrize(("alone", "modality"), [("text_only", "text"), ("image_only", "image")])
def test_a_single_modality_moves_its_own_parameters_only(alone, modality):
    trainer = Trainer(config_of(modalities=alone))
    before = weights_of(trainer.policy)
    names = {id(parameter): name for name, parameter in trainer.policy.named_parameters()}
    own = {names[id(parameter)] for parameter in trainer.policy.parameters_of(modality)}
    found = trainer.update(0)
    changed = moved(before, weights_of(trainer.policy))
    assert changed
    assert changed <= own
    assert f"grad/{modality}" in found
    assert len([name for name in found if name.startswith("grad/")]) == 1


@dataclasses.dataclass(frozen=True)
class _Constant(ImageReward):
    """A reward that likes everything alike."""

    component_names: ClassVar[tuple[str, ...]] = ("liked",)
    component_weights: ClassVar[tuple[float, ...]] = (1.0,)

    def score(self, images, prompts):
        return torch.full((len(images), 1), 0.3)


def test_p08_equal_rewards_alone_move_nothing():
    trainer = Trainer(config_of(regularizer="none", text_kl="none", reward=_Constant()))
    before = weights_of(trainer.policy)
    found = trainer.update(0)
    assert moved(before, weights_of(trainer.policy)) == set()
    assert found["grad/text"] == found["grad/image"] == 0.0
    assert found["train/zero_std_frac"] == 1.0


def perturb(trainer: Trainer, scale: float = 0.02) -> None:
    """Move the image expert away from the reference."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.policy.parameters_of("image"):
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def test_math_9_7_with_equal_rewards_only_the_regularizer_pulls():
    """Gradient for gradient: that of the weighted penalty, through one more replay."""
    config = config_of(text_kl="none", optim={"max_grad_norm": 1e9}, regularizer={"weight": 0.5}, reward=_Constant())
    trainer = Trainer(config)
    perturb(trainer)
    before = weights_of(trainer.policy)
    trainer.optimizer.step = lambda: None
    found = trainer.update(0)
    assert moved(before, weights_of(trainer.policy)) == set()
    mine = {name: parameter.grad for name, parameter in trainer.policy.named_parameters()}

    trainer.policy.zero_grad()
    spec = trainer.rollout_spec(0)
    (trajectory,) = trainer.rollout(0, spec)
    penalties = []
    with torch.no_grad():
        theirs = replay(trainer.reference, spec, trajectory).scores[-1]
    score = replay(trainer.policy, spec, trajectory).scores[-1]
    assert isinstance(score, ImageScore)
    for now, then in zip(score.steps, theirs.steps, strict=True):
        penalties.append((now.velocity - then.velocity).square().mean())
    penalty = torch.stack(penalties).mean()
    (0.5 * penalty).backward()
    assert found["loss/regularizer"] == pytest.approx(penalty.item(), rel=1e-5)
    assert penalty.item() > 1e-6
    for name, parameter in trainer.policy.named_parameters():
        if parameter.grad is not None and mine[name] is not None:
            torch.testing.assert_close(mine[name], parameter.grad, atol=1e-7, rtol=1e-4)
    assert found["grad/image"] > 0


@pytest.mark.parametrize(("place", "modality"), [("llm2vae.bias", "image"), ("language_model.lm_head.weight", "text")])
def test_a_replay_that_is_not_the_rollout_stops_the_run(monkeypatch, place, modality):
    trainer = Trainer(config_of())
    rollout = trainer.rollout

    def then_move(update, spec):
        found = rollout(update, spec)
        with torch.no_grad():
            trainer.policy.get_parameter(place).mul_(1.5)
        return found

    monkeypatch.setattr(trainer, "rollout", then_move)
    with pytest.raises(RatioGuardError, match=rf"log-ratio\| of the {modality} policy is .*{modality}_trust_region"):
        trainer.update(0)


@pytest.mark.parametrize(
    ("place", "culprit"), [("llm2vae.bias", "loss/image=nan"), ("language_model.lm_head.weight", "loss/text=nan")]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(monkeypatch, place, culprit):
    trainer = Trainer(config_of())
    trainer.guarded = True
    rollout = trainer.rollout

    def then_break(update, spec):
        found = rollout(update, spec)
        with torch.no_grad():
            trainer.policy.get_parameter(place)[0] = math.nan
        return found

    monkeypatch.setattr(trainer, "rollout", then_break)
    before = {name: t for name, t in weights_of(trainer.policy).items() if name != place}
    with pytest.raises(NonFiniteLoss, match=culprit) as caught:
        trainer.update(0)
    assert "optim.text_lr" in str(caught.value)
    assert moved(before, weights_of(trainer.policy)) == set(), "the broken step was not taken"


def test_a_broken_first_update_is_not_finite_rather_than_off_policy(monkeypatch):
    trainer = Trainer(config_of())
    monkeypatch.setattr(trainer, "compute_advantages", lambda trajectories: ([torch.full((4, 3), math.nan)], {}))
    with pytest.raises(NonFiniteLoss, match="loss=nan"):
        trainer.update(0)


@pytest.mark.parametrize(("minibatches", "epochs"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_minibatches_and_epochs_are_steps_of_the_optimizer(minibatches, epochs):
    trainer = Trainer(config_of(rollout={"minibatches": minibatches, "epochs": epochs}))
    taken = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: taken.append(step())
    found = trainer.update(0)
    assert len(taken) == minibatches * epochs
    # Later passes over one rollout are off-policy, and only they.
    assert (found["ratio/text_mean"] != 1.0) == (epochs > 1 or minibatches > 1)
    assert found["guard/text"] == 0.0


def test_the_split_into_minibatches_changes_no_rollout():
    """Same draws: the same words are said, whichever minibatch a prompt falls in."""
    found = {}
    for minibatches in (1, 2):
        trainer = Trainer(config_of(rollout={"minibatches": minibatches}))
        trajectories = trainer.rollout(0, trainer.rollout_spec(0))
        assert len(trajectories) == minibatches
        found[minibatches] = torch.cat([trajectory.image.latents for trajectory in trajectories])
    torch.testing.assert_close(found[1], found[2], atol=1e-4, rtol=0)


def test_context_gradients_reach_the_text_expert_and_no_other():
    one, two = (runs.trained(config_of(optim={"context_grad": given}), 1) for given in (False, True))
    trainer = Trainer(config_of())
    names = {id(parameter): name for name, parameter in trainer.policy.named_parameters()}
    text = {names[id(parameter)] for parameter in trainer.policy.parameters_of("text")}
    changed = moved(one, two)
    assert changed
    assert changed <= text


def test_learning_rates_belong_to_modalities():
    trainer = Trainer(config_of(optim={"text_lr": 0.0, "image_lr": 1e-3}))
    before = weights_of(trainer.policy)
    text = {id(parameter) for parameter in trainer.policy.parameters_of("text")}
    trainer.update(0)
    after = weights_of(trainer.policy)
    for name, parameter in trainer.policy.named_parameters():
        assert torch.equal(before[name], after[name]) == (id(parameter) in text or not parameter.requires_grad), name


def test_gradients_are_clipped_for_each_modality_by_itself():
    norms = {}
    for limit in (1e-3, 1e9):
        trainer = Trainer(config_of(optim={"max_grad_norm": limit}))
        trainer.optimizer.step = lambda: None
        found = trainer.update(0)
        for modality, parameters in trainer.parameters.items():
            total = torch.stack([p.grad.square().sum() for p in parameters if p.grad is not None]).sum().sqrt().item()
            assert total == pytest.approx(min(limit, found[f"grad/{modality}"]), rel=1e-2)
            norms.setdefault(modality, set()).add(round(found[f"grad/{modality}"], 8))
    assert all(len(found) == 1 for found in norms.values()), "the norm before clipping is logged"


def test_low_precision_runs_beside_full_precision_in_one_process():
    exact = Trainer(config_of()).update(0)
    config = config_of(
        optim={"precision": "bf16"},
        text_trust_region={"name": "none"},
        image_trust_region={"name": "none"},
    )
    rough = Trainer(config).update(0)
    assert rough["train/reward"] == pytest.approx(exact["train/reward"], abs=0.2)
    assert rough["train/reward"] != exact["train/reward"]
    assert Trainer(config_of()).update(0) == exact


class TestPrompts:
    def test_they_are_those_of_the_seed_and_the_update_whatever_the_arm(self):
        one = Trainer(config_of())
        arm = Trainer(config_of(dynamics={"name": "dance_sde"}, modalities="image_only", guidance="cfg"))
        assert [p.key for p in one.prompts(3)] == [p.key for p in arm.prompts(3)]
        assert [p.key for p in one.prompts(3)] != [p.key for p in one.prompts(4)]
        assert [p.key for p in one.prompts(3)] != [p.key for p in Trainer(config_of(seed=1)).prompts(3)]

    def test_they_are_spread_evenly_over_the_tasks_and_distinct(self):
        trainer = Trainer(config_of(rollout={"prompts": 14}))
        for update in range(5):
            chosen = trainer.prompts(update)
            assert len({prompt.key for prompt in chosen}) == 14
            assert sorted(Counter(prompt.tag for prompt in chosen).values()) == [2, 2, 2, 2, 3, 3]

    def test_they_are_never_held_out(self):
        trainer = Trainer(config_of(rollout={"prompts": 12}))
        held_out = {
            prompt.key
            for split in ("validation", "test")
            for found in trainer.config.dataset.prompts(split).values()
            for prompt in found
        }
        assert not held_out & {prompt.key for update in range(20) for prompt in trainer.prompts(update)}


def test_arms_share_initial_noise_and_first_words():
    """What is paired in a comparison: another regularizer, ratio or clip changes nothing of the first rollout."""
    one = Trainer(config_of())
    arm = Trainer(config_of(regularizer="latent_kl", image_ratio="raw", optim={"image_lr": 1.0}))
    mine, theirs = (trainer.rollout(0, trainer.rollout_spec(0))[0] for trainer in (one, arm))
    assert torch.equal(mine.image.latents, theirs.image.latents)
    assert torch.equal(mine.thinking.tokens, theirs.thinking.tokens)


def test_windows_are_drawn_by_seed_and_update():
    drawn = {
        seed: [trainer.rollout_spec(update).stochastic for update in range(20)]
        for seed in (0, 1)
        for trainer in [Trainer(config_of(seed=seed))]
    }
    assert set(drawn[0]) == {(0,), (1,)}
    assert drawn[0] != drawn[1]
    again = Trainer(config_of())
    assert [again.rollout_spec(update).stochastic for update in reversed(range(20))] == drawn[0][::-1]
    assert Trainer(config_of(modalities="text_only")).rollout_spec(0).stochastic == ()


COMPANIONS: dict[tuple[str, str], dict] = {
    ("dynamics", "cps"): {"image_ratio": "raw"},
    ("dynamics", "ode"): {"modalities": "text_only"},
    ("window", "random_window"): {"window": {"name": "random_window", "size": 2, "low": 1, "high": 3}},
    ("window", "sliding"): {"window": {"name": "sliding", "size": 2}},
    ("window", "scattered"): {"window": {"name": "scattered", "size": 2}},
    ("episode", "interleaved"): runs.ROUNDS["interleaved"],
    ("episode", "editing"): runs.ROUNDS["editing"],
    ("reward", "hybrid"): runs.ROUNDS["interleaved"] | {"reward": "hybrid"},
    ("reward", "callable"): {"reward": {"name": "callable", "path": "tests.training.runs:brightness"}},
    ("reward", "edit"): runs.ROUNDS["editing"] | {"reward": "edit"},
    ("credit", "improvement"): {"credit": {"name": "improvement", "right": 1.0}},
    ("image_head", "tokens"): runs.TOKENS,
}
EVERY = [
    (key.name, name)
    for key in dataclasses.fields(RunConfig)
    if slot_of(key.name)
    for name in registry.strategies(slot_of(key.name))
    # Others are those of tests and benchmarks that this process has read; fsdp needs two processes: test_engines.py.
    if registry.find(slot_of(key.name), name).__module__.startswith("unigrpo.") and name != "fsdp"
]


def _in_files(key, name, folder):
    """What a dataset or model in files needs besides its name: files, and metrics that ask no judge."""
    if name == "bagel":
        return {"model": {"name": name, "folder": str(published.write(folder / "bagel"))}}
    if name == "diffusers":
        pipe = tiny_pipelines.saved("StableDiffusion3Pipeline", folder / "sd3")
        thinker = tiny_pipelines.language_model(folder / "thinker")
        return {"model": {"name": name, "path": str(pipe), "language_model": str(thinker)}}
    if name == "janus":
        return runs.TOKENS | {"model": {"name": name, "path": str(tiny_janus.saved(folder / "janus"))}}
    if key != "dataset" or name == "shapes":
        return {}
    texts = [f"{article} {colour} circle" for article in ("a", "one") for colour in ("red", "green", "blue", "yellow")]
    lines = [json.dumps({"prompt": text}) for text in texts] if name == "jsonl" else texts
    (folder / "prompts").write_text("\n".join(lines))
    return {"dataset": {"name": name, "path": str(folder / "prompts")}, "train_metrics": ["lengths"]}


@pytest.mark.parametrize(("key", "name"), EVERY, ids=[f"{key}-{name}" for key, name in EVERY])
def test_every_strategy_of_every_slot_trains(key, name, tmp_path):
    """Once on-policy and once off-policy, and all that is logged is finite."""
    config = config_of(**{key: name} | COMPANIONS.get((slot_of(key), name), {}) | _in_files(key, name, tmp_path))
    assert config.conflicts() == []
    trainer = Trainer(config)
    before = weights_of(trainer.policy)
    for update in (0, 1):
        found = trainer.update(update)
        assert all(math.isfinite(value) for value in found.values())
    # What a random model paints is worth the same to every real reward.
    assert moved(before, weights_of(trainer.policy)) or key == "reward"


def test_without_thinking_there_is_only_a_picture():
    found = Trainer(config_of(episode={"thinking": False}, modalities="image_only")).update(0)
    assert found["train/length"] == 0.0
    assert found["guard/image"] == 0.0


def test_work_is_counted_by_kind():
    """Four rows: three steps of the rollout, one trained step, one of the reference; guidance doubles each.

    But for the reference where the conditional velocity alone is held near it.  Either way nothing has moved before the
    first optimiser step: policy and reference are compared in the same velocity.
    """
    held = {"name": "cfg", "penalty": "conditional"}
    for guidance, factor, of_reference in ((CfgFree(), 1, 1), ("cfg", 2, 2), (held, 2, 1)):
        trainer = Trainer(config_of(guidance=guidance))
        assert trainer.update(0)["drift/velocity_mse"] == 0
        assert trainer.update(1)["drift/velocity_mse"] > 0
        counts = {name: trainer.cost[name] for name in ("nfe_rollout", "nfe_train", "nfe_reference", "images")}
        assert counts == {
            "nfe_rollout": 24 * factor,
            "nfe_train": 8 * factor,
            "nfe_reference": 8 * of_reference,
            "images": 8,
        }


def test_the_reference_is_asked_only_when_needed():
    trainer = Trainer(config_of(regularizer="none", text_kl="none"))
    assert [trainer.needs_reference(update) for update in range(12)] == [u in (0, 10) for u in range(12)]
    assert all(Trainer(config_of()).needs_reference(update) for update in range(12))
    silent = Trainer(config_of(modalities="text_only", text_kl="none"))
    assert not silent.needs_reference(1), "a penalty of a modality that is not trained"
    assert "drift/velocity_mse" not in trainer.update(1)


def test_prompts_that_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(trainer_module.surroundings, "accelerator", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ConfigError, match="times the 2 processes"):
        Trainer(config_of(rollout={"prompts": 3, "minibatches": 1}))


def test_more_prompts_than_there_are_to_train_on_are_refused():
    trainer = Trainer(config_of(rollout={"prompts": 10_000, "minibatches": 1}))
    with pytest.raises(ConfigError, match=r"rollout.prompts=10000: expected at most \d+, as many"):
        trainer.prompts(0)


def test_an_impossible_configuration_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="dynamics=ode has no log-probability"):
        Trainer(config_of(dynamics="ode", model={"name": "mot", "checkpoint": "nowhere"}))
