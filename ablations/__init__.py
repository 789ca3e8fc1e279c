"""Grids of runs: planned, trained, tracked and reported by one command, ``python -m ablations.sweep``."""
