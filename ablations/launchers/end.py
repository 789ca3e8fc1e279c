"""How a worker ended, as a session reports it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ablations.worker import Outcome


@dataclass(frozen=True)
class End:
    """The end of a worker: what it said of itself, or what is known of its death."""

    outcome: Outcome | None
    """None if it died before it could say anything, or was ended although nobody here had asked for that."""
    cause: str = "killed"
    """Of a death: ``killed``, ``oom``, ``timeout``, ``preempted``, ``node_failure`` or ``cancelled``."""
    message: str = ""
    """One line for tables."""
    log: str = ""
    """The end of what it printed."""
    job: str = ""
    """The Slurm job that is over."""
    pid: int = 0
    """Else the process, of this machine; 0 is the present one."""

    @property
    def last_words(self) -> str:
        """The last line of its log; what srun says of the end of everything comes after what matters."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return next((line for line in reversed(lines) if not line.startswith("srun:")), lines[-1] if lines else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for :meth:`of_json`."""
        return asdict(self)

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> End:
        """What :meth:`to_json` gave."""
        outcome = data["outcome"]
        return cls(**{**data, "outcome": None if outcome is None else Outcome(outcome)})

    @classmethod
    def of_exit(cls, code: int, pid: int = 0) -> End:
        """The end of the process ``pid`` with exit code ``code``, or killed by signal ``-code``."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = ", as the kernel does where memory runs out" if code == -signal.SIGKILL else ""
        return cls(Outcome(code) if code in set(Outcome) else None, message=f"its process {how}{hint}", pid=pid)
