from __future__ import annotations

import dataclasses
import functools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.arms import Cell
from ablations.grid import UNTOUCHED, Grid, Matched, Spread, grids, load_grid
from ablations.plan import make_plan
from ablations.request import read
from reports.statistics import power
from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError


def plan_of(*overrides, grid="kl_vs_mse", seeds=None):
    return make_plan(load_grid(grid), overrides, seeds)


def grid_of(**changes):
    base = {
        "name": "mine",
        "question": "?",
        "recipe": "unigrpo",
        "baseline": "a",
        "primary": {"metric": "geneval/strict", "direction": "max"},
        "arms": {"a": ("regularizer=none",), "b": ("regularizer=velocity_mse",)},
    }
    return Grid(**base | changes)


@pytest.mark.parametrize("name", grids())
def test_every_shipped_grid_can_be_planned(name):
    plan = plan_of(grid=name)
    assert not [arm.refused for arm in plan.arms if arm.refused]
    assert plan.arms[0].untouched
    assert plan.arms[0].config.optim.updates == 0
    fixed = len(plan.blocks.values) if plan.blocks else 1
    assert len(plan.cells()) == sum(len(plan.seeds) if arm.config.optim.updates else fixed for arm in plan.arms)


@pytest.mark.parametrize("name", grids())
def test_every_shipped_grid_has_the_seeds_that_its_question_needs(name):
    """At the spread that it records; a margin is one within which equal arms would be found equal."""
    grid = load_grid(name)
    assert len(grid.seeds) >= 8
    assert not [note for note in plan_of(grid=name).notes if "cannot show" in note]
    if grid.spread and grid.margin:
        level = grid.alpha / len(plan_of(grid=name).comparisons)
        assert power.smallest_margin(grid.test, len(grid.seeds), level) * grid.spread.sd < grid.margin
        assert power.smallest_effect(grid.test, len(grid.seeds), level) * grid.spread.sd <= grid.margin


def test_kl_vs_mse_is_three_arms_of_ten_seeds_and_three_untouched_models_seed_by_seed():
    cells = plan_of().cells()
    assert len(cells) == len({cell.id for cell in cells}) == 33
    assert [cell.arm for cell in cells[:5]] == [UNTOUCHED, "none", "latent_kl", "velocity_mse", UNTOUCHED]
    assert [cell.config.seed for cell in cells[1:]] == sorted(cell.config.seed for cell in cells[1:])


@pytest.mark.parametrize("name", ["geneval/strct", "heldout/distance_to_claen", "guided/geneval/strictt"])
def test_a_metric_that_is_nearly_one_is_told_before_any_time_is_spent(name):
    def told(**changes):
        return [note for note in make_plan(grid_of(**changes)).notes if "measures" in note]

    assert name in told(secondary=(name,))[0]
    assert "did you mean" in told(secondary=(name,))[0]
    assert not told(secondary=("reward/mine", "geneval/strict", "guided/geneval/strict", "cost/update_s"))
    with pytest.raises(ConfigError, match=f"primary: no arm measures '{name}'; did you mean '{name[:9]}"):
        make_plan(grid_of(primary={"metric": name, "direction": "max"}))


MEASURED = [
    "geneval/strict/counting",
    "geneval/strict/a_tag_of_ones_own",
    "guided/geneval/strict/counting",
    "drift/latent_kl",
    "cost/nfe_rollout",
]


@pytest.mark.parametrize("name", MEASURED)
def test_a_primary_metric_that_an_arm_measures_is_taken(name):
    assert not [
        note for note in make_plan(grid_of(primary={"metric": name, "direction": "max"})).notes if "measures" in note
    ]


def test_a_primary_metric_is_known_by_what_the_arms_measure():
    stories = {"metric": "retention/geneval/strict", "direction": "max"}
    with pytest.raises(ConfigError, match="no arm measures 'retention/geneval/strict'"):
        make_plan(grid_of(primary=stories))
    assert make_plan(grid_of(primary=stories, overrides=("evaluation.retention=shapes",)))
    with pytest.raises(ConfigError, match="no arm measures 'geneval/strict'"):
        make_plan(grid_of(overrides=("metrics=[diversity]",)))


def test_arms_that_are_measured_by_different_things_are_refused():
    """Their evaluations would never be compared."""
    arms = {"a": ("reward=geneval",), "b": ("reward=proxy",)}
    with pytest.raises(ConfigError, match=r"arms 'a' and 'b' are measured by different metrics.*GenEval.*Proxy"):
        make_plan(grid_of(arms=arms, overrides=("metrics=[geneval_mini,reward]",)))
    told = "metrics=[geneval_mini,{name: reward, reward: {name: proxy}}]"
    assert make_plan(grid_of(arms=arms, overrides=(told,)))


def test_of_metrics_of_ones_own_not_all_values_are_known(tmp_path, monkeypatch):
    (tmp_path / "metric_of_this_test.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"metric": "found/later", "direction": "max"}
    assert make_plan(grid_of(primary=mine, overrides=("metrics=[metric_of_this_test.Mine]",)))


METRIC = """
from dataclasses import dataclass
from unigrpo.registry import register

@register("metric", "of_the_test_of_plans", source="a user")
@dataclass(frozen=True)
class Mine:
    version = 1
    needs = frozenset()
    quantities = ()
"""


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("replicate: yes", "replicate: expected a int, got 'yes'"),
        ("replicate: true", "replicate: expected a int, got True"),
        ("matched: {measure: m}", "matched: expected the keys measure, arms, got measure"),
        ("matched: {measure: m, arms: b}", "matched.arms: expected a list, got 'b'"),
        ("spread: {sd: .1, seeds: 6}", "spread: expected the keys sd, seeds, from, got sd, seeds"),
        ("spread: {sd: .1, seeds: 6.5, from: x}", "spread.seeds: expected a int, got 6.5"),
        ("spread: .1", "spread: expected a dict, got 0.1"),
    ],
)
def test_a_key_of_the_wrong_form_is_refused(tmp_path, key, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_grid(write_grid(tmp_path, key))


def write_grid(folder, *keys):
    lines = ["question: q", "recipe: unigrpo", "baseline: a", "primary: {metric: geneval/strict, direction: max}"]
    arms = "arms: {a: [regularizer=none], b: [regularizer=velocity_mse]}"
    (folder / "mine.yaml").write_text("\n".join([*lines, arms, *keys]) + "\n")
    return str(folder / "mine.yaml")


def test_what_a_grid_says_of_spread_and_strength_is_read(tmp_path):
    spread, matched = "spread: {sd: 0.0445, seeds: 6, from: there}", "matched: {measure: m, arms: [a, b]}"
    path = write_grid(tmp_path, spread, matched, "replicate: 2", "presets: {small: {seeds: [0, 1]}}")
    grid = load_grid(path)
    assert (grid.spread, grid.matched) == (Spread(0.0445, 6, "there"), Matched("m", ("a", "b")))
    assert grid.replicates == ("replicate1", "replicate2")
    # A preset is of other cells than those that the spread was found from.
    assert load_grid(path, "small").spread is None
    assert load_grid(path, "small").matched == grid.matched


def test_another_primary_measure_takes_neither_margin_nor_spread_with_it(tmp_path):
    path = f"grid={write_grid(tmp_path, 'margin: 0.05', 'spread: {sd: 0.0445, seeds: 6, from: there}')}"
    other = read([path, "primary=geneval/official"]).grid
    assert (other.margin, other.spread) == (None, None)
    assert read([path, "primary=geneval/official", "margin=.1"]).grid.margin == 0.1
    same = read([path, "primary=geneval/strict"]).grid
    assert (same.margin, same.spread.sd) == (0.05, 0.0445)


def test_repetitions_of_the_baseline_are_further_arms_with_other_draws():
    grid = grid_of(replicate=2, matched=Matched("drift/velocity_mse", ("b", "a")))
    plan, without = make_plan(grid), make_plan(grid_of())
    arms = {arm.name: arm for arm in plan.arms}
    assert [*arms] == [UNTOUCHED, "a", "b", "replicate1", "replicate2"]
    for number in (1, 2):
        repeated = arms[f"replicate{number}"].config
        assert (repeated.salt, dataclasses.replace(repeated, salt=0)) == (number, arms["a"].config)
    assert len({cell.id for cell in plan.cells()}) == len(plan.cells())
    assert {cell.id for cell in without.cells()} < {cell.id for cell in plan.cells()}
    assert plan.replicates == {"replicate1": "a", "replicate2": "a"}
    # They are in no planned comparison, and nothing else is held against them or they against it.
    assert plan.comparisons == without.comparisons
    assert plan.partners == without.partners
    assert [contrast.words for contrast in plan.matched] == ["a − b"]


def test_repetitions_go_along_with_the_axes_and_rules_of_the_baseline():
    axes = {"dynamics": ("flow_sde", "dance_sde"), "sampler.steps": (6, 8)}
    rule = {"arm": "a", "dynamics": "dance_sde", "sampler.steps": 8}
    plan = make_plan(grid_of(replicate=1, axes=axes, exclude=(rule,)))
    assert plan.replicates == {
        name.replace("a@", "replicate1@"): name for name in (arm.name for arm in plan.arms if arm.stem == "a")
    }
    assert len(plan.replicates) == 3


def test_what_makes_no_updates_cannot_be_repeated():
    with pytest.raises(ConfigError, match="arm replicate1: it makes no updates, so that nothing of it can be repeated"):
        make_plan(grid_of(replicate=1, arms={"a": ("optim.updates=0",), "b": ()}))


def test_an_arm_that_is_the_baseline_again_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="one and the same configuration; replicate: 1 repeats the baseline"):
        make_plan(grid_of(arms={"a": (), "b": ()}))


@given(st.integers(1, 8), st.integers(1, 6))
@settings(max_examples=10)
def test_no_plan_speaks_of_a_p_above_1(seeds, arms):
    lines = {f"w{i}": (f"optim.updates={i + 1}",) for i in range(arms)}
    notes = make_plan(grid_of(arms=lines, baseline="w0"), seeds=tuple(range(seeds))).notes
    found = [float(word) for note in notes for word in re.findall(r"(?:give is |, )([\d.e-]+)(?=,| corrected)", note)]
    assert all(0 < p <= 1 for p in found)
    assert bool(found) == bool(notes)


def test_only_planned_comparisons_count_for_the_correction():
    arms = {name: (f"optim.image_lr={rate}",) for name, rate in (("a", 1e-4), ("b", 2e-4), ("c", 3e-4))}
    everything, one = (make_plan(grid_of(arms=arms, comparisons=names)) for names in ((), ("c",)))
    assert [contrast.arm for contrast in everything.comparisons] == ["b", "c"]
    assert [contrast.arm for contrast in one.comparisons] == ["c"]
    assert any("cannot show any difference" in note for note in everything.notes)
    assert one.notes == ()
    with pytest.raises(ConfigError, match="comparisons: no arm is called 'd'"):
        grid_of(arms=arms, comparisons=("d",))


OVERRIDES = ["optim.text_lr=3e-4", "guidance.scale=1.5,3", "rollout.prompts=4,6", "sampler.steps=6"]


@functools.cache
def ordered_plan():
    return plan_of(*OVERRIDES, grid="cfg_vs_cfg_free")


@settings(max_examples=4)
@given(st.permutations(OVERRIDES))
def test_a_plan_is_deterministic_and_independent_of_the_order_of_overrides(order):
    first, again = ordered_plan(), plan_of(*order, grid="cfg_vs_cfg_free")
    assert first.sweep_id == again.sweep_id
    assert [(cell.name, cell.id) for cell in first.cells()] == [(cell.name, cell.id) for cell in again.cells()]


def test_adding_seeds_changes_no_existing_cell():
    few, many = plan_of(seeds=(0, 1)), plan_of(seeds=(0, 1, 2, 9))
    assert {cell.name: cell.id for cell in few.cells()}.items() <= {cell.name: cell.id for cell in many.cells()}.items()
    assert few.sweep_id == many.sweep_id


def leaves(value, path=()):
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


def test_the_hash_ignores_the_recipe_and_changes_with_every_other_key():
    plain = compose(["guidance=cfg", "regularizer=latent_kl", "text_kl=k3"]).to_dict()
    reference = Cell("a", RunConfig.from_dict(plain)).id
    ids = set()
    for path in leaves(plain):
        changed = json.loads(json.dumps(plain))
        *parents, last = path
        node = changed
        for key in parents:
            node = node[key]
        if last == "name":
            continue
        old = node[last]
        if isinstance(old, bool):
            node[last] = not old
        elif isinstance(old, int | float):
            node[last] = old * 2 + 1
        elif isinstance(old, list):
            node[last] = [item + 1 for item in old] or [{"name": "diversity"}]
        else:
            continue
        try:
            ids.add(Cell("a", RunConfig.from_dict(changed)).id)
        except ConfigError:  # the changed value is out of range; the key is covered by no run either
            continue
        assert reference not in ids, path
    assert len(ids) > 25
    other = dataclasses.replace(RunConfig.from_dict(plain), recipe="flow_grpo")
    assert Cell("a", other).id == reference


def test_the_hash_knows_the_source_of_a_strategy_of_the_user(tmp_path, monkeypatch):
    source = """
from dataclasses import dataclass
from unigrpo.registry import register

@register("regularizer", "of_this_test", source="a user")
@dataclass(frozen=True)
class Mine:
    weight: float = 2.0
"""
    module = tmp_path / "strategy_of_this_test.py"
    module.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    grid = grid_of(arms={"a": ("regularizer=none",), "b": ("regularizer=strategy_of_this_test.Mine",)})
    before, same = make_plan(grid), make_plan(grid)
    module.write_text(source + "# edited\n")
    after = make_plan(grid)
    ids = [{cell.name: cell.id for cell in plan.cells()} for plan in (before, same, after)]
    assert ids[0] == ids[1]
    assert {name for name in ids[0] if ids[0][name] != ids[2][name]} == {f"b:{seed}" for seed in before.seeds}


def test_the_hash_is_of_values_and_not_of_their_spelling():
    assert Cell("a", compose(["regularizer=latent_kl", "regularizer.weight=1"])).id == (
        Cell("b", compose(["regularizer=latent_kl", "regularizer.weight=1.0"])).id
    )


def test_an_axis_crosses_the_arms_that_have_its_key():
    plan = plan_of("regularizer.weight=1,2")
    assert [arm.name for arm in plan.arms] == [
        UNTOUCHED,
        "none",
        "latent_kl@weight=1",
        "latent_kl@weight=2",
        "velocity_mse@weight=1",
        "velocity_mse@weight=2",
    ]
    assert plan.baseline == "latent_kl@weight=1"
    (main,) = plan.comparisons
    assert (main.arm, main.other) == ("velocity_mse", "latent_kl")
    assert main.couples == tuple((f"velocity_mse@weight={w}", f"latent_kl@weight={w}") for w in (1, 2))
    assert plan.partners["none"] == "latent_kl@weight=1"


def test_axes_zip_and_exclude_of_a_grid_file():
    grid = grid_of(
        axes={"rollout.prompts": (4, 6), "regularizer.weight": (1.0, 2.0)},
        zip={"optim.text_lr": (1e-4, 2e-4), "optim.image_lr": (3e-4, 4e-4)},
        exclude=({"arm": "a", "rollout.prompts": 6},),
    )
    plan = make_plan(grid)
    by_name = {arm.name: arm.config for arm in plan.arms}
    assert len([name for name in by_name if name.startswith("a@")]) == 2
    assert len([name for name in by_name if name.startswith("b@")]) == 8
    assert not any(name.startswith("a@") and "prompts=6" in name for name in by_name)
    rates = {(config.optim.text_lr, config.optim.image_lr) for name, config in by_name.items() if name != UNTOUCHED}
    assert rates == {(1e-4, 3e-4), (2e-4, 4e-4)}


def names(plan):
    return [arm.name for arm in plan.arms if not arm.untouched]


@pytest.mark.parametrize("written", ["1e-4", "0.0001", "1.0e-4", ".1e-3"])
def test_a_rule_leaves_out_the_points_whose_values_it_means(tmp_path, written):
    text = GRID.replace("RULE", "{arm: b, regularizer.weight: " + written + "}")
    assert names(make_plan(load_grid(grid_file(tmp_path, text)))) == ["a", "b@weight=0.001"]


GRID = """
question: x
recipe: unigrpo
baseline: a
primary: {metric: geneval/strict, direction: max}
arms: {a: [regularizer=none], b: [regularizer=velocity_mse]}
axes: {regularizer.weight: [1e-4, 1e-3]}
exclude: [RULE]
"""


def grid_file(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{arm: b, regularizer.weight: 1}", "matches no point of the grid; regularizer.weight has 0.0001, 0.001"),
        ("{arm: b, regularizer.weight: '1e-4'}", "matches no point of the grid"),
        ("{arm: a, regularizer.weight: 1e-4}", "matches no point of the grid"),
        ("{arm: bb}", "exclude: no arm is called 'bb'; did you mean 'b'?"),
        ("{regularizer.wieght: 1e-4}", "no axis is called 'regularizer.wieght'; did you mean 'regularizer.weight'?"),
        ("{}", "exclude: expected"),
        ("b", "exclude: expected"),
        ("{arm: a}", "exclude: leaves nothing of the baseline a"),
        ("{arm: b, regularizer.weight: true}", "matches no point of the grid"),
    ],
)
def test_a_rule_that_leaves_out_nothing_is_an_error(tmp_path, rule, expected):
    with pytest.raises(ConfigError) as caught:
        make_plan(load_grid(grid_file(tmp_path, GRID.replace("RULE", rule))))
    assert expected in str(caught.value)


def test_a_rule_about_an_axis_that_the_command_replaces_is_a_note(tmp_path):
    grid = load_grid(grid_file(tmp_path, GRID.replace("RULE", "{arm: b, regularizer.weight: 1e-4}")))
    plan = make_plan(grid, ["regularizer.weight=3,4"])
    assert names(plan) == ["a", "b@weight=3", "b@weight=4"]
    assert any("matches no point: the command replaces an axis of it" in note for note in plan.notes)
    assert names(make_plan(grid, ["regularizer.weight=1e-4,4"])) == ["a", "b@weight=4"]


def test_what_the_command_says_of_a_key_beats_the_axes_of_the_grid():
    grid = grid_of(
        axes={"rollout.prompts": (4, 6)}, zip={"optim.text_lr": (1e-4, 2e-4), "optim.image_lr": (3e-4, 4e-4)}
    )
    plan = make_plan(grid, ["rollout.prompts=8", "optim.image_lr=1e-5"])
    assert names(plan) == ["a@text_lr=0.0001", "a@text_lr=0.0002", "b@text_lr=0.0001", "b@text_lr=0.0002"]
    assert {(arm.config.rollout.prompts, arm.config.optim.image_lr) for arm in plan.arms} == {(8, 1e-5)}


ODD = ["/x/plain", "/x/epoch=9-step=88", "/x/a,b", "/x/#1", "/x/it's", "/x/[v1]", "/x/${y}", "~/ck", "1,2", "null", ""]


def test_words_of_an_axis_are_values_as_they_stand(monkeypatch):
    monkeypatch.setattr("unigrpo.models.mot.Mot.digest", lambda model: "0")
    monkeypatch.setattr(RunConfig, "conflicts", lambda config: [])
    plan = make_plan(grid_of(axes={"model.checkpoint": tuple(ODD)}))
    assert [arm.config.model.checkpoint for arm in plan.arms if arm.name.startswith("a@")] == ODD
    assert names(plan)[1] == "a@checkpoint=/x/epoch=9-step=88"
    for arm in plan.arms:
        assert compose(arm.overrides).model == arm.config.model


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"axes": {"optim.updates": (3, 3)}}, "optim.updates=3: comes twice"),
        ({"axes": {"optim.updates": (3, 3.0)}}, "expected int"),
        ({"axes": {"optim.text_lr": (1, 1.0)}}, "one and the same configuration"),
        ({"axes": {"regularizer": ("none", "velocity_mse")}}, "one and the same configuration"),
        ({"axes": {"seed": (1, 2)}}, "the sweeper sets it"),
        ({"overrides": ("seed=1",)}, "the sweeper sets it"),
        ({"arms": {"a": ("seed=1",), "b": ("seed=2",)}}, "the sweeper sets it"),
        ({"arms": {"a": ("optim.updates=1,2",)}}, "one run takes one value"),
        ({"arms": {"a": ("optim.update=1",)}}, "arm a: unknown key 'optim.update'"),
    ],
)
def test_what_a_grid_says_in_vain_is_an_error(changes, expected):
    with pytest.raises(ConfigError) as caught:
        make_plan(grid_of(**changes))
    assert expected in str(caught.value)


def test_a_cell_is_found_by_its_name_whatever_letters_it_has():
    plan = plan_of("optim.betas=[0.9,0.95],[0.8,0.9]", seeds=(0, 1))
    name = "none@betas=[0.9,0.95]:1"
    assert [cell.name for cell in plan.cells(name)] == [name]
    assert len(plan.cells("none@*:1")) == 2


def test_two_points_of_one_name_are_not_taken_for_one():
    with pytest.raises(ConfigError, match=r"would both be called a@betas=\[0.9,0.95\]"):
        make_plan(grid_of(axes={"optim.betas": ([0.9, 0.95], "[0.9,0.95]")}))


def test_one_text_means_one_configuration_on_the_command_line_and_in_a_grid():
    text = "reward.weights={geneval:1.0}"
    config = compose(["reward=weighted", text])
    own = make_plan(grid_of(arms={"a": ("reward=weighted", text), "b": ()}))
    swept = make_plan(grid_of(arms={"a": ("reward=weighted",), "b": ()}), [f"{text},{{proxy:1.0}}"])
    axis = make_plan(grid_of(arms={"a": ("reward=weighted",), "b": ()}, axes={"reward.weights": ({"geneval": 1.0},)}))
    for plan in (own, swept, axis):
        assert plan.arms[1].config.reward == config.reward
        assert config.reward.weights == {"geneval": 1.0}


def test_an_override_goes_to_the_arms_whose_strategy_has_the_field():
    weights = {
        arm.name: getattr(arm.config.regularizer, "weight", None) for arm in plan_of("regularizer.weight=9").arms
    }
    assert (weights["latent_kl"], weights["velocity_mse"], weights["none"]) == (9.0, 9.0, 0.0)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("regularizer.wieght=3", "did you mean 'weight'?"),
        ("optim.update=3", "did you mean 'optim.updates'?"),
        ("reward=prox", "did you mean 'proxy'?"),
        ("seed=3", "the sweeper sets it"),
        ("regularizer=none", "one and the same configuration"),
        ("dynamics=ode", "no arm can run: algorithm=policy_gradient: "),
    ],
)
def test_a_mistake_is_an_error_of_the_plan(override, expected):
    with pytest.raises(ConfigError) as caught:
        plan_of(override)
    assert expected in str(caught.value)


def test_an_impossible_arm_is_refused_with_the_reason_and_the_others_are_kept():
    plan = plan_of("dynamics=flow_sde,ode")
    refused = {arm.name: arm.refused for arm in plan.arms if arm.refused}
    assert set(refused) == {f"{arm}@dynamics=ode" for arm in ("none", "latent_kl", "velocity_mse")}
    assert any("use regularizer=velocity_mse" in reason for reason in refused["latent_kl@dynamics=ode"])
    assert len(plan.cells()) == 33
    assert plan.baseline == "latent_kl@dynamics=flow_sde"


@pytest.mark.parametrize(("arms", "seeds", "warned"), [(2, 5, True), (2, 6, False), (3, 6, True), (3, 7, False)])
def test_too_few_seeds_for_the_test_are_told_before_any_time_is_spent(arms, seeds, warned):
    lines = {f"w{i}": (f"optim.updates={i + 1}",) for i in range(arms)}
    notes = make_plan(grid_of(arms=lines, baseline="w0"), seeds=tuple(range(seeds))).notes
    assert any("cannot show any difference" in note for note in notes) == warned


def test_without_a_correction_the_number_of_comparisons_does_not_count():
    lines = {f"w{i}": (f"optim.updates={i + 1}",) for i in range(4)}
    assert make_plan(grid_of(arms=lines, baseline="w0", correction="none")).notes == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baseline": "bb"}, "did you mean 'b'?"),
        ({"comparisons": ("a",)}, "comparisons: expected other arms than the baseline, each once, got 'a'"),
        ({"comparisons": ("b", "b")}, "each once, got 'b'"),
        ({"arms": {"a": (), " b": ()}}, "got ' b'"),
        ({"arms": {"a": (), "\u00e9": (), "e\u0301": ()}}, "two names look the same"),
        ({"arms": {}}, "expected at least one"),
        ({"arms": {"a": (), UNTOUCHED: ()}}, "is always there"),
        ({"arms": {"a": (), "b@2": ()}}, "arms: expected a name of printable characters without '@', got 'b@2'"),
        ({"arms": {"a": (), "b\n": ()}}, "got 'b\\n'"),
        ({"primary": {"metric": "m", "direction": "up"}}, "max or min"),
        ({"correction": "bonferoni"}, "did you mean 'bonferroni'?"),
        ({"alpha": 1.5}, "between 0 and 1"),
        ({"correction": "bonferoni"}, "correction: unknown 'bonferoni'; did you mean 'bonferroni'?"),
        ({"test": "sign_flp"}, "test: unknown 'sign_flp'; did you mean 'sign_flip'?"),
        ({"design": "sequential"}, "design: unknown 'sequential'; did you mean 'group_sequential'?"),
        ({"margin": 0.0}, "margin: expected a number above 0, in units of the primary measure, got 0.0"),
        ({"margin": float("nan")}, "margin: expected a number above 0"),
        ({"looks": (3, 6)}, "looks: design=fixed has none, got [3, 6]; give design: group_sequential"),
        ({"design": "group_sequential"}, "ascending from 2 or more, as in [6, 8, 10]; got []"),
        ({"design": "group_sequential", "looks": (1, 6)}, "got [1, 6]"),
        ({"design": "group_sequential", "looks": (4, 4, 6)}, "got [4, 4, 6]"),
        ({"design": "group_sequential", "looks": (2.0, 6)}, "got [2.0, 6]"),
        ({"design": "group_sequential", "looks": (4, 5)}, "the last is at all seeds, expected 6, got 5"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"replicate": -1}, "replicate: expected how often to repeat the baseline, 0 or more, got -1"),
        ({"replicate": 1, "arms": {"a": (), "replicate1": ()}}, "arms: 'replicate1' is what a repetition of the"),
        ({"matched": Matched("m", ("a", "bb"))}, "matched.arms: no arm is called 'bb'; did you mean 'b'?"),
        ({"matched": Matched("m", ("a",))}, "matched.arms: expected two arms or more, each once, got ['a']"),
        ({"matched": Matched("m", ("a", "b", "a"))}, "each once, got ['a', 'b', 'a']"),
        ({"spread": Spread(0.0, 6, "x")}, "spread.sd: expected a number above 0, got 0.0"),
        ({"spread": Spread(float("nan"), 6, "x")}, "spread.sd: expected a number above 0, got nan"),
        ({"spread": Spread(0.1, 1, "x")}, "spread.seeds: a spread is known from 2 seeds on, got 1"),
        ({"zip": {"a": (1,), "b": (1, 2)}}, "equal length"),
        ({"zip": {"a": (1,)}, "axes": {"a": (1,)}}, "zip: a is among the axes already"),
        ({"axes": {"a": ()}}, "axes.a: expected at least one value"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(changes, expected):
    with pytest.raises(ConfigError) as caught:
        grid_of(**changes)
    assert expected in str(caught.value)


def test_a_group_sequential_design_runs_the_first_of_its_seeds_and_no_others():
    grid = grid_of(design="group_sequential", looks=(4, 6))
    plan = make_plan(grid, seeds=(0, 1, 2, 3))
    assert (plan.seeds, plan.planned_seeds) == ((0, 1, 2, 3), [0, 1, 2, 3, 4, 5])
    assert not [note for note in plan.notes if "looks" in note]
    (note,) = [note for note in make_plan(grid, seeds=(0, 1, 2)).notes if "looks" in note]
    assert note == "looks are planned at 4, 6 seeds: a report of 3 will count as one that was not"
    for seeds in ((1, 2, 3, 4), tuple(range(7))):
        with pytest.raises(ConfigError, match=r"seeds: design=group_sequential declares .* expected the first of them"):
            make_plan(grid, seeds=seeds)
    assert make_plan(grid_of(), seeds=(5, 0)).planned_seeds == [0, 5]


@pytest.mark.parametrize(("text", "margin"), [(".02", 0.02), ("2", 2.0)])
def test_a_margin_of_the_command_takes_the_place_of_the_grids(text, margin):
    assert read(["grid=kl_vs_mse", f"margin={text}"]).grid.margin == margin
    for wrong in ("", "x", "-1", "nan", "0"):
        with pytest.raises(ConfigError, match="margin: expected a number above 0"):
            read(["grid=kl_vs_mse", f"margin={wrong}"])


def test_the_floor_of_the_exact_test_is_no_fault_of_another_test():
    lines = {f"w{i}": (f"optim.updates={i + 1}",) for i in range(3)}
    notes = {test: make_plan(grid_of(arms=lines, baseline="w0", test=test)).notes for test in ("sign_flip", "paired_t")}
    assert [len(found) for found in notes.values()] == [1, 0]


def test_a_grid_file_that_is_not_there_is_told_as_such(tmp_path):
    for name in (str(tmp_path / "mine.yaml"), str(tmp_path / "mine.yml")):
        with pytest.raises(ConfigError, match=r"expected a file whose name ends in \.yaml, there is none at"):
            load_grid(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question: x\nbaselin: y", "unknown key 'baselin'; did you mean 'baseline'?"),
        ("question: x", "the key 'recipe' is missing"),
        ("question: x\npresets: {small: {seedz: [0]}}", "presets.small: unknown key 'seedz'; did you mean 'seeds'?"),
        ("question: x\nrecipe: u\nbaseline: a\nprimary: {}\narms: {a: }\ncomparisons:", "comparisons: expected a list"),
        ("- 1", "the file: expected a dict"),
        ("a: [", "grid"),
        ("question: [1]\nrecipe: u\nbaseline: a\nprimary: {}\narms: {}", "question: expected a str"),
        ("question: x\nrecipe: u\nbaseline: a\nprimary: {}\narms: {a: 3}", "arms.a: expected a list"),
        ("question: x\nrecipe: u\nbaseline: a\nprimary: {}\narms: {}\nmargin: a", "margin: expected a number, got 'a'"),
        ("question: x\nrecipe: u\nbaseline: a\nprimary: {}\narms: {}\nlooks: 6", "looks: expected a list, got 6"),
        ("question: x\nrecipe: u\nbaseline: a\nprimary: {}\narms: {a: [b: 3]}", "arms.a[0]: expected a str"),
        (
            "question: x\nrecipe: u\nbaseline: a\nprimary: {}\narms: {1: []}",
            "expected words as names, got 1; put",
        ),
        (
            "question: x\nrecipe: u\narms:\n  a: []\n  b: []\n  b: [c]",
            "line 6: the key 'b' comes twice",
        ),
    ],
)
def test_a_grid_file_is_read_with_care(tmp_path, text, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_grid(str(path))
    assert expected in str(caught.value)


MODELS = """
from dataclasses import dataclass
from unigrpo.models import Model
from unigrpo.registry import register

@register("model", "full_of_plans", source="a user")
@dataclass(frozen=True)
class Full(Model):
    width: int = 1

@register("model", "lora_of_plans", source="a user")
@dataclass(frozen=True)
class Lora(Full):
    rank: int = 4
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "models_of_this_test.py").write_text(MODELS)
    (tmp_path / "adapter_of_plans").mkdir()
    (tmp_path / "adapter_of_plans" / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


FULL, LORA = "model=models_of_this_test.Full", "model=models_of_this_test.Lora"
FREE = ("optim.updates=0",)
STARTED = ("adapter=lora", "adapter.start=adapter_of_plans")
AVERAGED = ("adapter=ema", "adapter.inner=lora", "adapter.inner.start=adapter_of_plans")


@pytest.mark.parametrize(
    ("arms", "axes", "expected"),
    [
        ({"a": (FULL,), "b": (FULL, "regularizer=none")}, {}, {UNTOUCHED: "Full"}),
        ({"b": (LORA,), "a": (FULL,)}, {}, {UNTOUCHED: "Full", "untouched@b": "Lora"}),
        ({"a": (FULL,), "b": (LORA,), "start": (LORA, *FREE)}, {}, {UNTOUCHED: "Full"}),
        ({"a": (FULL,), "b": (FULL, *FREE)}, {}, {}),
        ({"a": (), "b": (LORA,)}, {}, {UNTOUCHED: "mot", "untouched@b": "Lora"}),
        (
            {"a": (FULL,), "b": (LORA,)},
            {"model.rank": (4, 8)},
            {UNTOUCHED: "Full", "untouched@b@rank=4": "Lora", "untouched@b@rank=8": "Lora"},
        ),
        ({"a": (FULL,)}, {"optim.text_lr": (1e-4, 1e-3)}, {UNTOUCHED: "Full"}),
        ({"a": (FULL,), "b": (FULL, "adapter=lora")}, {}, {UNTOUCHED: "Full"}),
        ({"a": (FULL,), "b": (FULL, *STARTED)}, {}, {UNTOUCHED: "Full", "untouched@b": "Full"}),
        ({"a": (FULL,), "b": (FULL, *AVERAGED)}, {}, {UNTOUCHED: "Full", "untouched@b": "Full"}),
    ],
)
def test_every_model_that_arms_start_from_has_one_untouched_cell(models, arms, axes, expected):
    """Never the recipe's own model where no arm trains it; an arm without updates is the untouched model itself."""
    plan = make_plan(grid_of(arms=arms, axes=axes), seeds=(0, 1))
    found = {arm.name: arm.config.model.name.rpartition(".")[2] for arm in plan.arms if arm.untouched}
    assert found == expected
    assert all(not arm.trained and len(plan.cells_of(arm)) == 1 for arm in plan.arms if arm.untouched)
    assert not [each for each in plan.comparisons if each.arm.startswith(UNTOUCHED)]


def test_an_untouched_model_is_told_as_its_arm_was(models):
    plan = make_plan(grid_of(arms={"a": (FULL, "optim.text_lr=1e-3"), "b": (LORA, "model.rank=2")}))
    told = {arm.name: arm.overrides for arm in plan.arms if arm.untouched}
    assert told == {UNTOUCHED: (FULL, "optim.updates=0"), "untouched@b": (LORA, "model.rank=2", "optim.updates=0")}
    for arm in plan.arms:
        assert compose(arm.overrides) == arm.config


def test_the_untouched_model_of_an_arm_that_starts_from_an_adapter_has_it(models):
    plan = make_plan(grid_of(arms={"a": (FULL,), "b": (FULL, *STARTED)}))
    found = {arm.name: arm.config.adapter.start for arm in plan.arms if arm.untouched}
    assert found == {UNTOUCHED: "", "untouched@b": "adapter_of_plans"}
    (told,) = [arm.overrides for arm in plan.arms if arm.name == "untouched@b"]
    assert told == (FULL, *STARTED, "optim.updates=0")


def test_a_fault_that_all_arms_share_is_said_once_and_of_no_arm(tmp_path):
    (tmp_path / "mine.txt").write_text("".join(f"prompt {k}\n" for k in range(20)))
    with pytest.raises(ConfigError) as caught:
        plan_of("dataset=text_file", f"dataset.path='{tmp_path / 'mine.txt'}'", "train_metrics=[]", "reward=geneval")
    assert str(caught.value) == (
        f"no arm can run: reward=geneval: needs the field 'include' of every prompt, which dataset=text_file"
        f" (path={tmp_path / 'mine.txt'}) does not have; choose another dataset or reward; reward=callable"
        " reward.path=MODULE:FUNCTION judges any prompts"
    )
    with pytest.raises(ConfigError, match=r"no arm can run: algorithm=.*; arm latent_kl: regularizer="):
        plan_of("dynamics=ode", "modalities=joint")


def test_a_shipped_grid_runs_on_prompts_and_a_reward_of_ones_own(tmp_path):
    """As its page says."""
    (tmp_path / "mine.txt").write_text("".join(f"prompt {k}\n" for k in range(20)))
    own = ["dataset=text_file", f"dataset.path='{tmp_path / 'mine.txt'}'", "train_metrics=[]"]
    reward = ["reward=callable", "reward.path=tests.training.runs:brightness"]
    grid = dataclasses.replace(load_grid("kl_vs_mse"), primary={"metric": "reward/total", "direction": "max"})
    plan = make_plan(grid, [*own, *reward])
    assert not [arm.refused for arm in plan.arms if arm.refused]
