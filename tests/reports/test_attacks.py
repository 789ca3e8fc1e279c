"""Every attack of a hostile reviewer is said on the page."""

from __future__ import annotations

from tests.pages import ROOT, table
from tests.reports.attacks import Attack, main


def test_every_attack_is_said_and_the_page_on_statistics_has_the_sentences(tmp_path, capsys):
    assert main(tmp_path) == 0, capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == table(ROOT / "docs" / "statistics.md", "attack", "what the page says")


def test_what_is_not_said_or_said_of_any_sweep_is_a_failure(tmp_path, capsys):
    attacks = (Attack("nothing", "declaration", lambda lab: None), Attack("nothing", "Declared", lambda lab: None))
    assert main(tmp_path, attacks) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| nothing | NOT SAID |",
        "| nothing | Declared before the runs (…, hash …) SAID OF ANY SWEEP |",
    ]
