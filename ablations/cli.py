"""The command ``unigrpo``: a subcommand for each ``python -m`` of the project, with the same arguments.

It is in the topmost package, as it starts commands of all packages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

import unigrpo
from unigrpo.errors import ConfigError
from unigrpo.registry import nearest

_MISTAKE = 2


def _train(words: list[str]) -> int:
    from unigrpo.training.command import main

    return main(words)


def _sweep(words: list[str]) -> int:
    from ablations.sweep import main

    return main(words)


def _report(words: list[str]) -> int:
    from reports.__main__ import main

    return main(words)


def _sft(words: list[str]) -> int:
    from unigrpo.sft import main

    return main(words)


def _registry(words: list[str]) -> int:
    from unigrpo.registry.__main__ import main

    main(words)
    return 0


def _doctor(words: list[str]) -> int:
    # It checks the folder and the launcher; any grid will do.
    return _sweep(["grid=kl_vs_mse", *words, "action=doctor"])


def _estimate(words: list[str]) -> int:
    from unigrpo.training.estimate.command import main

    return main(words)


def _certify(words: list[str]) -> int:
    from unigrpo.models.pipelines.certify import main

    return main(["recipe=unigrpo", *words])


#: Subcommand -> what it does, for the help, and how.
COMMANDS: Mapping[str, tuple[str, Callable[[list[str]], int]]] = {
    "train": ("train one run: recipe=NAME [key=value ...]", _train),
    "sweep": ("train, measure and compare the arms of a grid: grid=NAME [key=value ...]", _sweep),
    "report": ("write the report of a sweep again: FOLDER | GRID", _report),
    "sft": ("fine-tune on prompts with answers: FOLDER dataset=jsonl dataset.path=FILE [key=value ...]", _sft),
    "certify": ("replay a pipeline's own call and say how far it agrees: model=diffusers model.path=FOLDER", _certify),
    "estimate": ("say what a run needs before anything is loaded: recipe=NAME [gpu_gb=80] [key=value ...]", _estimate),
    "registry": ("list slots, strategies, fields and sources", _registry),
    "doctor": ("say what has to be fixed before a sweep can run here: [launcher=slurm ...]", _doctor),
}


def help_text() -> str:
    """What ``--help`` prints."""
    lines = [f"  {name:<9} {what}" for name, (what, _) in COMMANDS.items()]
    usage = "usage: unigrpo COMMAND [argument ...]\n       unigrpo --version | --help"
    return "\n".join([usage, "", *lines, "", "unigrpo train --help, unigrpo sweep --help ... say more"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code of the subcommand, or 2 for a mistake in the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"unigrpo {unigrpo.__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}{nearest(name, COMMANDS)}", file=sys.stderr)
        return _MISTAKE
    # Strategies may be in the current folder. It comes last, so that nothing in it hides a module of the project.
    sys.path.append(os.getcwd())
    try:
        return COMMANDS[name][1](rest)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return _MISTAKE
