"""The flow: time points, stochastic dynamics, which steps are stochastic, guidance."""
