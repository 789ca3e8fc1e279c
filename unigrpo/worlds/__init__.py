"""Worlds: drawn images with exact judges, the first plugins; the rest of the library knows none of them."""

#: Slot -> modules that register a world's strategies of it.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "dataset": ("unigrpo.worlds.shapes.dataset",),
    "reward": ("unigrpo.worlds.shapes.rewards",),
    "metric": ("unigrpo.worlds.shapes.metrics",),
    "text_scorer": ("unigrpo.worlds.shapes.rewards.scorers",),
    "image_scorer": ("unigrpo.worlds.shapes.rewards.scorers",),
}
