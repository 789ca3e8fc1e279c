"""Published methods as data: every recipe is valid, names its source, and starts at a ratio of exactly 1."""

import pytest

from unigrpo.compose import compose, load_recipe, recipes

#: Those that need nothing of a user; the others are those of test_published_recipes.py.
OURS = [name for name in recipes() if load_recipe(name)["config"]["model"]["name"] == "mot"]
SMALL = ["rollout.prompts=2", "rollout.group_size=4", "rollout.minibatches=1"]


@pytest.mark.parametrize("name", recipes())
def test_recipe_names_its_source_and_what_was_scaled_down(name):
    recipe = load_recipe(name)
    assert "arXiv" in recipe["source"]
    assert recipe["scaled_down"].strip()
    assert compose([], name).recipe == name


@pytest.mark.parametrize("name", OURS)
def test_recipe_of_the_shipped_model_runs_as_it_is(name):
    assert compose([], name).conflicts() == []


def test_the_published_methods_are_all_there():
    published = {"unigrpo", "flow_grpo", "flow_grpo_fast", "mix_grpo", "dance_grpo", "grpo_guard", "text_grpo", "awm"}
    rounds = {"interleaved_unigrpo", "interleaved_grpo", "editing_unigrpo", "reflect_unigrpo"}
    assert published | rounds <= set(recipes())


@pytest.mark.parametrize("name", OURS)
def test_first_update_log_ratios_are_exactly_zero(name):
    from unigrpo.training.trainer import Trainer

    config = compose(SMALL, name)
    metrics = Trainer(config).update(0)
    assert metrics["guard/text"] == 0.0
    assert metrics["guard/image"] == 0.0
    assert ("grad/text" in metrics) == (config.modalities.text > 0)
    assert ("grad/image" in metrics) == (config.modalities.image > 0)
    if config.modalities.image:
        steps = [name for name in metrics if name.startswith("ratio/image_mean")]
        assert steps
        assert all(metrics[name] == 1.0 for name in steps)
