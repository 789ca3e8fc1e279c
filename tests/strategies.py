"""Hypothesis generators of what the mathematics is about: rewards, latents, times, log-probabilities, masks."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from unigrpo.flow.dynamics import Cps, DanceSde, FlowSde

DOUBLE = torch.float64


def reals(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats in [low, high] that differ from 0 by nothing or by something that arithmetic can see."""
    return st.floats(low, high, allow_nan=False).map(lambda x: 0.0 if abs(x) < 1e-9 else x)


def tensors(shape: tuple[int, ...], low: float = -3.0, high: float = 3.0) -> st.SearchStrategy[Tensor]:
    """Float64 tensors of ``shape`` with entries in [low, high]."""
    return hnp.arrays("float64", shape, elements=reals(low, high)).map(torch.from_numpy)


def spread(shape: tuple[int, ...], scale: float = 1.0) -> st.SearchStrategy[Tensor]:
    """Float64 normal draws of ``shape``: entries that all differ, where special values would only be in the way."""
    return st.integers(0, 2**31 - 1).map(
        lambda seed: scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    )


@st.composite
def rewards(draw: st.DrawFn, components: int = 1) -> Tensor:
    """Rewards [P, G, K]: verdicts (0 or 1, many ties) or scores."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 8)), components)
    verdicts = hnp.arrays("float64", shape, elements=st.sampled_from([0.0, 0.5, 1.0])).map(torch.from_numpy)
    return draw(st.one_of(verdicts, tensors(shape, -2.0, 2.0), spread(shape)))


@st.composite
def masks(draw: st.DrawFn, batch: int = 3, length: int = 5) -> Tensor:
    """Right-padded masks [B, L]; rows may be empty."""
    lengths = draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def present(shape: tuple[int, int]) -> st.SearchStrategy[Tensor]:
    """Which members of groups [P, G] there are; groups may be empty."""
    return hnp.arrays("bool", shape).map(torch.from_numpy)


@st.composite
def steps(draw: st.DrawFn, high: float = 0.98) -> tuple[Tensor, Tensor, Tensor]:
    """``(t, t_next, t_second)`` of one step that starts at or below ``high``."""
    t = draw(st.floats(0.05, high))
    t_next = t * draw(st.floats(0.1, 0.95))
    return torch.tensor(t, dtype=DOUBLE), torch.tensor(t_next, dtype=DOUBLE), torch.tensor(0.99, dtype=DOUBLE)


def sdes(reduction: str = "mean") -> st.SearchStrategy[FlowSde | DanceSde]:
    """Gaussian dynamics."""
    level = st.floats(0.1, 1.5)
    return st.one_of(
        level.map(lambda a: FlowSde(a=a, reduction=reduction)), level.map(lambda a: DanceSde(a=a, reduction=reduction))
    )


def noisy(reduction: str = "mean") -> st.SearchStrategy[FlowSde | DanceSde | Cps]:
    """Dynamics whose steps have noise."""
    return st.one_of(sdes(reduction), st.floats(0.1, 1.0).map(lambda eta: Cps(eta=eta, reduction=reduction)))
