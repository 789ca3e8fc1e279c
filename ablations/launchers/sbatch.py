"""Options of sbatch from the user: which ones are passed on, and which belong to the launcher."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from unigrpo.errors import ConfigError
from unigrpo.registry import nearest

#: Short form -> name.
_SHORT = {
    "A": "account", "B": "extra-node-info", "C": "constraint", "D": "chdir", "F": "nodefile", "G": "gpus", "H": "hold",
    "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes", "O": "overcommit", "Q": "quiet", "S": "core-spec",
    "V": "version", "W": "wait", "a": "array", "b": "begin", "c": "cpus-per-task", "d": "dependency", "e": "error",
    "h": "help", "i": "input", "k": "no-kill", "m": "distribution", "n": "ntasks", "o": "output", "p": "partition",
    "q": "qos", "s": "oversubscribe", "t": "time", "v": "verbose", "w": "nodelist", "x": "exclude",
}  # fmt: skip
#: Other names of an option, or of its negation -> its name.
_SAME = {"no-requeue": "requeue", "tasks-per-node": "ntasks-per-node", "share": "oversubscribe", "workdir": "chdir"}

_PROCESSES = "launcher.gpus and launcher.nodes say how many processes there are"
_LOGS = "the sweeper looks for the logs of its jobs in its own folder; what a cell prints is in its log.txt"
_ANSWER = "the sweeper reads what sbatch answers, at once"
#: Option that belongs to the launcher -> why, or what to set instead.
_OWNED = {
    "account": "use launcher.account",
    "array": "the sweeper makes the arrays; launcher.max_parallel=N keeps N jobs running at a time",
    "clusters": "set SLURM_CLUSTERS in the environment, which every command of Slurm's reads",
    "constraint": "use launcher.constraint",
    "cpus-per-gpu": "use launcher.cpus",
    "cpus-per-task": "use launcher.cpus",
    "dependency": "the sweeper orders its arrays by it; begin=TIME starts the jobs later",
    "error": _LOGS,
    "gpus": "use launcher.gpus",
    "gpus-per-socket": "use launcher.gpus",
    "gpus-per-task": "use launcher.gpus",
    "help": _ANSWER,
    "input": _LOGS,
    "mem": "use launcher.mem_gb",
    "nodes": "use launcher.nodes",
    "ntasks": _PROCESSES,
    "ntasks-per-core": _PROCESSES,
    "ntasks-per-gpu": _PROCESSES,
    "ntasks-per-node": _PROCESSES,
    "ntasks-per-socket": _PROCESSES,
    "open-mode": _LOGS,
    "output": _LOGS,
    "parsable": _ANSWER,
    "partition": "use launcher.partition",
    "qos": "use launcher.qos",
    "quiet": _ANSWER,
    "requeue": "jobs are always queued again after a time limit or a preemption, which is how a cell goes on",
    "signal": "use launcher.signal_s",
    "test-only": "use dry_run=true",
    "time": "use launcher.minutes",
    "usage": _ANSWER,
    "version": _ANSWER,
    "wait": _ANSWER,
    "wrap": "use launcher.setup",
}
#: Options that the launcher sets if the user does not.
_WRITTEN = ("job-name", "gpus-per-node")
#: Options of the launcher that the site decides if the launcher's own fields are empty.
_OF_THE_SITE = {"account", "constraint", "mem", "partition", "qos"}
#: Options of which sbatch accepts only one.
_MEMORY = {"mem", "mem-per-cpu", "mem-per-gpu"}
#: Variable of sbatch, without SBATCH_ -> its option, if they have different names.
_VARIABLES = {
    "ARRAY_INX": "array", "BURST_BUFFER": "bb", "DEBUG": "verbose", "MEM_PER_NODE": "mem", "NO_REQUEUE": "requeue",
    "REQ_SWITCH": "switches", "TIMELIMIT": "time", "WAIT4SWITCH": "switches",
}  # fmt: skip


def read_options(given: Mapping[str, str]) -> dict[str, str | bool]:
    """Long name -> value of each option; True for one without a value, False for one that is switched off.

    Raises:
        ConfigError: an option belongs to the launcher, or cannot be passed on.
    """
    options: dict[str, str | bool] = {}
    for written, value in given.items():
        where = f"launcher.sbatch.{written}"
        name = _long(written, where)
        if name in _OWNED:
            raise ConfigError(f"{where}: {_OWNED[name]}")
        if name in options:
            raise ConfigError(f"{where}: --{name} is given twice")
        check_text(where, value)
        options[name] = value == "true" if value in ("true", "false") else value
    return options


def check_text(where: str, text: str) -> None:
    """Check that sbatch reads ``text`` unchanged.

    Raises:
        ConfigError: it has a line end or a backslash, which sbatch interprets even inside quotes.
    """
    if not text.isprintable() or "\\" in text:
        raise ConfigError(f"{where}={text!r}: expected one line of text without backslashes")


def check_gpus(options: Mapping[str, str | bool], gpus: int) -> None:
    """Check that an option with a type of GPU (``gpus-per-node: a100:2``) has the number that the launcher has.

    Raises:
        ConfigError: the numbers differ.
    """
    for name in ("gpus-per-node", "gres"):
        for part in str(options.get(name, "")).split(","):
            kind, _, number = part.removeprefix("gres:").rpartition(":")
            if name == "gres" and (kind or number).partition(":")[0] == "gpu":
                raise ConfigError("launcher.sbatch.gres: launcher.gpus asks for GPUs; for a type: gpus-per-node=TYPE:N")
            if name == "gpus-per-node" and part and (not kind or number != str(gpus)):
                raise ConfigError(f"launcher.sbatch.{name}={part}: expected TYPE:{gpus}, as launcher.gpus={gpus} says")


def from_environment(environment: Mapping[str, str], said: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Variables of sbatch that do not change the options ``said``, and those that would override them."""
    kept: dict[str, str] = {}
    beating: dict[str, str] = {}
    for variable, value in environment.items():
        if variable.startswith("SBATCH_"):
            (beating if _beats(variable.removeprefix("SBATCH_"), value, said) else kept)[variable] = value
    return kept, beating


def _beats(variable: str, value: str, said: Collection[str]) -> bool:
    name = _VARIABLES.get(variable, variable.lower().replace("_", "-"))
    if name in said or (name in _OWNED and name not in _OF_THE_SITE):
        return True
    if name in ("gpus-per-node", "gres") and "gpu" in f"{name}:{value}":
        return True
    return name in _MEMORY and not _MEMORY.isdisjoint(said)


def _long(written: str, where: str) -> str:
    """The long name of an option, which may be written as on sbatch's command line."""
    name = written.lstrip("-")
    if len(name) == 1:
        if name not in _SHORT:
            raise ConfigError(f"{where}: no option of sbatch{nearest(name, _SHORT)}")
        name = _SHORT[name]
    name = name.lower().replace("_", "-")
    name = _SAME.get(name, name)
    if not name.replace("-", "").isalnum():
        raise ConfigError(f"{where}: expected the name of an option of sbatch, as in {{nice: 100, exclusive: true}}")
    # sbatch accepts unique prefixes of a name; none of these names is a prefix of another.
    known = (*_OWNED, *_SAME, *_WRITTEN)
    if name not in known and (meant := [one for one in known if one.startswith(name)]):
        raise ConfigError(f"{where}: sbatch may read it as {' or '.join(meant)}; write the whole name")
    return name
