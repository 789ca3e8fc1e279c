"""Reinforcement learning: the trainer, runs, evaluations."""
