"""How a worker ended, as a session reports it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ablations.worker import Outcome


@dataclass(frozen=True)
class End:
    """The end of a worker: the outcome that it reported, or what is known of its death."""

    outcome: Outcome | None
    """None if it died before it could report one, or if it was ended unrequested."""
    cause: str = "killed"
    """Of a death: ``killed``, ``oom``, ``timeout``, ``preempted``, ``node_failure`` or ``cancelled``."""
    message: str = ""
    """One line for tables."""
    log: str = ""
    """The last part of its output."""
    job: str = ""
    """The Slurm job that ended; empty without Slurm."""
    pid: int = 0
    """Without Slurm, its process on this machine; 0 is the current process."""

    @property
    def last_words(self) -> str:
        """The last line of its log; lines of srun, which come after the cause, are skipped."""
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
