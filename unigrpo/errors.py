"""The exceptions that decide how a run or a command ends; nothing heavy is needed to name them."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run: names the field, what was expected, what came, the nearest valid choice."""


class CheckpointError(RuntimeError):
    """No usable checkpoint where there should be one; the message names the file and the way out."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient is not finite; the message says which, when and what to look at."""


class RatioGuardError(RuntimeError):
    """On-policy ratios are not 1: sampling and replay disagree by more than the clip band allows."""


class RewardError(RuntimeError):
    """A reward could not be had; the message names it.  Nothing is guessed in its place."""


class Stopped(Exception):
    """The run was asked to stop; it is checkpointed and can be resumed."""
