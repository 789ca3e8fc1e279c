"""How often verdicts are wrong: the committed table, and the simulation that it is from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from reports import drawn, simulated, simulation
from reports.analysis import analyse
from reports.collect import read
from reports.ladder_simulation import Ladders, straight
from reports.simulation import Scenario
from tests.pages import ROOT, table
from tests.reports.synthetic import ARMS, write_sweep

ROWS = [row for row in simulated.rows() if "level" not in row]  # the others are of ladders
WARM_UPS = [row for row in ROWS if "warm-ups" in row["scenario"]]


def error(share, sweeps):
    """Three standard errors of a simulated share."""
    return 3 * (share * (1 - share) / sweeps) ** 0.5


def test_the_table_has_all_scenarios():
    known = [(s.name, s.arms, s.seeds, s.test, s.correction) for s in simulation.scenarios()]
    found = [tuple(row[key] for key in ("scenario", "arms", "seeds", "test", "correction")) for row in ROWS]
    assert found == known
    assert all(row["sweeps"] >= 2000 for row in ROWS)


def test_no_more_false_differences_than_alpha():
    """Where no procedure controls them, the page says so: one arm that collapses; arms of unequal spread, unpaired."""
    allowed = 0.05 + error(0.05, 2000)
    for row in ROWS:
        if row["promised"] or row["scenario"] in ("at the margin", "collapsing_once"):
            continue
        unpaired = row["scenario"] == "unequal" and row["test"] == "unpaired"
        assert row["shown"] <= (0.075 if unpaired else allowed), row


def test_the_plan_promises_the_power_that_there_is():
    """But for warm-ups with effects of their own, whose spread counts as if drawn: the page says the price."""
    promised = [row for row in ROWS if row["promised"] and "an effect by each" not in row["scenario"]]
    assert len(promised) >= 12
    for row in promised:
        assert row["shown"] == pytest.approx(row["promised"], abs=0.03)


def test_the_page_on_statistics_has_the_figures_of_warm_ups():
    by_key = {(row["scenario"], row["test"], row["seeds"]): row for row in WARM_UPS}
    expected = []
    for words, more in (("alike", ""), ("another from each model", ", an effect by each")):
        for seeds in (8, 10):
            of = [
                [by_key[f"three warm-ups{p}{more}", t, seeds] for t in ("sign_flip", "paired_t")]
                for p in ("", ", power")
            ]
            wrong = [f"{100 * row['shown']:.1f} / {100 * row['covered']:.1f}" for row in of[0]]
            expected.append([words, str(seeds), *wrong, " and ".join(f"{100 * row['shown']:.0f}" for row in of[1])])
    assert table(ROOT / "docs" / "statistics.md", "effect", "n") == expected


def test_arms_that_differ_by_the_margin_are_seldom_called_equal():
    rows = [row for row in ROWS if row["scenario"] == "at the margin"]
    assert len(rows) == 9
    assert all(row["equal"] <= 0.05 + error(0.05, row["sweeps"]) for row in rows)


def test_a_simulated_sweep_is_judged_by_what_judges_real_ones():
    tally = simulation.run(Scenario("far", drawn.normal, effect=(1.0,)), 5)
    assert (tally.sweeps, tally.shown, tally.covered) == (5, 1.0, 1.0)
    tally = simulation.run(Scenario("equal", drawn.normal, margin=1.0), 5)
    # With so wide a margin, what is not shown to differ is equal.
    assert tally.equal == pytest.approx(1 - tally.shown)
    assert tally.equal > 0.5
    one, two = (simulation.run(Scenario("same", drawn.binomial), 20) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("scenario", [s for s in simulation.scenarios() if s.arms > 2 or s.looks])
def test_every_kind_of_sweep_can_be_simulated(scenario):
    assert simulation.run(scenario, 2).sweeps == 2


@pytest.mark.parametrize("name", simulated.IN_WORDS)
def test_all_arms_of_a_scenario_have_mean_0(name):
    """Of shares of images, which all share their prompts, the arms have one mean."""
    binomial = name == "binomial"
    scores = getattr(drawn, name)(np.random.default_rng(1), 2, 300 if binomial else 20_000)
    centre = scores.mean(axis=1) - (scores.mean() if binomial else 0.0)
    assert centre == pytest.approx([0, 0], abs=4 * scores.std() / scores.shape[1] ** 0.5)


def test_the_command_prints_rows_and_writes_a_whole_table_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulation, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(simulation, "scenarios", lambda: [Scenario("one", drawn.normal)])
    monkeypatch.setattr(simulation, "ladders", lambda: [Ladders(straight, 0.76)])
    assert simulation.main(3, "other") == 0
    assert not (tmp_path / "table.json").exists()
    assert simulation.main(3) == 0
    row, of_ladders = json.loads((tmp_path / "table.json").read_text())
    assert (row["scenario"], row["sweeps"], row["promised"]) == ("one", 3, None)
    assert (of_ladders["scenario"], of_ladders["sweeps"]) == ("ladders, straight frontier", 3)
    one, two = capsys.readouterr().out.splitlines()
    assert one.startswith("one 2 8 sign_flip")
    assert two.startswith("ladders, straight frontier 0.760 [0.02, 0.02] 10 sign_flip 3")


def test_a_page_has_the_figures_of_its_test_and_the_nearest_number_of_seeds():
    found = simulated.of_two_arms("paired_t", 7)
    assert {row.seeds for row in found} == {6}
    assert [row.scores for row in found] == list(simulated.IN_WORDS.values())
    assert {row.seeds for row in simulated.of_two_arms("sign_flip", 40)} == {12}


def test_a_run_that_ends_far_below_the_others_of_its_arm_is_said(tmp_path):
    sweep = read(write_sweep(tmp_path, seeds=range(8), updates=2))
    assert "ended far below" not in "".join(analyse(sweep).warnings)
    arms = []
    for arm in sweep.arms:
        cells = arm.cells
        if arm.name == "latent_kl":
            fallen = replace(cells[3], metrics={**cells[3].metrics, "geneval/strict": ARMS["latent_kl"][1] - 0.5})
            cells = (*cells[:3], fallen, *cells[4:])
        arms.append(replace(arm, cells=cells))
    (told,) = [one for one in analyse(replace(sweep, arms=tuple(arms))).warnings if "ended far below" in one]
    assert "their arm: latent_kl/3. " in told
    once = simulated.of_two_arms("sign_flip", 8)[-1]
    assert f"in {100 * once.false:.0f} % of sweeps of 8 seeds where one arm collapses" in told
