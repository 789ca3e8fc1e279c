"""The typed configuration: plain form and back, what is refused and how it is said, what makes two runs the same."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shipped import shipped
from unigrpo import registry
from unigrpo.compose import compose
from unigrpo.config import SILENT, RunConfig, slot_of
from unigrpo.errors import ConfigError
from unigrpo.plain import build, hint_of, plain_form

SLOT_KEYS = {f.name: slot for f in dataclasses.fields(RunConfig) if (slot := slot_of(f.name))}
STORIES, EDITS = ({"name": "shapes", "task": task} for task in ("stories", "edits"))


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, small and above 0."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        count = None if args[-1] is Ellipsis else len(args)
        return st.lists(values(args[0]), min_size=count or 1, max_size=count or 7).map(tuple)
    if origin is dict:
        return st.dictionaries(st.sampled_from(["geneval", "proxy"]), values(args[1]), min_size=1)
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(1, 9)
    return st.text(max_size=5) if hint is str else st.floats(0.01, 1.0)


@st.composite
def plain(draw: st.DrawFn, cls: type) -> dict[str, Any]:
    """The plain form of ``cls`` with some fields given, and those of strategies in any legal combination."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if not required and not draw(st.booleans()):
            continue
        if slot := f.metadata.get("slot"):
            found[f.name] = draw(strategy(slot) | st.none() if f.default is None else strategy(slot))
        elif slot := f.metadata.get("slots"):
            found[f.name] = draw(st.lists(strategy(slot), max_size=3))
        elif dataclasses.is_dataclass(hint := hint_of(cls, f.name)):
            found[f.name] = draw(plain(hint))
        else:
            found[f.name] = draw(values(hint))
    return found


def strategy(slot: str) -> st.SearchStrategy[Any]:
    def legal(named: tuple[str, dict[str, Any]]) -> bool:
        try:
            registry.find(slot, named[0])(**named[1])
        except (TypeError, ValueError):
            return False
        return True

    names = st.sampled_from(sorted(shipped(slot)))
    complete = names.filter(lambda name: legal((name, {})))
    both = names.flatmap(lambda name: st.tuples(st.just(name), plain(registry.find(slot, name)))).filter(legal)
    return st.one_of(complete, both.map(lambda named: {"name": named[0], **named[1]}))


@given(plain(RunConfig))
def test_the_plain_form_says_all_and_survives_json(data):
    config = RunConfig.from_dict(data)
    spelled = json.dumps(config.to_dict(), allow_nan=False)
    again = RunConfig.from_dict(json.loads(spelled))
    assert again == config
    assert json.dumps(again.to_dict()) == spelled
    for key, given_value in data.items():
        assert holds(getattr(config, key), given_value), key


def holds(kept: Any, plain_value: Any) -> bool:
    """Whether a part of a configuration is what its plain form says."""
    if isinstance(plain_value, str) and hasattr(kept, "slot"):
        return bool(kept.name == plain_value)
    if isinstance(plain_value, list) and isinstance(kept, tuple):
        return all(holds(one, value) for one, value in zip(kept, plain_value, strict=True))
    if isinstance(plain_value, dict) and dataclasses.is_dataclass(kept):
        return all(holds(getattr(kept, field), value) for field, value in plain_value.items())
    return bool(kept == plain_value)


def test_the_plain_form_of_the_defaults_is_complete():
    written = RunConfig().to_dict()
    assert written.keys() == {f.name for f in dataclasses.fields(RunConfig)} - {"salt", "adapter", "engine"}
    assert written["optim"]["betas"] == [0.9, 0.95]
    assert written["window"] == {"name": "random_window", "size": 2, "low": 0, "high": 4}
    assert RunConfig.from_dict({}) == RunConfig()


def test_a_silent_field_is_silent_at_the_default_of_all_its_fields():
    plain = plain_form(RunConfig())
    assert {name: plain[name] for name in SILENT} == SILENT


def test_a_silent_field_leaves_no_trace_at_its_default():
    """So that a run from before there was a salt is still the same run."""
    assert "salt" not in RunConfig(salt=0).to_dict()
    assert RunConfig(salt=0).key == (0,)
    salted = RunConfig(salt=2, seed=1)
    assert salted.to_dict() == RunConfig(seed=1).to_dict() | {"salt": 2}
    assert RunConfig.from_dict(salted.to_dict()) == salted
    assert salted.key == (1, "salt", 2)
    assert salted.identity() != RunConfig(seed=1).identity()


def test_what_silent_fields_are_by_default_is_what_is_left_out():
    """An adapter leaves cells of full training their identities, and one that is chosen is in them."""
    defaults = RunConfig()
    assert {name: plain_form(getattr(defaults, name)) for name in SILENT} == dict(SILENT)
    assert "adapter" not in compose(["adapter=full"]).identity()
    chosen = compose(["adapter=lora", "adapter.rank=4"])
    assert chosen.identity()["adapter"]["rank"] == 4
    assert RunConfig.from_dict(chosen.to_dict()) == chosen
    assert compose(["adapter=lora", "adapter=full"]) == compose(["adapter=lora", "~adapter"]) == compose()


def leaves(data: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(data, dict):
        return [path]
    return [leaf for key, value in data.items() for leaf in leaves(value, (*path, key))]


def changed(data: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """``data`` with another value at ``path``; only the identity is looked at, so it need not be a legal one."""
    copy = json.loads(json.dumps(data))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = [node[path[-1]], "changed"]
    return copy


def test_identity_is_all_but_the_recipes_name():
    one = RunConfig.from_dict({"recipe": "unigrpo"})
    assert one.identity() == RunConfig.from_dict({"recipe": "mine"}).identity()
    assert one.identity() == {key: value for key, value in one.to_dict().items() if key != "recipe"}
    whole = one.to_dict()
    assert all(changed(whole, path) != whole for path in leaves(whole))
    for data in (
        {"seed": 1},
        {"sampler": {"shift": 2.0}},
        {"dynamics": {"name": "flow_sde", "a": 0.7}},
        {"reward": "proxy"},
    ):
        assert RunConfig.from_dict(data).identity() != one.identity()


REFUSED = [
    ({"optimm": {}}, "unknown key 'optimm'; did you mean 'optim'?"),
    ({"optim": {"text_lrr": 1.0}}, "unknown key 'optim.text_lrr'; did you mean 'text_lr'?"),
    ({"dynamics": "flow_sdee"}, "unknown dynamics 'flow_sdee'; did you mean 'flow_sde'?"),
    ({"dynamics": {"name": "flow_sde", "aa": 1.0}}, "unknown key 'dynamics.aa'"),
    (
        {"dynamics": {"name": "flow_sde", "reduction": "meen"}},
        "dynamics.reduction: expected one of mean, sum, got 'meen'",
    ),
    ({"dynamics": {"name": "flow_sde", "reduction": "meen"}}, "did you mean 'mean'?"),
    ({"dynamics": {"name": "flow_sde", "a": "big"}}, "dynamics.a: expected float, got 'big'"),
    ({"dynamics": {"name": "flow_sde", "a": True}}, "dynamics.a: expected float, got True"),
    ({"dynamics": {"name": "flow_sde", "a": float("nan")}}, "dynamics.a: expected a finite number, got nan"),
    ({"dynamics": {"name": "flow_sde", "a": float("inf")}}, "dynamics.a: expected a finite number, got inf"),
    ({"dynamics": {"name": "flow_sde", "a": -1}}, "dynamics: a=-1.0: expected a noise level of 0 or more"),
    ({"dynamics": {"a": 1.0}}, "dynamics: expected a strategy name or a mapping with 'name'"),
    ({"dynamics": {"name": 3}}, "dynamics: expected a strategy name or a mapping with 'name'"),
    ({"dynamics": None}, "dynamics: expected a strategy name or a mapping with 'name', got None"),
    ({"seed": True}, "seed: expected int, got True"),
    ({"seed": 1.0}, "seed: expected int, got 1.0"),
    ({"recipe": 1}, "recipe: expected str, got 1"),
    ({"rollout": {"shared_noise": 1}}, "rollout.shared_noise: expected bool, got 1"),
    ({"rollout": 3}, "rollout: expected a mapping, got 3"),
    ({"optim": {"betas": [0.9]}}, "optim.betas: expected 2 items, got 1"),
    ({"optim": {"betas": 0.9}}, "optim.betas: expected a list, got 0.9"),
    ({"optim": {"betas": [0.9, "x"]}}, "optim.betas[1]: expected float, got 'x'"),
    ({"evaluation": {"prompts_per_tag": 2.5}}, "evaluation.prompts_per_tag: expected int, got 2.5"),
    ({"evaluation": {"prompts_per_tag": [1, 1]}}, "evaluation.prompts_per_tag: expected int, got [1, 1]"),
    ({"evaluation": {"prompts_per_task": [1] * 6}}, "unknown key 'evaluation.prompts_per_task'; did you mean"),
    ({"evaluation": {"split": "train"}}, "evaluation.split: expected one of validation, test, got 'train'"),
    ({"evaluation": {"retention": "shapess"}}, "unknown dataset 'shapess'; did you mean 'shapes'?"),
    ({"evaluation": {"retention": 3}}, "evaluation.retention: expected a strategy name or a mapping with 'name'"),
    ({"world": "shapes"}, "unknown key 'world'"),
    ({"dataset": None}, "dataset: expected a strategy name or a mapping with 'name', got None"),
    (
        {"dataset": {"name": "shapes", "task": "songs"}},
        "dataset.task: expected one of images, stories, edits, got 'songs'",
    ),
    ({"dataset": "jsonl"}, "dataset: "),
    ({"metrics": "lengths"}, "metrics: expected a list, got 'lengths'"),
    ({"metrics": {"name": "lengths"}}, "metrics: expected a list, got {'name': 'lengths'}"),
    ({"metrics": ["length"]}, "unknown metric 'length'; did you mean 'lengths'?"),
    ({"train_metrics": ["lengths", 3]}, "train_metrics[1]: expected a strategy name or a mapping with 'name', got 3"),
    ({"metrics": [{"name": "lengths", "x": 1}]}, "unknown key 'metrics[0].x'"),
    ({"advantage": {"name": "group", "ddof": True}}, "advantage.ddof: expected one of 0, 1, got True"),
    ({"advantage": {"name": "group", "ddof": 1.0}}, "advantage.ddof: expected one of 0, 1, got 1.0"),
    ({"reward": {"name": "weighted", "weights": {"proxyy": 1.0}}}, "unknown reward 'proxyy'; did you mean 'proxy'?"),
    ({"reward": {"name": "weighted", "weights": [1.0]}}, "reward.weights: expected a mapping"),
    ({"episode": {"name": "single_round", "max_thinking": 0}}, "episode: max_thinking=0: expected 1 or more"),
    ({"window": {"name": "random_window", "size": 5, "high": 4}}, "window: expected low >= 0 and 1 <= size"),
]


@pytest.mark.parametrize(("data", "said"), REFUSED, ids=[said[:60] for _, said in REFUSED])
def test_what_cannot_be_is_refused_by_name(data, said):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(data)
    assert said in str(caught.value)


def test_a_whole_number_is_a_float_too():
    config = RunConfig.from_dict({"dynamics": {"name": "flow_sde", "a": 1}})
    assert config.dynamics.a == 1.0
    assert isinstance(config.dynamics.a, float)


def test_a_missing_field_without_default_is_named():
    @dataclasses.dataclass(frozen=True)
    class Needy:
        length: int

    with pytest.raises(ConfigError, match=r"Needy: .*missing .*'length'"):
        build(Needy, {})


def test_an_instance_stands_for_itself():
    chosen = registry.find("dynamics", "cps")(eta=0.5)
    assert RunConfig.from_dict({"dynamics": chosen}).dynamics is chosen


CONFLICTS = [
    ({"sampler": {"steps": 0}, "window": "all"}, "sampler.steps=0: expected a value above 0"),
    ({"sampler": {"shift": 0.5}}, "sampler.shift=0.5: expected at least 1"),
    ({"sampler": {"temperature": 0.0}}, "sampler.temperature=0.0: expected a value above 0"),
    ({"rollout": {"group_size": 1}}, "a group of one has no relative advantage"),
    ({"rollout": {"prompts": 5}}, "rollout.minibatches=2: must divide rollout.prompts=5"),
    ({"rollout": {"minibatches": 0}}, "rollout.minibatches=0: expected a value above 0"),
    ({"optim": {"updates": -1}}, "optim.updates=-1: expected 0 or more"),
    ({"optim": {"precision": "fp16"}}, "optim.precision='fp16': expected 'fp32' or 'bf16'"),
    ({"optim": {"image_lr": -0.1}}, "optim.image_lr=-0.1"),
    ({"evaluation": {"shift": 0.5}}, "evaluation.shift=0.5: expected at least 1"),
    ({"evaluation": {"every": -1}}, "evaluation.every=-1"),
    ({"evaluation": {"loop_images_per_prompt": 0}}, "evaluation.loop_images_per_prompt=0"),
    ({"evaluation": {"prompts_per_tag": 0}}, "evaluation.prompts_per_tag=0: expected a value above 0"),
    ({"evaluation": {"retention_prompts_per_tag": 0}}, "evaluation.retention_prompts_per_tag=0: expected a value"),
    ({"evaluation": {"guidance_scale": -1.0}}, "evaluation.guidance_scale=-1.0"),
    ({"dynamics": "ode"}, "algorithm=policy_gradient: dynamics=ode has no log-probability"),
    ({"dynamics": "cps"}, "image_ratio=ratio_norm: dynamics=cps has no Gaussian density"),
    ({"dynamics": "cps", "image_ratio": "raw", "window": "all"}, "dynamics=cps: its last step has no noise"),
    ({"dynamics": {"name": "flow_sde", "a": 0}}, "dynamics=flow_sde: a=0 leaves no noise"),
    ({"window": {"name": "random_window", "high": 9}}, "window=random_window: high=9 lies beyond sampler.steps=8"),
    (
        {"dynamics": "ode", "image_ratio": "raw", "regularizer": "latent_kl"},
        "regularizer=latent_kl: dynamics=ode has no noise to divide by",
    ),
    ({"episode": {"name": "single_round", "thinking": False}}, "episode=single_round: without thinking"),
    (
        {"episode": "editing"},
        "episode=editing: needs the fields 'images', 'turns' of every prompt, which dataset=shapes"
        " (task=images) does not have; choose another dataset or episode",
    ),
    (
        {"dataset": EDITS},
        "reward=geneval: needs the field 'include' of every prompt, which dataset=shapes (task=edits) does not have",
    ),
    (
        {"reward": "hybrid"},
        "reward=hybrid: needs the fields 'requests', 'story' of every prompt, which dataset=shapes (task=images)",
    ),
    (
        {"metrics": ["lengths", "shapes_edit"]},
        "metrics=shapes_edit: needs the field 'edits' of every prompt, which dataset=shapes",
    ),
    (
        {"train_metrics": ["shapes_interleaved"]},
        "train_metrics=shapes_interleaved: needs the field 'story' of every prompt",
    ),
    (
        {"dataset": EDITS, "episode": "editing", "reward": "edit", "credit": "improvement"},
        "credit=improvement: episode=editing asks for something else in every turn",
    ),
    ({"model": {"name": "mot", "checkpoint": "nowhere"}}, "model=mot: model.checkpoint='nowhere': no such"),
]


@pytest.mark.parametrize(("data", "said"), CONFLICTS, ids=[said[:60] for _, said in CONFLICTS])
def test_what_cannot_run_together_is_said_before_anything_starts(data, said):
    config = RunConfig.from_dict(data)
    assert any(said in conflict for conflict in config.conflicts()), config.conflicts()
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert said in str(caught.value)


def test_an_untouched_model_is_refused_for_its_evaluation_only():
    impossible = {"dynamics": "ode", "modalities": "joint"}
    assert RunConfig.from_dict(impossible).conflicts()
    assert RunConfig.from_dict(impossible | {"optim": {"updates": 0}}).conflicts() == []
    short = {"optim": {"updates": 0}, "metrics": ["shapes_edit"], "train_metrics": ["shapes_edit"], "reward": "edit"}
    (reason,) = RunConfig.from_dict(short).conflicts()
    assert reason.startswith("metrics=shapes_edit: needs the field 'edits' of every prompt")


def test_all_conflicts_are_said_at_once():
    config = RunConfig.from_dict({"dynamics": "ode", "sampler": {"shift": 0.0}, "rollout": {"group_size": 1}})
    assert len(config.conflicts()) == 3
    with pytest.raises(ConfigError, match=r"shift.*group_size.*dynamics=ode"):
        config.check()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"dynamics": "ode", "modalities": "text_only"},
        {"dynamics": "cps", "image_ratio": "raw"},
        {"episode": {"name": "single_round", "thinking": False}, "modalities": "image_only"},
        {"episode": {"name": "single_round", "thinking": False}, "modalities": {"name": "joint", "text": 0.0}},
        {"optim": {"updates": 0}},
        {"dataset": STORIES, "episode": "interleaved", "reward": "hybrid", "evaluation": {"prompts_per_tag": 10**6}},
        {"dataset": EDITS, "episode": "editing", "reward": "edit", "credit": "broadcast"},
        {"episode": "reflect", "credit": "improvement", "evaluation": {"retention": None}},
    ],
)
def test_what_can_run_is_let_through(data):
    config = RunConfig.from_dict(data)
    assert config.conflicts() == []
    assert config.check() is config


def test_metrics_are_the_datasets_suggestion_unless_named():
    config = RunConfig.from_dict({"dataset": EDITS})
    assert config.metrics == config.train_metrics == ()
    assert [metric.name for metric in config.measured] == ["shapes_edit", "diversity"]
    named = RunConfig.from_dict({"metrics": ["lengths", {"name": "diversity"}], "train_metrics": ["lengths"]})
    assert [metric.name for metric in named.measured] == ["lengths", "diversity"]
    assert [metric.name for metric in named.train_metrics] == ["lengths"]
    assert named.to_dict()["metrics"] == [{"name": "lengths"}, {"name": "diversity"}]
    composed = compose(["metrics=[lengths, diversity]", "train_metrics=[lengths]"])
    assert (composed.metrics, composed.train_metrics) == (named.metrics, named.train_metrics)


def test_retention_is_a_dataset_or_none():
    assert RunConfig().evaluation.retention is None
    assert RunConfig().to_dict()["evaluation"]["retention"] is None
    kept = compose(["evaluation.retention=shapes"])
    assert kept.evaluation.retention == registry.find("dataset", "shapes")()
    built = RunConfig.from_dict({"evaluation": {"retention": {"name": "shapes", "task": "images"}}})
    assert kept.evaluation == built.evaluation
    none = compose(["evaluation.retention=null"], "editing_unigrpo")
    assert compose([], "editing_unigrpo").evaluation.retention == kept.evaluation.retention
    assert none.evaluation.retention is None
    edits = compose(["evaluation.retention=shapes", "evaluation.retention.task=edits"])
    assert edits.evaluation.retention.task == "edits"


def test_a_rewards_own_conflicts_come_beside_what_it_lacks():
    """As of every strategy: all that is wrong is said at once."""
    settings = {"reward": "hybrid", "credit": "suffix_sum", "advantage": "per_reward"}
    assert len(RunConfig.from_dict(settings).conflicts()) == 2


def test_the_slot_behind_a_key():
    assert slot_of("text_trust_region") == slot_of("image_trust_region") == "trust_region"
    assert slot_of("sampler") is None
    assert slot_of("nothing") is None


def test_the_reward_as_a_metric_is_the_runs_own_wherever_it_is_measured(tmp_path):
    """Also of rollouts, and of what the model could do before; what those prompts lack is said before a run starts."""
    (tmp_path / "kept.txt").write_text("a cat\na dog\na house\n")
    kept = {"evaluation": {"retention": {"name": "text_file", "path": str(tmp_path / "kept.txt")}}}
    own = {"reward": {"name": "callable", "path": "tests.training.runs:brightness"}, "train_metrics": ["reward"]}
    config = RunConfig.from_dict(kept | own | {"metrics": ["reward"]})
    assert config.conflicts() == []
    for metrics in (config.measured, config.measured_in_training, config.measured_of_retention):
        assert metrics[0].reward is config.reward
    (reason,) = RunConfig.from_dict(kept).conflicts()
    assert reason.startswith("evaluation.retention's metric=reward: needs the field 'include' of every prompt")
    gone = {"evaluation": {"retention": {"name": "text_file", "path": str(tmp_path / "gone")}}}
    (reason,) = RunConfig.from_dict(gone).conflicts()
    assert reason.startswith("evaluation.retention=text_file: dataset.path=")
