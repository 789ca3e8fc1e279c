"""Simulated ladders: their draws, both ways of reading them, and the committed table against another simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reports import drawn, simulated
from reports.ladder_simulation import (
    NOISE,
    PROXIES,
    Ladders,
    along_fits,
    bent_sharply,
    between_rungs,
    ladders,
)
from tests.pages import ROOT, table

ROWS = [row for row in simulated.rows() if "level" in row]
RUNGS = {name: ["none", f"{name}1", f"{name}2", f"{name}3"] for name in ("kl", "mse")}


def drawn_once(**fields):
    return Ladders(bent_sharply, 0.75, **fields).draw(np.random.default_rng(1))


def test_the_table_has_all_ladders():
    assert [(row["scenario"], row["level"], tuple(row["spread"])) for row in ROWS] == [
        (one.name, one.level, one.spread) for one in ladders()
    ]
    assert all(row["sweeps"] >= 2000 for row in ROWS)


def test_runs_lie_on_the_frontier_and_vary_as_they_are_said_to():
    """By moments: a proxy of the declared mean, a third of the run's variance shared by seed, noise beside it."""
    found = drawn_once(seeds=40_000, spread=(0.02, 0.03))
    proxies = np.array([found[rung]["proxy"] for name in PROXIES for rung in RUNGS[name]])
    means = [mean for name in ("kl", "mse") for mean in PROXIES[name]]
    assert proxies.mean(axis=1) == pytest.approx(means, abs=5e-4)
    assert proxies.std(axis=1) == pytest.approx([(0.02**2 + NOISE**2) ** 0.5] * 8, rel=0.02)
    assert np.cov(proxies[1], proxies[2])[0, 1] == pytest.approx(0.02**2 / 3, rel=0.1)
    assert (proxies[0] == proxies[4]).all()  # both ladders begin with one and the same arm
    # E f(m + e) = f(m) - 30 var e, of the run's own proxy without the noise of its evaluation.
    expected = [bent_sharply(np.array(mean)) - 30 * 0.02**2 for mean in means[:4]]
    assert [found[rung]["score"].mean() for rung in RUNGS["kl"]] == pytest.approx(expected, abs=1e-3)
    beside = drawn_once(seeds=40_000, spread=(0.02, 0.03), follows=False)
    assert beside["kl3"]["score"].mean() == pytest.approx(bent_sharply(np.array(0.71)), abs=1e-3)
    assert beside["kl3"]["score"].std() == pytest.approx((0.03**2 + NOISE**2) ** 0.5, rel=0.02)


def test_between_rungs_is_numpys_interpolation_of_each_seed():
    arms = drawn_once(seeds=200)
    sweep = between_rungs(arms, 0.75)
    read = {arm.name: arm.values("score") for arm in sweep.derived}
    reached = 0
    for seed in range(200):
        lines = {
            name: sorted((arms[rung]["proxy"][seed], arms[rung]["score"][seed]) for rung in rungs)
            for name, rungs in RUNGS.items()
        }
        inside = all(line[0][0] <= 0.75 <= line[-1][0] for line in lines.values())
        reached += inside
        for name, line in lines.items():
            assert (seed in read[name]) == inside
            if inside:
                assert read[name][seed] == pytest.approx(np.interp(0.75, *zip(*line, strict=True)))
    assert 0 < reached < 200


def test_fitted_lines_are_least_squares_in_the_log_of_strength():
    arms = drawn_once(seeds=20)
    found = {arm.name: arm.values(drawn.SCORE) for arm in along_fits(arms, 0.74).arms}
    design = np.array([[1, 0], [1, np.log(2)], [1, np.log(4)], [1, np.log(11)]])
    for name, rungs in RUNGS.items():
        for seed in range(20):
            held, read = (np.array([arms[rung][measure][seed] for rung in rungs]) for measure in ("proxy", "score"))
            (a, b), (c, d) = (np.linalg.lstsq(design, values)[0] for values in (held, read))
            assert found[name][seed] == pytest.approx(c + d * (0.74 - a) / b)


@pytest.mark.parametrize("row", [row for row in ROWS if row["scenario"].partition(", ")[2] == "straight frontier"])
def test_seeds_out_of_reach_are_as_many_as_another_simulation_has(row):
    """Of 10 seeds more than 2: no verdict."""
    rng, n = np.random.default_rng(3), 10 * 4000
    kl, mse = (np.array(PROXIES[name])[:, None] for name in ("kl", "mse"))
    means, run = np.concatenate((kl, mse[1:])), row["spread"][0]
    found = means + run * (rng.normal(size=n) / 3**0.5 + rng.normal(size=(7, n)) * (2 / 3) ** 0.5)
    found += NOISE * rng.normal(size=(7, n))
    out = np.zeros(n, dtype=bool)
    for rungs in (found[:4], found[[0, 4, 5, 6]]):
        out |= (rungs.min(axis=0) > row["level"]) | (rungs.max(axis=0) < row["level"])
    error = 4 * (0.25 / 20_000) ** 0.5
    assert row["unreached"] == pytest.approx(out.mean(), abs=error)
    assert row["refused"] == pytest.approx((out.reshape(-1, 10).sum(axis=1) > 2).mean(), abs=4 * (0.25 / 2000) ** 0.5)


def test_straight_lines_between_rungs_keep_the_level_and_fitted_ones_do_not():
    on = [row for row in ROWS if "beside" not in row["scenario"]]
    allowed = 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5
    assert all(row["shown"] <= allowed for row in on)
    assert max(row["shown_fitted"] for row in on) > 2 * allowed - 0.05


def test_a_row_is_repeatable_and_what_is_far_apart_is_shown(monkeypatch):
    one = Ladders(bent_sharply, 0.76)
    assert one.row(3) == (row := one.row(3))
    assert (row["shown"], row["shown_fitted"], row["refused"]) == (0, 0, 0)
    draw = Ladders.draw

    def raised(self, rng):
        return {r: v | {"score": v["score"] + 0.5 * r.startswith("mse")} for r, v in draw(self, rng).items()}

    monkeypatch.setattr(Ladders, "draw", raised)
    row = one.row(3)
    assert (row["shown"], row["shown_fitted"]) == (1, 1)
    # At a level that no rung has there is a value of the fitted lines alone.
    row = replace(one, level=0.9).row(3)
    assert (row["shown"], row["refused"], row["unreached"], row["shown_fitted"]) == (0, 1, 1, 1)


def test_the_page_on_statistics_has_the_figures():
    by_key = {(row["scenario"], row["level"], row["spread"][0]): row for row in ROWS}
    shown = table(ROOT / "docs" / "statistics.md", "frontier", "level")
    expected = []
    for one in ladders():
        if one.follows and one.spread[0] == 0.02:
            rows = [by_key[one.name, one.level, spread] for spread in (0.02, 0.03)]
            tenths = [f"{100 * rows[0][k]:.1f} ({100 * rows[1][k]:.1f}) %" for k in ("shown", "shown_fitted")]
            whole = [f"{100 * rows[0][k]:.0f} ({100 * rows[1][k]:.0f}) %" for k in ("unreached", "refused")]
            frontier = one.frontier.__name__.replace("_", " ")
            expected.append([frontier, f"{one.level:g}"[1:], tenths[0], *whole, tenths[1]])
    assert shown == expected
    beside = [f"{100 * row['shown']:.1f} %" for row in ROWS if "beside" in row["scenario"]]
    told = " ".join((ROOT / "docs" / "statistics.md").read_text().split())
    assert "{} (straight), {} (bent) and {} (bent sharply) of sweeps".format(*beside) in told
