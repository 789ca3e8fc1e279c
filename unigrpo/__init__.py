"""UniGRPO: reinforcement learning for unified text-and-image models, one switch per choice."""

__version__ = "0.1.0"
