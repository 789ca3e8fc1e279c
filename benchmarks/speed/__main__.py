"""``python -m benchmarks.speed [key=value ...]``: what guidance, caching and sharing cost and save, paired."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.command import user_path
from benchmarks.speed.timing import Quartiles, Spent, ratio, take_turns
from benchmarks.speed.variants import Bench
from unigrpo import console
from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.training.trainer import Trainer


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same work.

    Attributes:
        work: what is done.
        names: of the thrifty way and of the other.
        spent: the seconds of each, by name.
        evaluations: velocity evaluations of each, where they differ.
    """

    work: str
    names: tuple[str, str]
    spent: dict[str, list[Spent]]
    evaluations: tuple[int, int] | None = None

    def summary(self) -> dict[str, Any]:
        """Plain form: medians with quartiles; ratios are thrifty over other, below 1 where it saves."""
        thrifty, other = (self.spent[name] for name in self.names)
        return {
            "work": self.work,
            "thrifty": self.names[0],
            "other": self.names[1],
            "evaluations": self.evaluations,
            "cpu_ratio": dataclasses.asdict(ratio(thrifty, other, "cpu")),
            "wall_ratio": dataclasses.asdict(ratio(thrifty, other, "wall")),
            "cpu_s": {name: dataclasses.asdict(_seconds(self.spent[name])) for name in self.names},
        }


def _seconds(spent: Sequence[Spent]) -> Quartiles:
    return Quartiles.of([one.cpu for one in spent])


def compare(config: RunConfig, repeats: int) -> list[Comparison]:
    """All comparisons on one configuration, which must be free of guidance."""
    bench = Bench.prepare(Trainer(config))
    guided_config = dataclasses.replace(config, guidance=compose(["guidance=cfg"]).guidance)
    guided = Bench.prepare(Trainer(guided_config))

    def versus(work: str, variants: Mapping[str, Callable[[], object]]) -> Comparison:
        thrifty, other = variants
        return Comparison(work, (thrifty, other), take_turns(variants, repeats))

    counts = [sum(trajectory.cost.nfe for trajectory in b.trajectories) for b in (bench, guided)]
    guidance = versus("rollout", {"CFG-free": bench.rollout, "CFG": guided.rollout})
    return [
        dataclasses.replace(guidance, evaluations=(counts[0], counts[1])),
        versus("painting", {"context once": bench.paint_from_cache, "at every step": bench.paint_reading_again}),
        versus("reading prompts", {"once per group": bench.read_shared, "for every member": bench.read_apart}),
        versus("rollout", {"prompt once per group": bench.rollout, "for every member": bench.rollout_apart}),
    ]


def phases(config: RunConfig, repeats: int) -> dict[str, Quartiles]:
    """Wall seconds of the phases of one update; ``learn`` is split into its forward pass and the rest."""
    trainer = Trainer(config)
    found: dict[str, list[float]] = {}
    for update in range(repeats + 1):
        before = dict(trainer.seconds)
        trainer.update(update)
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in trainer.seconds.items()}
        bench = Bench.prepare(trainer, update)
        with trainer.clock("replay"):
            bench.replay()
        spent["replay"] = trainer.seconds["replay"] - before.get("replay", 0.0)
        spent["backward and step"] = spent.pop("update") - spent["replay"]
        if update:
            for name, seconds in spent.items():
                found.setdefault(name, []).append(seconds)
    return {name: Quartiles.of(values) for name, values in found.items()}


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    table = Table("work: thrifty way / other way", "evaluations", "CPU time", "wall time")
    for row in result["comparisons"]:
        evaluations = "equal" if row["evaluations"] is None else "{} / {}".format(*row["evaluations"])
        ratios = (str(Quartiles(**row[clock])) for clock in ("cpu_ratio", "wall_ratio"))
        table.add_row(f"{row['work']}: {row['thrifty']} / {row['other']}", evaluations, *ratios)
    shares = Table("phase of an update", "seconds", "share")
    whole = sum(phase["median"] for phase in result["phases"].values())
    for name, phase in result["phases"].items():
        shares.add_row(name, str(Quartiles(**phase)), f"{phase['median'] / whole:.0%}")
    console = Console()
    console.print(table, shares, "Medians and interquartile ranges; a ratio below 1: the first way is faster.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the run, as of unigrpo.train")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds, at least 2 (default: 9)")
    parser.add_argument("--json", type=user_path, help="where to write the numbers")
    given = parser.parse_args(arguments)
    if given.repeats < 2:
        parser.error(f"--repeats {given.repeats}: quartiles need at least 2 rounds")
    config = compose(given.overrides).check()
    if config.guidance.branches:
        parser.error(f"guidance={config.guidance.name}: the comparison with guidance starts from cfg_free")
    result = {
        "machine": machine(),
        "config": config.to_dict(),
        "repeats": given.repeats,
        "comparisons": [comparison.summary() for comparison in compare(config, given.repeats)],
        "phases": {name: dataclasses.asdict(found) for name, found in phases(config, given.repeats).items()},
    }
    show(result)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
