"""What was declared before the runs, and what a page says of what was not: the real command, with a stub trainer."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ablations.declaration import content_of, declare, hash_of, revisions
from ablations.grid import load_grid
from ablations.plan import make_plan
from ablations.record import planned
from reports import declaration, history
from reports.analysis import analyse
from reports.collect import BrokenSweepError, read
from reports.history import add_look
from unigrpo.errors import ConfigError

OTHER = "primary=heldout/distance_to_clean,min"
GRID = """
question: "?"
recipe: unigrpo
baseline: a
primary: {metric: geneval/strict, direction: max}
design: group_sequential
looks: [2, 3, 4]
seeds: [0, 1, 2, 3]
arms: {a: [regularizer=none], b: [regularizer=velocity_mse]}
"""


@pytest.fixture
def looking(sandbox, monkeypatch):
    """A sandbox whose reports note their look and say what they warn of; no page is written."""
    import reports

    write = reports.write

    def look(folder):
        add_look(folder, read(folder))
        return write(folder)

    monkeypatch.setattr(reports, "write", look)
    return sandbox


def folder_of(sandbox):
    (folder,) = sandbox.root.glob("sweeps/*")
    return folder


def said(sandbox):
    return "\n".join(analyse(read(folder_of(sandbox))).warnings)


def facts(sandbox):
    sweep = read(folder_of(sandbox))
    return declaration.before(sweep), declaration.short(sweep)


def test_the_first_command_declares_and_the_same_again_adds_nothing(sandbox):
    sandbox.inline("seeds=1", "dry_run=true")
    assert not sandbox.root.exists()
    sandbox.inline("seeds=1", "action=status")
    sandbox.inline("seeds=1", "action=report")
    assert facts(sandbox) == (False, "not declared")
    assert "Not declared: nothing says that the primary measure" in said(sandbox)
    sandbox.inline("seeds=1")
    sandbox.inline("seeds=1")
    (one,) = revisions(folder_of(sandbox))
    assert (one["finished"], one["cells"], one["looked"]) == (0, 3, [])
    assert one["hash"] == hash_of(one["content"])
    content = one["content"]
    assert content["primary"] == {"metric": "geneval/strict", "direction": "max"}
    assert (content["seeds"], content["test"], content["design"], content["margin"]) == (
        [0],
        "sign_flip",
        "fixed",
        0.05,
    )
    assert content["matched"] == "velocity_mse − latent_kl in drift/velocity_mse"
    assert content["evaluation"]["words"].startswith("test prompts of shapes, up to 24 of each tag, 16 images each")
    assert facts(sandbox) == (True, f"before the runs ({one['time']}, hash {one['hash'][:12]})")
    assert "eclar" not in said(sandbox)


def test_a_primary_that_is_changed_after_the_runs_is_said_with_both(sandbox, capsys):
    sandbox.inline("seeds=2")
    capsys.readouterr()
    assert sandbox.inline("seeds=2", OTHER, "rerun=none") == 0
    assert "the declaration is changed (primary, margin) when 6 of 6 cells have finished" in capsys.readouterr().out
    assert facts(sandbox) == (False, "changed when 6 of 6 cells had finished")
    change = "primary was geneval/strict (max), is heldout/distance_to_clean (min); margin was 0.05, is none"
    when = f"when 6 of 6 cells had finished ({revisions(folder_of(sandbox))[-1]['time']})"
    assert f"The declaration was changed {when}: {change}." in said(sandbox)
    # Going back is a revision as well: nobody who looked in between can say that it was never otherwise.
    sandbox.inline("seeds=2", "rerun=none")
    assert len(revisions(folder_of(sandbox))) == 3
    assert not facts(sandbox)[0]
    told = declaration.history(read(folder_of(sandbox)))
    assert "declared before any of 6 cells had finished: question " in told[0]
    assert change in told[1]
    assert "primary was heldout/distance_to_clean (min), is geneval/strict (max); margin was none, is 0.05" in told[2]


def test_a_page_of_another_plan_than_was_declared_says_so(sandbox):
    sandbox.inline("seeds=1")
    sandbox.inline("seeds=1", OTHER, "action=report")
    assert facts(sandbox) == (False, "otherwise than shown here")
    assert "This page shows another plan than was declared: primary was geneval/strict (max), is held" in said(sandbox)


def test_a_declaration_that_is_deleted_comes_after_the_cells(sandbox):
    sandbox.inline("seeds=1")
    (folder_of(sandbox) / "declaration.json").unlink()
    sandbox.inline("seeds=1")
    assert facts(sandbox) == (False, "when 3 of 3 cells had finished")
    assert "Declared when 3 of 3 cells had finished" in said(sandbox)
    # Nor is it "before" for seeds that are new, if others of the sweep are there.
    (folder_of(sandbox) / "declaration.json").unlink()
    sandbox.inline("seeds=[5]", "only=untouched:*")
    assert facts(sandbox) == (False, "when 3 of 6 cells had finished")


def test_cells_that_others_made_come_first_and_are_named(sandbox):
    """Cells are told apart by their content, so that another sweep's may have been seen before."""
    sandbox.inline("seeds=1", "only=none:0")
    (folder_of(sandbox) / "declaration.json").unlink()
    sandbox.inline("seeds=1")
    assert facts(sandbox) == (False, "when 1 of 3 cells had finished (none/0)")


def test_a_model_before_training_says_nothing_of_what_is_compared(sandbox):
    """All grids of a folder share it."""
    sandbox.inline("seeds=1", "only=untouched:0")
    (folder_of(sandbox) / "declaration.json").unlink()
    sandbox.inline("seeds=1")
    assert facts(sandbox)[0]


def test_a_declaration_that_is_altered_or_broken_is_said(sandbox, capsys):
    sandbox.inline("seeds=1")
    path = folder_of(sandbox) / "declaration.json"
    whole = path.read_text()
    path.write_text(whole.replace('"alpha": 0.05', '"alpha": 0.5'))
    assert not facts(sandbox)[0]
    assert "declaration.json was altered: the hash of what was declared at" in said(sandbox)
    path.write_text(whole[:-30])
    assert sandbox.inline("seeds=1") == 2
    assert "declaration.json: cannot be read (" in (error := capsys.readouterr().err)
    assert "move it away" in error
    assert path.read_text() == whole[:-30]


def test_seeds_that_are_dropped_are_named(sandbox):
    sandbox.inline("seeds=4")
    sandbox.inline("seeds=[1,3]", "rerun=none")
    text = said(sandbox)
    names = "latent_kl/0, latent_kl/2, none/0, none/2, velocity_mse/0, velocity_mse/2"
    assert f"6 finished cells are left out by the present seeds: {names}. The verdict is over 2 seeds" in text
    assert "trained were 4." in text
    assert "seeds was 0, 1, 2, 3, is 1, 3" in text


def test_failed_cells_of_dropped_seeds_are_named_apart_from_finished_ones(sandbox):
    sandbox.inline("seeds=3")
    cells = {arm.name: sandbox.root / "cells" / arm.cells[2].identity for arm in read(folder_of(sandbox)).trained}
    for arm in ("none", "velocity_mse", "latent_kl"):
        (cells[arm] / "failure.json").write_text("{}")
    for arm in ("none", "latent_kl"):
        (cells[arm] / "DONE").unlink()
    (cells["none"] / "failure.json").unlink()
    sandbox.inline("seeds=2", "rerun=none")
    text = said(sandbox)
    assert "Failed cells that the present seeds leave out: latent_kl/2. No rate of failures counts them" in text
    # What failed first and finished when it was tried again has finished; what never ended is not named.
    assert "1 finished cells are left out by the present seeds: velocity_mse/2. The verdict is over 2 seeds" in text


def test_a_seed_of_which_every_run_failed_is_named_too(sandbox):
    sandbox.inline("seeds=2")
    for arm in read(folder_of(sandbox)).trained:
        cell = sandbox.root / "cells" / arm.cells[1].identity
        (cell / "DONE").rename(cell / "failure.json")
    sandbox.inline("seeds=1", "rerun=none")
    text = said(sandbox)
    assert "Failed cells that the present seeds leave out: latent_kl/1, none/1, velocity_mse/1." in text
    assert "finished cells are left out" not in text


def test_a_list_of_cells_of_a_former_layout_is_kept_and_named_anew(sandbox):
    sandbox.inline("seeds=2")
    path = folder_of(sandbox) / "cells.jsonl"
    everything = planned(folder_of(sandbox))
    path.write_text(json.dumps({"cells": sorted(everything)}) + "\n")
    sandbox.inline("seeds=1", "rerun=none")
    assert planned(folder_of(sandbox)) == everything
    assert "3 finished cells are left out by the present seeds: latent_kl/1, none/1, velocity_mse/1." in said(sandbox)


def test_a_plan_of_the_former_layout_is_refused_and_written_anew(sandbox):
    sandbox.inline("seeds=1")
    path = folder_of(sandbox) / "sweep.json"
    plan = json.loads(path.read_text())
    new = ("test", "margin", "design", "looks", "planned_seeds", "evaluation")
    former = {key: value for key, value in plan.items() if key not in new}
    former |= {"schema": 1, "created": "2025-01-01T00:00:00Z"}
    path.write_text(json.dumps(former))
    (folder_of(sandbox) / "declaration.json").unlink()
    with pytest.raises(
        BrokenSweepError, match=r"schema 2, got 1; .* writes it anew.*ablations\.sweep .* action=report"
    ):
        read(folder_of(sandbox))
    assert sandbox.inline("seeds=1", "action=report") == 0
    assert json.loads(path.read_text()) == plan | {"created": former["created"]}
    assert facts(sandbox) == (False, "not declared")


def test_seeds_that_are_raised_after_a_look_are_said(looking):
    looking.inline("seeds=2")
    assert "Seeds were raised" not in said(looking)
    looking.inline("seeds=3")
    assert "Seeds were raised from 2 to 3 after a look at 2: p-values and intervals are those of a fixed design" in (
        text := said(looking)
    )
    assert "7 % false differences by 8 seeds" in text
    sweep = read(folder_of(looking))
    assert (sweep.looked, [look.seeds for look in sweep.looked_at]) == ((2,), [2, 3])
    looking.inline("seeds=3", "action=report")  # the same results are no other look
    assert len(read(folder_of(looking)).looked_at) == 2
    (folder_of(looking) / "looks.jsonl").unlink()  # the declaration knows it too
    assert read(folder_of(looking)).looked == (2,)


def test_a_group_sequential_design_declares_its_looks(looking, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(GRID)
    own = {"grid": str(tmp_path / "mine.yaml")}
    for seeds in ("seeds=2", "seeds=3", "seeds=4"):
        looking.inline(seeds, **own)
    sweep = read(folder_of(looking))
    assert (sweep.design, sweep.looks, sweep.looked, len(sweep.seeds)) == ("group_sequential", (2, 3, 4), (2, 3), 4)
    assert declaration.before(sweep)
    assert not [line for line in said(looking).split("\n") if "ooked" in line or "raised" in line]
    assert declaration.history(sweep)[-1] == "This page: 4 seeds complete, of 4."
    assert looking.inline("seeds=5", **own) == 2
    assert "declares [0, 1, 2, 3], expected the first of them" in capsys.readouterr().err


def test_a_look_that_was_not_planned_is_said(looking, tmp_path):
    (tmp_path / "mine.yaml").write_text(GRID.replace("[2, 3, 4]", "[2, 4]"))
    own = {"grid": str(tmp_path / "mine.yaml")}
    for seeds in ("seeds=2", "seeds=3"):
        looking.inline(seeds, **own)
    expected = "Looked at 3 complete seeds, where looks at 2, 4 were planned"
    assert expected in said(looking)
    looking.inline("seeds=4", **own)
    assert expected in said(looking)


def test_a_row_that_was_cut_short_costs_no_other_look(looking):
    looking.inline("seeds=1")
    path = folder_of(looking) / "looks.jsonl"
    path.write_text(path.read_text() + '{"time": "2026')
    looking.inline("seeds=2")
    assert [look.seeds for look in read(folder_of(looking)).looked_at] == [1, 2]


def test_a_cell_without_the_primary_measure_is_missing(sandbox):
    """The review's case: the verdict flips, and nothing says that a seed is gone."""
    sandbox.inline("seeds=2")
    for name in ("result.json", "evaluation.json"):
        path = sandbox.cell("latent_kl", 1) / name
        path.write_text(path.read_text().replace('"geneval/strict"', '"other"'))
    (sandbox.cell("latent_kl", 1) / "DONE").write_text("")
    sweep = read(folder_of(sandbox))
    assert (len(sweep.counted), len(sweep.cells), sweep.complete_seeds) == (6, 7, (0,))
    assert "1 of 7 finished cells have no geneval/strict, count as missing" in said(sandbox)


def test_commands_at_once_lose_no_declaration(tmp_path):
    grid = load_grid("kl_vs_mse")
    plans = [make_plan(grid, ["optim.updates=4"], seeds=tuple(range(k + 1))) for k in range(6)]
    for plan in plans:
        assert plan.arms[0].identities  # reading the weights is not what races
    threads = [threading.Thread(target=declare, args=(tmp_path, plan, {})) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(one["content"]["seeds"]) for one in revisions(tmp_path)) == [1, 2, 3, 4, 5, 6]


@dataclass(frozen=True)
class Ended:
    """A cell of which only this is asked."""

    done: bool

    def is_done(self) -> bool:
        return self.done


@pytest.fixture(scope="module")
def plans():
    """Three plans that differ in what is declared, and the contents that pages would be of."""
    grid = load_grid("kl_vs_mse")
    changed = ({}, {"margin": 0.02}, {"primary": {"metric": "geneval/official", "direction": "max"}})
    made = [make_plan(dataclasses.replace(grid, **changes), seeds=(0, 1)) for changes in changed]
    return [(plan, content_of(plan) | _of_the_record(plan)) for plan in made]


def _of_the_record(plan):
    """What sweep.json says in other words than the declaration."""
    words = [{"words": each.words} for each in plan.comparisons]
    return {
        "planned_seeds": plan.planned_seeds,
        "comparisons": words,
        **{key: {"words": content_of(plan)[key]} for key in ("matched", "blocks")},
    }


@example(commands=[(0, 0), (1, 0)], shown=0)  # a page of the first of two
@example(commands=[(0, 0), (1, 0), (0, 0)], shown=0)  # back again
@given(
    commands=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=5),
    shown=st.integers(0, 2),
)
def test_before_the_runs_is_said_if_and_only_if_it_is_so(plans, commands, shown):
    """Any commands, each with a content and the number of cells that had finished, and a page of any content."""
    with tempfile.TemporaryDirectory() as name:
        for which, finished in commands:
            declare(Path(name), plans[which][0], {f"a/{k}": Ended(k < finished) for k in range(3)})
        found = history.revisions(Path(name))
    page = SimpleNamespace(revisions=found, content=history.content_of(plans[shown][1]))
    true = bool(commands) and commands[0][1] == 0 and all(which == shown for which, _ in commands)
    assert declaration.before(page) == true
    assert declaration.short(page).startswith("before the runs") == true
    assert (not [*declaration.lateness(page)]) == true
    changes = [which for k, (which, _) in enumerate(commands) if k == 0 or which != commands[k - 1][0]]
    assert [one.content["margin"] for one in found] == [plans[which][0].grid.margin for which in changes]


def test_another_order_is_no_other_content(tmp_path):
    grid = load_grid("kl_vs_mse")
    for seeds in ((0, 1), (1, 0)):
        declare(tmp_path, make_plan(grid, seeds=seeds), {})
    assert len(revisions(tmp_path)) == 1


def test_a_file_of_another_kind_is_not_overwritten(tmp_path):
    (tmp_path / "declaration.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"declaration\.json: cannot be read"):
        declare(tmp_path, make_plan(load_grid("kl_vs_mse"), seeds=(0,)), {})
