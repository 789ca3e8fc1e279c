"""The two stages of training: the supervised warm-up and reinforcement learning."""
