"""A metric from outside the package: from its file to a column of the report, with the real trainer."""

from __future__ import annotations

import reports
from ablations.sweep import main
from reports.analysis import analyse
from reports.collect import read
from reports.pages import render
from reports.roles import in_training

METRIC = '''
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from unigrpo.metrics import Measured, Quantity
from unigrpo.registry import register


@register("metric", "redness", source="a user")
@dataclass(frozen=True)
class Redness:
    """How red images are."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("mine/red", "how red", "Colours of mine", "lower", True, "red", "redness of mine"),
    )

    def __call__(self, episodes, per_prompt):
        rows = [
            {"prompt": prompt.key, "tag": prompt.tag, "image": k % per_prompt, "red": red}
            for batch in episodes
            for k, (prompt, red) in enumerate(zip(batch.prompts, batch.last_images()[:, 0].mean((1, 2)).tolist()))
        ]
        return Measured({"mine/red": fmean(row["red"] for row in rows)}, rows)
'''
GRID = """
question: "How red?"
recipe: unigrpo
baseline: plain
primary: {metric: mine/red, direction: min}
seeds: [0]
overrides:
  ["metrics=[metric_of_ones_own.Redness]", "train_metrics=[metric_of_ones_own.Redness]", optim.updates=2,
   rollout.prompts=2, rollout.group_size=2, rollout.minibatches=1, sampler.steps=4, evaluation.steps=2,
   evaluation.prompts_per_tag=1, evaluation.images_per_prompt=1]
arms:
  plain: []
"""


def write(folder):
    """A report without its figures, which take longest."""
    sections = "differences parts turns learning hacking drift penalties diagnostics"
    (folder / "report.html").write_bytes(
        render(analyse(read(folder)), dict.fromkeys(sections.split(), ()))["report.html"]
    )
    return folder / "report.html"


def test_a_metric_of_ones_own_ends_in_a_column_under_its_own_label(tmp_path, monkeypatch, capsys):
    (tmp_path / "metric_of_ones_own.py").write_text(METRIC)
    (tmp_path / "mine.yaml").write_text(GRID)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reports, "write", write)
    root = tmp_path / "runs"
    code = main([f"grid={tmp_path / 'mine.yaml'}", f"root={root}", "launcher=inline", "tracker=none"])
    assert code == 0, capsys.readouterr().err
    (page,) = root.glob("sweeps/*/report.html")
    html, sweep = page.read_text(), read(page.parent)
    (cell,) = sweep.arm("plain").cells
    assert cell.faults == ()
    assert len(cell.prompts) == 6
    assert ">Colours of mine<" in html
    assert '<button title="mine/red">how red\u00a0↓</button>' in html
    assert '<button title="guided/mine/red">how red\u00a0↓</button>' in html
    assert [metric.in_words for metric in in_training(sweep)] == ["redness of mine"]
    assert "train/red" in cell.history
