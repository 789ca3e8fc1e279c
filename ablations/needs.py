"""``action=estimate``: what one run of each arm needs, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ablations.arms import Cell


def needs_lines(cells: Sequence[Cell]) -> Iterator[str]:
    """A line for each arm that trains, made when it is asked for, and whether the largest fits on the GPUs here."""
    from unigrpo.training.estimate.command import gpus_here, size
    from unigrpo.training.estimate.needs import estimate

    first = {cell.arm: cell.config for cell in reversed(cells) if cell.config.optim.updates}
    arms = {arm: first[arm] for arm in dict.fromkeys(cell.arm for cell in cells) if arm in first}
    width, largest = max(map(len, ("arm", *arms))), 0
    head = f"{'arm':<{width}}  {'most memory':>12} {'in':<10} {'images':>7} {'tokens':>8}"
    yield f"{head}  velocity evaluations, an update"
    for arm, config in arms.items():
        found = estimate(config)
        largest = max(largest, found.peak)
        phase = max(found.peaks, key=lambda name: found.peaks[name])
        counted = ", ".join(f"{count} {name}" for name, count in found.velocities.items())
        yield (f"{arm:<{width}}  {size(found.peak):>12} {phase:<10} {found.images:>7} {found.tokens:>8}  {counted}")
    yield from (gpu.told(largest) for gpu in gpus_here())
