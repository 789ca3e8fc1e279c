"""What a page says of a hostile reviewer's attacks on its sweep: ``python -m tests.reports.attacks [FOLDER]``.

Sweeps are made by the real command with a trainer that draws its scores, so that the truth is known: the arms are
equal.  Each attack is made on a copy of a finished sweep, by commands or by editing files.  Prints a row for each; exit
status 1 if the page of one does not say what was done, or if the page of the sweep that nobody touched says it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import reports
from ablations.sweep import main as sweep
from reports.analysis import analyse
from reports.collect import read
from reports.declaration import short
from reports.history import add_look
from reports.pages import render
from reports.text import markdown
from tests.reports.pages import Page

RUNNER = f"{Path(__file__).parent.parent.name}.reports.attacks:run"
PRIMARY = "geneval/strict"
GRID = """
question: "Is velocity MSE better than no penalty?"
recipe: unigrpo
baseline: none
primary: {metric: geneval/strict, direction: max}
margin: 0.02
seeds: [0, 1, 2, 3, 4, 5, 6, 7]
arms: {none: [regularizer=none], mse: [regularizer=velocity_mse]}
"""
#: The factor that is real: every run under it scores so much more.
FACTOR, EFFECT = "dance_sde", 0.1


def run(config, folder, *, progress=None, stop=None):
    """Train nothing: a cell's scores are draws, whose mean hangs on its dynamics alone."""
    del progress, stop
    arm = config.regularizer.name
    if json.loads((folder.parents[1] / "failing.json").read_text()).get(f"{arm}:{config.seed}"):
        raise ValueError("told to fail")
    draws = np.random.default_rng([config.seed, len(arm), len(config.dynamics.name)]).normal(scale=0.02, size=3)
    strict, official, proxy = 0.6 + EFFECT * (config.dynamics.name == FACTOR) + draws
    metrics = {PRIMARY: strict, "geneval/official": official, "heldout/proxy": proxy}
    result = {"metrics": metrics, "cost": {"cost/cpu_s": 1.0}, "updates": config.optim.updates}
    described = [{"name": name, "label": name, "group": "", "better": "higher", "digits": 3} for name in metrics]
    write(folder / "config.json", config.to_dict())
    write(folder / "metrics_schema.json", described)
    write(folder / "evaluation.json", {"metrics": metrics, "eval_set_hash": "e5", "guidance_scale": 1.0})
    write(folder / "result.json", result)
    return result


def write(path: Path, value: object) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value))


class Lab:
    """One root of sweeps, and what can be done to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "mine.yaml").write_text(GRID)
        self.fail()

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        return next(self.root.glob("sweeps/*"))

    def copy(self, root: Path) -> Lab:
        """The same in another place."""
        shutil.copytree(self.root, root)
        lab = Lab.__new__(Lab)
        lab.root = root
        return lab

    def command(self, *words: str) -> None:
        """Give the sweep's command, whose report is a page without figures; its output is of no interest."""
        given = [f"grid={self.root / 'mine.yaml'}", f"root={self.root}", "launcher=inline", "tracker=none", *words]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), undrawn():
            sweep(given, runner=RUNNER)

    def fail(self, *cells: str) -> None:
        """From now on these cells fail, ``strategy:seed``."""
        write(self.root / "failing.json", dict.fromkeys(cells, True))

    def cell(self, arm: str, seed: int) -> Path:
        """A cell's folder."""
        plan = json.loads((self.folder / "sweep.json").read_text())
        return self.root / "cells" / next(one["cells"][str(seed)] for one in plan["arms"] if one["name"] == arm)

    def edit(self, file: Path, old: str, new: str) -> None:
        """Put ``new`` for all that matches ``old`` in a file."""
        text = file.read_text()
        assert re.search(old, text), f"{file}: no {old}"
        file.write_text(re.sub(old, new, text))

    def sentences(self) -> list[str]:
        """What the page says first: when it was declared, its verdict, its warnings; times and hashes are left out."""
        analysis = analyse(read(self.folder))
        told = (f"Declared {short(analysis.sweep)}", analysis.verdict.sentence, *analysis.warnings)
        page = " ".join(Page((self.folder / "report" / "report.html").read_text()).text)
        assert all(flat(sentence) in flat(page) for sentence in told[2:]), "a warning is not on the page"
        return [re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z|(?<=hash )[0-9a-f]{12}", "…", one) for one in told]


def flat(text: str) -> str:
    """``text`` as a browser sets it."""
    return re.sub(r"\s+", " ", text)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Reports are pages without figures, which take longest."""
    whole = reports.write

    def page(folder: Path) -> Path:
        analysis = analyse(read(folder))
        (folder / "report").mkdir(exist_ok=True)
        (folder / "report" / "report.html").write_bytes(render(analysis, defaultdict(tuple))["report.html"])
        add_look(folder, analysis.sweep)
        return folder / "report" / "report.html"

    reports.write = page
    try:
        yield
    finally:
        reports.write = whole


@dataclass(frozen=True)
class Attack:
    """One way to make a page claim more than its runs show."""

    what: str
    said: str
    """Pattern of the sentence in which the page says so."""
    make: Callable[[Lab], None]


def primary_changed(lab: Lab) -> None:
    lab.command("primary=heldout/proxy", "rerun=none")


def best_of_several(lab: Lab) -> None:
    for metric in ("heldout/proxy", "geneval/official", "geneval/strict"):
        lab.command(f"primary={metric}", "rerun=none")


def margin_moved(lab: Lab) -> None:
    lab.command("margin=.2", "rerun=none")


def seeds_dropped(lab: Lab) -> None:
    lab.command("seeds=[0,1,2,4,5,7]", "rerun=none")


def seeds_added(lab: Lab) -> None:
    for seeds in (9, 10):
        lab.command(f"seeds={seeds}")


def score_missing(lab: Lab) -> None:
    cell = lab.cell("mse", 3)
    for name in ("result.json", "evaluation.json"):
        lab.edit(cell / name, f'"{PRIMARY}": [^,]+', f'"{PRIMARY}": NaN')
    (cell / "DONE").write_text(hashlib.sha256((cell / "result.json").read_bytes()).hexdigest())
    lab.command("action=report")


def result_edited(lab: Lab) -> None:
    lab.edit(lab.cell("mse", 3) / "result.json", f'"{PRIMARY}": [^,]+', f'"{PRIMARY}": 0.9')
    lab.command("action=report")


def declaration_edited(lab: Lab) -> None:
    lab.edit(lab.folder / "declaration.json", '"margin": 0.02', '"margin": 0.2')
    lab.edit(lab.root / "mine.yaml", "margin: 0.02", "margin: 0.2")
    lab.command("action=report")


def declared_anew(lab: Lab) -> None:
    (lab.folder / "declaration.json").unlink()
    lab.command("primary=heldout/proxy", "rerun=none")


def failed(lab: Lab) -> None:
    """One run of one arm fails."""
    shutil.rmtree(lab.cell("mse", 2))
    lab.fail("velocity_mse:2")
    lab.command()


def failure_deleted(lab: Lab) -> None:
    failed(lab)
    shutil.rmtree(lab.cell("mse", 2))
    lab.command("action=report")


def failure_dropped(lab: Lab) -> None:
    failed(lab)
    lab.command("seeds=[0,1,3,4,5,6,7]", "rerun=none")


def failures_dropped(lab: Lab) -> None:
    """Seeds of which no run of either arm has finished, so that no finished cell is left out."""
    for arm, seed in ((arm, seed) for arm in ("none", "mse") for seed in (2, 5)):
        shutil.rmtree(lab.cell(arm, seed))
    lab.fail("none:2", "none:5", "velocity_mse:2", "velocity_mse:5")
    lab.command()
    lab.command("seeds=[0,1,3,4,6,7]", "rerun=none")


def evaluated_otherwise(lab: Lab) -> None:
    lab.edit(lab.cell("mse", 3) / "evaluation.json", '"e5"', '"easier"')
    lab.command("action=report")


def axis_added(lab: Lab) -> None:
    shutil.rmtree(lab.folder)
    lab.command(f"dynamics=flow_sde,{FACTOR}")


CHANGED = "The declaration was changed when 16 of 16 cells had finished .*"
ATTACKS = (
    Attack(
        "another primary measure when all results are there", f"{CHANGED}primary was geneval/strict", primary_changed
    ),
    Attack(
        "one measure after the other, until one suits",
        f"{CHANGED}primary was heldout/proxy .*, is geneval/official",
        best_of_several,
    ),
    Attack("a wider margin, so that arms are 'equal'", f"{CHANGED}margin was 0.02, is 0.2", margin_moved),
    Attack("two seeds dropped", "4 finished cells are left out by the present seeds", seeds_dropped),
    Attack(
        "more seeds, one by one, until it is shown", "Seeds were raised from 9 to 10 after a look at 8, 9", seeds_added
    ),
    Attack(
        "a bad run's score taken out of its files", "1 of 17 finished cells have no .*count as missing", score_missing
    ),
    Attack("a bad run's score edited", "1 of 17 cells cannot be read", result_edited),
    Attack("a run evaluated on easier prompts", "evaluated on another evaluation set", evaluated_otherwise),
    Attack("declaration.json edited, and the grid", "declaration.json was altered", declaration_edited),
    Attack(
        "declaration.json deleted, then declared anew",
        "Declared when 16 of 16 cells had finished .*not before",
        declared_anew,
    ),
    Attack("the failed run of an arm deleted", "1 of 17 cells not run or not finished: mse/2", failure_deleted),
    Attack(
        "the seed of a failed run dropped",
        "Failed cells that the present seeds leave out: mse/2",
        failure_dropped,
    ),
    Attack(
        "seeds dropped that failed in both arms, which makes these stable again",
        "Failed cells that the present seeds leave out: mse/2, mse/5, none/2, none/5",
        failures_dropped,
    ),
    Attack("an axis worth .1 that one arm alone gets", "No difference shown between mse and none: ", axis_added),
)


def main(folder: Path, attacks: Sequence[Attack] = ATTACKS) -> int:
    """Make ``attacks`` under ``folder``, print what was said of each; the exit status."""
    honest = Lab(folder / "honest")
    honest.command()
    untouched = honest.sentences()
    print("| attack | what the page says |\n| --- | --- |")
    good = untouched[0].startswith("Declared before the runs")
    for number, attack in enumerate(attacks):
        lab = honest.copy(folder / str(number))
        attack.make(lab)
        found = [sentence for sentence in lab.sentences() if re.search(attack.said, sentence)]
        idle = found and found[0] in untouched
        good &= bool(found) and not idle
        print(f"| {attack.what} | {markdown(found[0]) if found else 'NOT SAID'}{' SAID OF ANY SWEEP' * bool(idle)} |")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary) / "attacks"))
