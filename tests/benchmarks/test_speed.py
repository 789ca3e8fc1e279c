"""The benchmark's variants do the same work; how long they take is not asserted."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks.speed.__main__ import main
from benchmarks.speed.report import write_sweep
from benchmarks.speed.timing import Quartiles, Spent, ratio, take_turns
from benchmarks.speed.variants import Bench
from reports.collect import read
from reports.factorial import crossed
from unigrpo.compose import compose
from unigrpo.rollout.rollout import Rollout
from unigrpo.training.trainer import Trainer

SMALL = ["rollout.prompts=4", "rollout.group_size=2", "rollout.minibatches=2", "sampler.steps=4"]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.prepare(Trainer(compose(SMALL)))


def test_reading_the_context_again_paints_the_same_pictures(bench):
    once, again = bench.paint_from_cache(), bench.paint_reading_again()
    assert len(once) == 2
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@torch.no_grad()
def test_the_benchmark_paints_as_the_walker_does(bench):
    spec = dataclasses.replace(bench.spec, stochastic=())
    for trajectory, painted in zip(bench.trajectories, bench.paint_from_cache(), strict=True):
        rollout = Rollout(bench.trainer.policy, spec, len(trajectory.prompts))
        for segment in trajectory.segments[:-1]:
            rollout.replay(segment)
        torch.testing.assert_close(
            rollout.generate_image(bench.draws(trajectory)).latents, painted, rtol=1e-4, atol=1e-4
        )


def test_a_shared_prompt_gives_every_member_the_context_of_its_own(bench):
    for shared, apart in zip(bench.read_shared(), bench.read_apart(), strict=True):
        assert torch.equal(shared.valid, apart.valid)
        assert torch.equal(shared.position, apart.position)
        for a, b in zip(shared.keys + shared.values, apart.keys + apart.values, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_sharing_prompts_does_not_change_a_rollout(bench):
    for trajectory, apart in zip(bench.trajectories, bench.rollout_apart(), strict=True):
        torch.testing.assert_close(trajectory.image.latents, apart, rtol=1e-3, atol=1e-3)


def test_guidance_doubles_the_velocity_evaluations(bench):
    guided = Bench.prepare(Trainer(compose([*SMALL, "guidance=cfg"])))
    for plain, with_guidance in zip(bench.trajectories, guided.trajectories, strict=True):
        assert plain.cost.nfe == 4 * 4
        assert with_guidance.cost.nfe == 2 * plain.cost.nfe


def test_quartiles_and_paired_ratios():
    assert Quartiles.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Quartiles(2.0, 3.0, 4.0)
    slow = [Spent(4.0, 8.0), Spent(40.0, 80.0), Spent(400.0, 800.0)]
    fast = [Spent(1.0, 4.0), Spent(20.0, 40.0), Spent(400.0, 400.0)]
    assert ratio(fast, slow, "cpu").median == 0.5
    assert ratio(fast, slow, "wall") == Quartiles(0.5, 0.5, 0.5)


def test_variants_take_turns_in_both_orders():
    called: list[str] = []
    found = take_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, repeats=2)
    assert "".join(called) in ("ab" + "ba" + "ab", "ba" + "ab" + "ba")
    assert [len(spent) for spent in found.values()] == [2, 2]


def test_the_command_prints_tables_and_writes_json(tmp_path, capsys):
    file = tmp_path / "speed.json"
    main([*SMALL, "rollout.prompts=2", "rollout.minibatches=1", "--repeats", "2", "--json", str(file)])
    written = json.loads(file.read_text())
    assert [row["evaluations"] for row in written["comparisons"]] == [[16, 32], None, None, None]
    assert set(written["phases"]) >= {"rollout", "reward", "reference", "replay", "backward and step"}
    assert "context once" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["guidance=cfg"], ["--repeats", "1"]])
def test_what_cannot_be_measured_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err


def test_a_drawn_sweep_is_read_as_one_that_ran(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.report._UPDATES", 2)
    sweep = read(write_sweep(tmp_path, levels=2, seeds=2, prompts_per_tag=1, images=1))
    assert len(sweep.counted) == len(sweep.cells) == 3 * 2 * 2 + 1
    assert not any(cell.faults for cell in sweep.cells)
    assert crossed(sweep).levels == ("1e-05", "2e-05")
    assert all(cell.samples[0].segments[-1].picture.png for cell in sweep.cells)
