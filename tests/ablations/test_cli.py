"""The command ``unigrpo``: it passes on what it is told."""

from __future__ import annotations

import sys

import pytest

import unigrpo
from ablations.cli import COMMANDS, main
from unigrpo.errors import ConfigError

MAINS = {
    "train": "unigrpo.training.command",
    "sweep": "ablations.sweep",
    "report": "reports.__main__",
    "sft": "unigrpo.sft",
    "estimate": "unigrpo.training.estimate.command",
}


@pytest.fixture(autouse=True)
def _same_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def passed(monkeypatch):
    """Words that came to the module behind each subcommand; each says that it has failed."""
    heard = {}
    for name, module in MAINS.items():
        monkeypatch.setattr(f"{module}.main", lambda words, name=name: heard.setdefault(name, words) and 1)
    return heard


@pytest.mark.parametrize("name", MAINS)
def test_a_subcommand_gets_its_words_and_gives_its_exit_code(name, passed):
    assert main([name, "a=1", "--help", "-n"]) == 1
    assert passed == {name: ["a=1", "--help", "-n"]}


def test_the_doctor_needs_no_grid_but_looks_at_what_it_is_told(passed):
    main(["doctor", "grid=credit", "root=elsewhere", "action=run"])
    assert passed == {"sweep": ["grid=kl_vs_mse", "grid=credit", "root=elsewhere", "action=run", "action=doctor"]}


def test_the_doctor_looks(tmp_path, capsys):
    assert main(["doctor", f"root={tmp_path}"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_the_registry_is_listed(capsys):
    assert main(["registry"]) == 0
    assert "velocity_mse" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["registry", "regularizer"])


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words, capsys):
    assert main(words) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in COMMANDS)
    assert told.isascii()


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unigrpo {unigrpo.__version__}\n"


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("trian", "did you mean 'train'?"),
        ("Sweep", "did you mean 'sweep'?"),
        ("reports", "did you mean 'report'?"),
        ("grid=kl_vs_mse", "choose one of: certify, doctor, estimate, registry, report, sft, sweep, train"),
        ("", "choose one of"),
        ("--dry-run", "choose one of"),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest(word, advice, capsys):
    assert main([word, "--help"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error: unknown command {word!r}")
    assert advice in told.err


def test_a_faulty_configuration_is_an_error_and_no_traceback(monkeypatch, capsys):
    def fail(words):
        raise ConfigError("like: no such checkpoint")

    monkeypatch.setattr("unigrpo.sft.main", fail)
    assert main(["sft", "x", "like=nosuch"]) == 2
    assert capsys.readouterr().err == "error: like: no such checkpoint\n"


def test_strategies_are_found_in_the_present_folder_and_hide_nothing(passed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train"])
    assert sys.path[-1] == str(tmp_path)
