"""Seeds that start from several models: from the grid file to the plan, the declaration and the record."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from ablations.blocks import Blocks
from ablations.costs import Cost, Estimates
from ablations.declaration import revisions
from ablations.foresight import known_spread
from ablations.grid import UNTOUCHED, Tune, load_grid
from ablations.plan import make_plan
from ablations.record import write_sweep
from ablations.tuning import candidates
from reports import declaration
from reports.collect import read
from tests.ablations.test_foresight import RECORD, finished, told
from tests.ablations.test_plan import FULL, grid_of, models, write_grid
from unigrpo.checkpoints import SHIPPED
from unigrpo.errors import ConfigError

__all__ = ["models"]  # a fixture


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """Three models to start from: the default one, and others as far as a plan can tell."""
    folder = tmp_path_factory.mktemp("warm")
    for name in ("one", "two"):
        (folder / name).symlink_to(SHIPPED / "tiny-shapes")
    return Blocks("model.checkpoint", ("tiny-shapes", str(folder / "one"), str(folder / "two")))


def starts(plan):
    """Name of each cell -> what it starts from."""
    return {cell.name: cell.config.model.checkpoint for cell in plan.cells()}


def ids(plan):
    return {cell.name: cell.id for cell in plan.cells()}


def test_a_seed_starts_from_the_model_of_its_block_in_every_arm(warm):
    plan = make_plan(grid_of(blocks=warm, replicate=1), seeds=(0, 1, 2, 3, 5, 10))
    by_seed = {0: 0, 1: 1, 2: 2, 3: 0, 5: 2, 10: 1}
    trained = {f"{arm}:{k}": warm.values[b] for arm in ("a", "b", "replicate1") for k, b in by_seed.items()}
    assert starts(plan) == trained | {f"{UNTOUCHED}:{b}": value for b, value in enumerate(warm.values)}
    assert [cell.name for cell in plan.cells()][:5] == ["untouched:0", "a:0", "b:0", "replicate1:0", "untouched:1"]
    assert plan.notes == ()


def test_a_cell_is_the_one_that_a_plan_of_its_model_alone_has(warm):
    blocked = ids(make_plan(grid_of(blocks=warm, replicate=1)))
    plain = ids(make_plan(grid_of(replicate=1)))
    second = ids(make_plan(grid_of(replicate=1), [f"model.checkpoint='{warm.values[1]}'"]))
    assert {name: blocked[name] for name in ("untouched:0", "a:0", "b:3", "replicate1:3")} == {
        name: plain[name] for name in ("untouched:0", "a:0", "b:3", "replicate1:3")
    }
    assert (blocked["a:1"], blocked["b:4"]) == (second["a:1"], second["b:4"])
    assert len({*blocked.values()}) == len(blocked)


def test_no_number_of_seeds_moves_a_seed_to_another_block(warm):
    few, many = (make_plan(grid_of(blocks=warm), seeds=seeds) for seeds in ((4, 7), tuple(range(8))))
    assert ids(few).items() < ids(many).items()
    assert few.sweep_id == many.sweep_id
    # Of the model before training, the blocks that the seeds reach.
    assert [name for name in ids(few) if name.startswith(UNTOUCHED)] == ["untouched:1"]
    assert (
        few.notes[0] == f"blocks: no seed starts from tiny-shapes, {warm.values[2]}: the verdict does not speak of it"
    )


def test_other_models_are_another_sweep(warm):
    three, two = (dataclasses.replace(warm, values=warm.values[:n]) for n in (3, 2))
    assert len({make_plan(grid_of(blocks=each)).sweep_id for each in (three, two, None)}) == 3


@pytest.mark.parametrize("command", ["model.checkpoint=tiny-shapes", "model=mot"])
def test_a_command_that_names_a_model_replaces_the_blocks(warm, command):
    plan, plain = (make_plan(grid_of(blocks=blocks), [command]) for blocks in (warm, None))
    assert (plan.sweep_id, ids(plan), plan.blocks) == (plain.sweep_id, ids(plain), None)
    assert f"blocks: replaced by {command} of the command" in plan.notes


def test_an_axis_of_models_replaces_the_blocks(warm):
    plan = make_plan(grid_of(blocks=warm), [f"model.checkpoint=tiny-shapes,'{warm.values[1]}'"], seeds=(0, 1))
    assert plan.blocks is None
    assert starts(plan)["a@checkpoint=tiny-shapes:1"] == "tiny-shapes"


def test_every_model_before_training_has_a_cell_of_each_block(warm):
    """Also where an arm makes no updates, and where arms differ in another field of the model."""
    arms = {"a": (), "b": ("model.new_words=true",), "start": ("optim.updates=0", "model.new_words=true")}
    plan = make_plan(grid_of(arms=arms, blocks=warm), seeds=(0, 1, 2, 3, 4))
    found = starts(plan)
    assert [name for name in found if not name.startswith(("a:", "b:"))] == [
        f"{arm}:{block}" for block in range(3) for arm in (UNTOUCHED, "start")
    ]
    assert [found[f"start:{block}"] for block in range(3)] == [*warm.values]


def test_the_model_before_training_keeps_the_prompts_of_the_grid_whatever_the_first_block_is(warm):
    """It is the baseline's model but for the block, so that nothing else of the baseline goes with it."""
    other = dataclasses.replace(warm, values=warm.values[::-1])
    arms = {"a": ("episode.thinking=false",), "b": ("optim.image_lr=2e-4",)}
    plan = make_plan(grid_of(arms=arms, blocks=other))
    (untouched,) = (arm for arm in plan.arms if arm.untouched)
    assert untouched.overrides == ("optim.updates=0",)
    assert untouched.config.episode == make_plan(grid_of(arms=arms)).arms[0].config.episode


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arms": {"a": (), "b": ("model.checkpoint=x",)}}, "arm b: model.checkpoint=x: blocks give model.checkpoint"),
        ({"overrides": ("model.checkpoint=x",)}, "overrides: model.checkpoint=x: blocks give model.checkpoint by seed"),
        ({"axes": {"model.checkpoint": ("x", "y")}}, "blocks: model.checkpoint is varied by axes or zip already"),
        (
            {"arms": {"a": (FULL,)}},
            "arm a: blocks: its model (models_of_this_test.Full) has no field",
        ),
    ],
)
def test_a_key_that_is_said_twice_or_that_no_model_has_is_an_error(warm, models, changes, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        make_plan(grid_of(blocks=warm, **changes))


def test_an_arm_that_cannot_run_from_one_of_the_models_is_refused(warm):
    """Of this model the pictures are tokens, and the arms want a flow."""
    expected = "no arm can run: model.checkpoint=tiny-tokens: image_head=flow: generates images by denoising"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        make_plan(grid_of(blocks=Blocks("model.checkpoint", ("tiny-shapes", "tiny-tokens"))))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("blocks: {optim.text_lr: [1, 2]}", "blocks: expected a field of the model, as model.checkpoint, got"),
        ("blocks: {model.checkpoint: [x]}", "blocks.model.checkpoint: expected two values or more, got [x]"),
        ("blocks: {model.checkpoint: [x, y, x]}", "blocks.model.checkpoint: x comes twice"),
        ("blocks: {model.checkpoint: x}", "blocks.model.checkpoint: expected a list, got 'x'"),
        (
            "blocks: {model.a: [1, 2], model.b: [1, 2]}",
            "blocks: expected one key with its values, got model.a, ",
        ),
        ("blocks: [x, y]", "blocks: expected a dict"),
    ],
)
def test_blocks_of_the_wrong_form_are_refused(tmp_path, key, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_grid(write_grid(tmp_path, key))


def test_a_preset_may_do_without(tmp_path, warm):
    line = f"blocks: {{model.checkpoint: {json.dumps(warm.values)}}}"
    path = write_grid(tmp_path, line, "presets: {small: {blocks: {}}}")
    assert load_grid(path).blocks == warm
    assert load_grid(path, "small").blocks is None


def test_settings_are_tried_from_the_same_models(warm):
    tune = Tune((100, 101), dict.fromkeys("ab", (("optim.image_lr=1e-4",), ("optim.image_lr=2e-4",))))
    grid = grid_of(blocks=warm, tune=tune)
    tried = make_plan(candidates(grid))
    assert make_plan(grid).tuning == tried.sweep_id
    assert starts(tried)["b #2:100"] == warm.values[1]


def test_what_is_not_trained_counts_by_block_in_the_spread(tmp_path, warm):
    """Differences from 1, 2, 3 of the blocks, and from those again: 0, 1, 3, 5, 2, 3."""
    plan = make_plan(grid_of(arms={"a": (), "b": ("optim.updates=0",)}, blocks=warm))
    finished(tmp_path, plan, {"a": [1.0, 3.0, 6.0, 6.0, 4.0, 6.0], "b": [1.0, 2.0, 3.0]})
    assert known_spread(plan, tmp_path).sd == pytest.approx(np.std([0, 1, 3, 5, 2, 3], ddof=1))


def test_the_hours_count_a_cell_of_each_block_before_training(tmp_path, warm):
    plan = make_plan(grid_of(spread=RECORD, blocks=warm))
    estimates = Estimates(plan.cells())
    for cell in plan.cells():
        estimates.learn(cell, Cost(1, seconds=600.0))
    assert told(plan, tmp_path, estimates)[0].endswith("; its cells take 2.5 h of one CPU worker")  # 12 + 3 cells


@pytest.fixture
def swept(sandbox, tmp_path, warm):
    line = f"blocks: {{model.checkpoint: {json.dumps(warm.values)}}}"
    sandbox.inline(grid=write_grid(tmp_path, line, "seeds: [0, 1, 3, 4]"))
    (folder,) = sandbox.root.glob("sweeps/*")
    return folder


def test_blocks_are_declared_and_recorded(swept, warm):
    (revision,) = revisions(swept)
    words = f"model.checkpoint of seed k: number k modulo 3 of {', '.join(warm.values)}"
    assert revision["content"]["blocks"] == words
    assert declaration.before(read(swept))
    plan = json.loads((swept / "sweep.json").read_text())
    of = {str(seed): warm.values[seed % 3] for seed in (0, 1, 3, 4)}
    assert plan["blocks"] == {"key": "model.checkpoint", "of": of, "words": words}
    cells = {arm["name"]: [*arm["cells"]] for arm in plan["arms"]}
    assert (cells[UNTOUCHED], cells["a"]) == (["0", "1"], ["0", "1", "3", "4"])


def test_other_blocks_are_another_declaration(swept, warm, tmp_path):
    plan = json.loads((swept / "sweep.json").read_text())
    plan["blocks"]["words"] = "model.checkpoint of seed k: another"
    (swept / "sweep.json").write_text(json.dumps(plan))
    assert not declaration.before(read(swept))
    (told,) = (line for line in declaration.lateness(read(swept)) if "another plan than was declared" in line)
    assert "blocks was" in told


def test_a_record_has_the_model_of_every_cell_though_its_seed_is_of_no_arm(tmp_path, warm):
    folder = write_sweep(tmp_path, make_plan(grid_of(blocks=warm), seeds=(4, 7)), "")
    plan = json.loads((folder / "sweep.json").read_text())
    assert plan["blocks"]["of"] == {"1": warm.values[1], "4": warm.values[1], "7": warm.values[1]}


def test_a_plan_says_which_seeds_start_from_what(sandbox, tmp_path, warm, capsys):
    line = f"blocks: {{model.checkpoint: {json.dumps(warm.values)}}}"
    sandbox.inline("dry_run=true", grid=write_grid(tmp_path, line, "seeds: [0, 1, 3, 4]"))
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("blocks "))
    assert told == f"blocks    model.checkpoint tiny-shapes (seeds 0, 3), {warm.values[1]} (seeds 1, 4)"
