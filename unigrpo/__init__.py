"""UniGRPO: reinforcement learning for unified text-and-image models, one switch per choice."""
