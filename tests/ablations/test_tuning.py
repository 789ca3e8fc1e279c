"""Settings are tried on other prompts and seeds than the question is answered on, equally many for every arm."""

from __future__ import annotations

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations.grid import Tune, load_grid
from ablations.plan import make_plan
from ablations.tuning import candidates
from reports.analysis import analyse
from reports.blocks import Blocks
from reports.collect import read
from reports.pages import write_report
from reports.tuning import Tried, _alike, expected_best, tried
from tests.reports.synthetic import write_sweep
from unigrpo.errors import ConfigError

SETTINGS = {
    "latent_kl": (("regularizer.weight=0.065",), ("regularizer.weight=0.13",)),
    "velocity_mse": (("regularizer.weight=0.0015",), ("regularizer.weight=0.006",)),
}
FILE = """
question: "Which?"
recipe: unigrpo
baseline: latent_kl
primary: {metric: geneval/strict, direction: max}
seeds: [0, 1]
arms:
  latent_kl: [regularizer=latent_kl, regularizer.weight=0.065]
  velocity_mse: [regularizer=velocity_mse, regularizer.weight=0.003]
tune:
  seeds: [100, 101, 102]
  settings:
    latent_kl: [[regularizer.weight=0.065], [regularizer.weight=0.13]]
    velocity_mse: [[regularizer.weight=0.0015], [regularizer.weight=0.006]]
"""


def grid(**changes):
    return dataclasses.replace(load_grid("kl_vs_mse"), **{"tune": Tune((100, 101), SETTINGS), **changes})


def test_every_setting_is_an_arm_on_validation_prompts_and_seeds_of_its_own():
    plan = make_plan(candidates(grid()), ["optim.updates=4"])
    arms = {arm.name: arm.config for arm in plan.arms if not arm.untouched}
    assert [*arms] == ["latent_kl #1", "latent_kl #2", "velocity_mse #1", "velocity_mse #2"]
    assert {config.evaluation.split for config in arms.values()} == {"validation"}
    assert plan.seeds == (100, 101)
    assert plan.comparisons == []
    assert arms["velocity_mse #2"].regularizer.weight == 0.006
    assert plan.sweep_id == make_plan(grid(), ["optim.updates=4"]).tuning
    # A further axis is no part of the tuning.
    assert plan.sweep_id == make_plan(grid(), ["optim.updates=4", "dynamics=flow_sde,dance_sde"]).tuning


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (Tune((0,), SETTINGS), "tune.seeds: 0 is among the seeds that the question is answered on"),
        (
            Tune((100,), {**SETTINGS, "latent_kl": SETTINGS["latent_kl"][:1]}),
            "equally many for every arm, got latent_kl 1",
        ),
        (Tune((100,), {"latent_kl": SETTINGS["latent_kl"]}), "'velocity_mse' is compared and has none"),
        (Tune((100,), {**SETTINGS, "latent_k": ()}), "no arm is called 'latent_k'; did you mean 'latent_kl'"),
        (Tune((100, 100), SETTINGS), "distinct"),
    ],
)
def test_what_tunes_arms_unlike_is_refused(tune, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("?", r"\?")):
        grid(tune=tune)


def test_a_grid_without_settings_has_nothing_to_tune(sandbox, capsys):
    assert sandbox.inline("tune=true") == 2
    assert "has no settings to try; give it the key tune" in capsys.readouterr().err


@pytest.fixture
def own(sandbox, tmp_path):
    (tmp_path / "own.yaml").write_text(FILE)
    return lambda *arguments: sandbox.inline(*arguments, grid=str(tmp_path / "own.yaml"))


def test_the_best_of_each_arm_is_found_and_a_page_says_whether_it_is_used(sandbox, own, undrawn):
    assert own() == 0
    (main,) = sandbox.root.glob("sweeps/own-*")
    assert any("nothing here says that its arms were tuned alike" in text for text in analyse(read(main)).warnings)
    assert own("tune=true") == 0
    (folder,) = sandbox.root.glob("sweeps/own_tuning-*")
    assert json.loads((main / "sweep.json").read_text())["tuning"] == folder.name
    tuning = read(folder)
    assert tuning.seeds == (100, 101, 102)
    assert analyse(tuning).families == ()
    rows = tried(tuning)
    for arm in ("latent_kl", "velocity_mse"):
        mine = [row for row in rows if row.arm == arm]
        assert [len(row.scores) for row in mine] == [3, 3]
        (chosen,) = [row for row in mine if row.best]
        assert chosen.mean == max(row.mean for row in mine)
    best = next(row for row in rows if row.arm == "latent_kl" and row.best)
    assert f"latent_kl #{rows.index(best) + 1} ({best.setting})" in analyse(tuning).verdict.sentence

    analysis = analyse(read(main))
    used = {row.name: row.used for row in tried(analysis.sweep.tuning, analysis.sweep)}
    assert used == {"latent_kl #1": True, "latent_kl #2": False, "velocity_mse #1": False, "velocity_mse #2": False}
    text = "\n".join(analysis.warnings)
    assert "velocity_mse does not use the setting that did best when it was tuned (regularizer.weight=0.00" in text
    assert ("latent_kl does not use" in text) == (best.name != "latent_kl #1")
    assert "used here" in write_report(main).page.read_text()
    assert "Score against tuning budget" in write_report(folder).page.read_text()


def test_an_arm_uses_a_setting_whatever_model_its_first_seed_starts_from():
    blocks = Blocks("model.checkpoint", {0: "one", 1: "another"}, (0, 1))

    def arm(checkpoint, rate, seed):
        model = {"name": "mot", "checkpoint": checkpoint}
        return SimpleNamespace(config={"model": model, "seed": seed, "optim": {"image_lr": rate}}, blocks=blocks)

    assert _alike(arm("one", 1e-4, 0), arm("another", 1e-4, 100))
    assert not _alike(arm("one", 1e-4, 0), arm("another", 2e-4, 100))


@pytest.mark.parametrize(("higher", "best"), [(True, "velocity_mse"), (False, "latent_kl")])
def test_the_best_is_the_best_mean(tmp_path, higher, best):
    sweep = read(write_sweep(tmp_path, updates=2))
    names = ("latent_kl", "velocity_mse")
    rows = tried(dataclasses.replace(sweep, candidates={"a": names}, higher_is_better=higher))
    assert [row.name for row in rows if row.best] == [best]
    assert {row.name: row.mean for row in rows} == {
        name: pytest.approx(np.mean([*sweep.arm(name).values("geneval/strict").values()])) for name in names
    }


def test_the_expected_best_by_hand():
    rows = [Tried("a", f"a #{k}", "", (score,), best=False, used=False) for k, score in enumerate((0.3, 0.1, 0.2))]
    # Of two drawn from three: .3 in two of three pairs, .2 in one.
    assert expected_best(rows, higher_is_better=True)["a"] == pytest.approx([0.2, (0.3 + 0.3 + 0.2) / 3, 0.3])
    assert expected_best(rows, higher_is_better=False)["a"] == pytest.approx([0.2, (0.1 + 0.1 + 0.2) / 3, 0.1])


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=6))
def test_the_expected_best_is_the_mean_over_all_subsets(scores):
    rows = [Tried("a", str(k), "", (float(score),), best=False, used=False) for k, score in enumerate(scores)]
    found = expected_best(rows, higher_is_better=True)["a"]
    for k, value in enumerate(found, start=1):
        assert value == pytest.approx(np.mean([max(subset) for subset in itertools.combinations(scores, k)]))
