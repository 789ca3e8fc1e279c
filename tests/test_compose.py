from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unigrpo.compose import Draft, compose, recipes
from unigrpo.config import OptimConfig, RunConfig
from unigrpo.errors import ConfigError
from unigrpo.overrides import parse
from unigrpo.registry import find

USER = "tests.ablations.user_strategy.Doubled"


def test_overrides_reach_the_configuration():
    config = compose(
        ["recipe=unigrpo", "regularizer=velocity_mse", "regularizer.weight=3", "optim.updates=10", "seed=1"]
    )
    assert (config.recipe, config.seed, config.optim.updates) == ("unigrpo", 1, 10)
    assert (config.regularizer.name, config.regularizer.weight) == ("velocity_mse", 3.0)


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_alone_composes_to_what_its_file_says(recipe):
    config = compose([], recipe)
    assert config.recipe == recipe
    assert RunConfig.from_dict(config.to_dict()) == config


def test_two_keys_of_one_slot_are_chosen_apart():
    config = compose(["image_trust_region=none", "text_trust_region.low=0.1"])
    assert config.image_trust_region.name == "none"
    assert (config.text_trust_region.name, config.text_trust_region.low) == ("ppo_clip", 0.1)


def test_another_strategy_starts_from_its_own_defaults(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("config: {regularizer: {name: latent_kl, weight: 7.0}}")
    assert compose([], str(recipe)).regularizer.weight == 7.0
    assert compose(["regularizer=latent_kl"], str(recipe)).regularizer.weight == 7.0
    assert compose(["regularizer=velocity_mse"], str(recipe)).regularizer == find("regularizer", "velocity_mse")()


@settings(max_examples=10)
@given(st.permutations(["regularizer=velocity_mse", "regularizer.weight=3", "optim.updates=4", "guidance=cfg"]))
def test_the_order_of_overrides_does_not_matter(order):
    assert compose(order) == compose(sorted(order))


def test_of_two_overrides_of_one_key_the_later_counts():
    assert compose(["optim.updates=1", "optim.updates=2"]).optim.updates == 2
    assert compose(["regularizer=none", "regularizer=latent_kl"]).regularizer.name == "latent_kl"


def test_a_mapping_given_whole_replaces_the_one_that_is_there():
    assert compose(["reward=weighted", "reward.weights={geneval: 1.0}"]).reward.weights == {"geneval": 1.0}
    assert compose(["optim.image_lr=1", "optim={updates: 3}"]).optim == OptimConfig(updates=3)
    assert compose(["optim={updates: 3}", "optim.image_lr=1"]).optim == OptimConfig(updates=3, image_lr=1.0)


def test_what_is_added_to_a_mapping_of_one_configuration_is_in_no_other():
    given = ["reward=weighted", "reward.weights={geneval: 1.0}"]
    assert compose([*given, "++reward.weights.proxy=2"]).reward.weights == {"geneval": 1.0, "proxy": 2.0}
    assert compose(given).reward.weights == {"geneval": 1.0}


def test_adding_and_deleting():
    both = {"geneval": 0.5, "proxy": 0.25}
    assert compose(["reward=weighted", "++reward.weights.proxy=0.25"]).reward.weights == both
    assert compose(["reward=weighted", "~reward.weights.proxy", "+reward.weights.proxy=0.25"]).reward.weights == both
    assert compose(["reward=weighted", "~reward.weights.proxy=0.5"]).reward.weights == {"geneval": 0.5}
    assert compose(["+regularizer=latent_kl"]).regularizer.name == "latent_kl"
    assert compose(["optim={updates: 3}", "~optim.text_lr"]).optim == OptimConfig(updates=3)
    assert compose(["~regularizer"]).regularizer == RunConfig().regularizer
    assert compose(["~regularizer=velocity_mse"]).regularizer == RunConfig().regularizer


def test_a_strategy_within_a_strategy_is_chosen_like_any_other():
    config = compose(["reward.text_scorer=minilm", "reward=hybrid"], "interleaved_unigrpo")
    assert config.reward.text_scorer.name == "minilm"
    with pytest.raises(ConfigError, match="unknown text_scorer 'minilmm'; did you mean 'minilm'"):
        compose(["reward.text_scorer=minilmm"], "interleaved_unigrpo")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("regularizr=none", "unknown key 'regularizr'; did you mean 'regularizer'?"),
        ("regularizer=velocty_mse", "unknown regularizer 'velocty_mse'; did you mean 'velocity_mse'?"),
        ("optim.update=3", "unknown key 'optim.update'; did you mean 'optim.updates'?"),
        ("optim={update: 3}", "unknown key 'optim.update'; did you mean 'updates'?"),
        ("+optim.foo=1", "unknown key 'optim.foo'; choose one of: optim.betas, "),
        ("optim.lr=1", "unknown key 'optim.lr'; choose one of: optim.image_lr, optim.text_lr"),
        ("device=cpu", "unknown key 'device': a run takes a GPU where there is one, else the CPU; the environment"),
        ("cache=1", "unknown key 'cache'; choose one of: adapter, advantage, "),
        ("model=my_modl.X", "No module named 'my_modl'); looked for my_modl.py in "),
        ("dynamics.aa=1", "unknown key 'dynamics.aa': the strategy in dynamics has no such field; did you mean 'a'?"),
        ("optim.updates=ten", "optim.updates: expected int, got 'ten'"),
        ("optim.text_lr=.inf", "optim.text_lr"),
        ("seed=1,2", "one run takes one value"),
        ("recipe=unigrop", "unknown recipe 'unigrop'; did you mean 'unigrpo'?"),
        ("regularizer={a: 1}", "expected the name of a strategy"),
        ("regularizer=no.such.Thing", "cannot import it"),
        ("regularizer=pathlib.Path", "expected a registered dataclass"),
        ("foo", "cannot read the override 'foo'"),
        ("a=[1", "cannot read the override 'a=[1'"),
        ("hydra.run.dir=x", "unknown key 'hydra.run.dir'"),
        ("regularizer.name=none", "unknown key 'regularizer.name'"),
        ("reward.kind.x=1", "unknown key 'reward.kind.x'"),
        ("+optim.updates=3", "it is there already; change it by optim.updates=3"),
        ("~optim.updates=3", "expected its value, which is 60"),
        ("~optim.foo", "unknown key 'optim.foo'"),
        ("recipe=a,b", "expected the name of one recipe"),
        ("optim=3", "optim: expected a mapping, got 3"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_valid_choice(override, expected):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert expected in str(caught.value)


def test_a_field_without_a_default_asks_for_its_value():
    choice = "regularizer=tests.ablations.user_strategy.Demanding"
    with pytest.raises(ConfigError, match=r"regularizer\.weight: has no default"):
        compose([choice])
    assert compose([choice, "regularizer.weight=2"]).regularizer.weight == 2.0


def test_a_strategy_of_the_user_is_found_by_its_path_and_again_from_the_plain_form():
    config = compose([f"regularizer={USER}", "regularizer.weight=5"])
    assert (config.regularizer.name, config.regularizer.weight) == (USER, 5.0)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert "use dynamics=flow_sde" in " ".join(compose([f"regularizer={USER}", "dynamics=ode"]).conflicts())


def test_a_shipped_strategy_keeps_its_name_when_it_is_found_by_path():
    path = type(compose(["regularizer=velocity_mse"]).regularizer)
    config = compose([f"regularizer={path.__module__}.{path.__qualname__}"])
    assert config == compose(["regularizer=velocity_mse"])


def test_what_is_not_there_to_be_changed_can_be_added_where_anything_may_be():
    with pytest.raises(ConfigError, match=r"unknown key 'reward.weights.clip'.*\+\+ adds one"):
        compose(["reward=weighted", "reward.weights.clip=1"])


def texts(draft):
    return [override.text for override in draft.said]


def test_a_later_layer_drops_the_fields_of_the_strategy_it_replaces():
    earlier = Draft("unigrpo")
    earlier.apply([parse(text) for text in ("regularizer=latent_kl", "regularizer.weight=5", "seed=1")])
    other, same = earlier.copy(), earlier.copy()
    other.apply([parse("regularizer=velocity_mse")])
    assert texts(other) == ["seed=1", "regularizer=velocity_mse"]
    assert other.config().regularizer.weight == 0.001  # what the recipe says of its own strategy
    same.apply([parse("regularizer=latent_kl")])
    assert texts(same) == ["regularizer.weight=5", "seed=1", "regularizer=latent_kl"]
    assert same.config().regularizer.weight == 5.0
    assert earlier.config() == same.config()


def test_fields_that_a_strategy_lacks_are_left_out_where_that_is_wanted():
    draft = Draft("unigrpo")
    layer = [parse(text) for text in ("guidance.scale=3", "regularizer.weight=3", "++reward.weights.proxy=1")]
    assert draft.apply(layer, where_fitting=True) == [layer[1]]
    with pytest.raises(ConfigError, match=r"unknown key 'optim\.foo'"):
        draft.apply([parse("optim.foo=1")], where_fitting=True)


def test_composing_needs_nothing_heavy():
    script = (
        "import sys; from unigrpo.compose import compose; compose(['optim.updates=3'])\n"
        "assert not {'torch', 'numpy', 'mlflow', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


def test_hydra_is_imported_in_one_module_only():
    root = Path(__file__).parents[1]
    sources = itertools.chain(*(root.joinpath(name).rglob("*.py") for name in ("unigrpo", "ablations", "reports")))
    users = {path.name for path in sources if "from hydra" in path.read_text() or "omegaconf" in path.read_text()}
    assert users == {"overrides.py"}
