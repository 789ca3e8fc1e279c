"""Writes ``equations.md``: which formula of which paper is where.  ``python docs/equations.py``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from unigrpo import registry

HERE = Path(__file__).parent
HEAD = """# Equations

Which formula of which paper is in which file, as the strategies themselves declare it (`source=`); made by
`python docs/equations.py`. Beside them: the score term of the SDE is in `unigrpo/flow/dynamics.py`, time points in
`unigrpo/flow/schedule.py`, the joint loss (UniGRPO eq. 7) in `unigrpo/objective/loss.py`. Under guidance,
`guidance.penalty` says which velocity a penalty compares with the reference's, the guided or the conditional one
(`unigrpo/rollout/heads/flow.py`); latent KL is `w(t) ||v - v_ref||^2` of either.

| slot | strategy | paper, equation | file |
| --- | --- | --- | --- |
"""


def rows(*, lines: bool = False) -> Iterator[str]:
    """One row for each shipped strategy; with ``lines``, which change from day to day, its link leads to its line."""
    for slot in registry.slots():
        for name, cls in registry.strategies(slot).items():
            if cls.__module__.startswith("unigrpo."):
                file = Path(inspect.getfile(cls)).relative_to(HERE.parent).as_posix()
                number = inspect.getsourcelines(cls)[1] if lines else 0
                shown, target = (f"{file}:{number}", f"{file}#L{number}") if lines else (file, file)
                source = getattr(cls, "source", "").replace("|", "\\|")
                yield f"| `{slot}` | `{name}` | {source} | [{shown}](../{target}) |"


def page(*, lines: bool = False) -> str:
    """The whole page."""
    return HEAD + "\n".join(rows(lines=lines)) + "\n"


if __name__ == "__main__":
    (HERE / "equations.md").write_text(page(), encoding="utf-8")
