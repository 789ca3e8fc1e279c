"""How often ladders that are compared at one level (:mod:`reports.ladder`) are judged wrongly, by simulated sweeps.

All runs lie on one frontier, so that every difference that is shown is false.  Two ways of reading a ladder see the
same sweeps: straight lines between a seed's rungs, as reports do, and a least-squares line of each measure in the
logarithm of the strength, which reaches every level.  ``python -m reports.simulation SWEEPS ladders`` runs these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reports import drawn, ladder
from reports.pairs import families
from reports.records import At, Contrast, Sweep
from reports.statistics.intervals import Floats
from reports.verdict import verdict

#: Mean proxy of each ladder's rungs, weakest first; both begin with the arm without a penalty.
PROXIES: Mapping[str, tuple[float, ...]] = {"kl": (0.793, 0.775, 0.748, 0.71), "mse": (0.793, 0.785, 0.765, 0.72)}
#: Strengths of the rungs, those of ``grid=kl_vs_mse_ladder`` in thousandths.
STRENGTHS = (0, 1, 3, 10)
#: Standard deviation of what an evaluation adds to each measure.
NOISE = 0.008

_HELD = "proxy"
_RUNGS = {name: ("none", *(f"{name}{rung}" for rung in range(1, len(proxies)))) for name, proxies in PROXIES.items()}
_PLANNED = (Contrast("mse", "kl", (("mse", "kl"),)),)


def straight(proxy: Floats) -> Floats:
    """As much of the true score is lost as the proxy gains."""
    return 1 - proxy


def bent(proxy: Floats) -> Floats:
    """The true score is best at a proxy of .75, and falls off slowly."""
    return np.asarray(0.25 - 5 * (proxy - 0.75) ** 2)


def bent_sharply(proxy: Floats) -> Floats:
    """The same, six times as fast."""
    return np.asarray(0.25 - 30 * (proxy - 0.75) ** 2)


@dataclass(frozen=True)
class Ladders:
    """A kind of sweep of two ladders on one frontier.

    Attributes:
        frontier: the mean true score at a proxy.
        level: of the proxy, at which the true scores are compared.
        spread: standard deviations over runs of the proxy, and of the true score beside it; a third of each variance
            is shared by the runs of a seed.
        follows: whether a run whose proxy is higher by chance lies further along the frontier; else its true score
            is that of the mean proxy.
        seeds: of each rung.
    """

    frontier: Callable[[Floats], Floats]
    level: float
    spread: tuple[float, float] = (0.02, 0.02)
    follows: bool = True
    seeds: int = 10

    @property
    def name(self) -> str:
        """In the table."""
        shape = self.frontier.__name__.replace("_", " ")
        return f"ladders, {shape} frontier" + ("" if self.follows else ", runs beside it")

    def draw(self, rng: np.random.Generator) -> dict[str, dict[str, Floats]]:
        """Arm -> measure -> values [seeds] of one sweep."""
        means = {rung: mean for name in PROXIES for rung, mean in zip(_RUNGS[name], PROXIES[name], strict=True)}
        mean, shape = np.array([*means.values()])[:, None], (len(means), self.seeds)
        chance, beside = (s / drawn.SPREAD * drawn.correlated(rng, *shape) for s in self.spread)
        proxy = mean + chance
        score = self.frontier(proxy if self.follows else mean) + beside
        found = (values + NOISE * rng.standard_normal(shape) for values in (proxy, score))
        return {rung: {_HELD: x, drawn.SCORE: y} for rung, x, y in zip(means, *found, strict=True)}

    def row(self, sweeps: int) -> dict[str, Any]:
        """Simulate ``sweeps`` of it: shares of them, but for ``unreached``, which is a share of their seeds.

        ``shown`` and ``refused`` (no verdict) are of straight lines between rungs, ``shown_fitted`` of fitted lines.
        """
        rng = np.random.default_rng([*f"{self.name} {self.level} {self.spread}".encode()])
        shown = refused = fitted = unreached = 0
        for _ in range(sweeps):
            arms = self.draw(rng)
            sweep = between_rungs(arms, self.level)
            unreached += sum(cell.state == "failed" for cell in sweep.derived[0].cells)
            refused += bool(ladder.refusal(sweep))
            shown += _shown(sweep)
            fitted += _shown(along_fits(arms, self.level))
        shares = {"shown": shown, "refused": refused, "unreached": unreached / self.seeds, "shown_fitted": fitted}
        told = {"scenario": self.name, "level": self.level, "spread": list(self.spread), "seeds": self.seeds}
        return told | {"test": "sign_flip", "sweeps": sweeps} | {key: n / sweeps for key, n in shares.items()}


def between_rungs(arms: Mapping[str, Mapping[str, Floats]], level: float) -> Sweep:
    """The sweep of these rungs as a report has it: its ladders are read between the rungs of each seed."""
    at = At(_HELD, level, _RUNGS)
    sweep = drawn.sweep(arms, _PLANNED, at=at)
    return replace(sweep, derived=ladder.derived(sweep.arms, at, drawn.SCORE, sweep.seeds))


def along_fits(arms: Mapping[str, Mapping[str, Floats]], level: float) -> Sweep:
    """A sweep of two arms: the ladders, read where the line of each seed's proxy has the level."""
    logs, found = np.log1p(STRENGTHS), {}
    for name in ("kl", "mse"):
        held, read = (
            np.polyfit(logs, [arms[rung][measure] for rung in _RUNGS[name]], 1) for measure in (_HELD, drawn.SCORE)
        )
        found[name] = {drawn.SCORE: read[1] + read[0] * (level - held[1]) / held[0]}
    return drawn.sweep(found, _PLANNED)


def _shown(sweep: Sweep) -> bool:
    found = () if ladder.refusal(sweep) else (next(families(sweep)),)
    return verdict(sweep, found).status == "difference shown"


def ladders() -> Iterator[Ladders]:
    """All scenarios of the table."""
    for spread in ((0.02, 0.02), (0.03, 0.045)):
        for frontier, levels in (
            (straight, (0.74, 0.76, 0.78)),
            (bent, (0.74, 0.76, 0.78)),
            (bent_sharply, (0.72, 0.74, 0.76, 0.78)),
        ):
            for level in levels:
                yield Ladders(frontier, level, spread)
    for frontier in (straight, bent, bent_sharply):
        yield Ladders(frontier, 0.76, follows=False)
