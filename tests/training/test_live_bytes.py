"""Bytes alive, against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from unigrpo.training.estimate.live import LiveBytes
from unigrpo.training.estimate.weightless import tensors_of, without_weights

CPU = torch.device("cpu")


@pytest.fixture
def live():
    return LiveBytes(CPU)


@pytest.fixture
def layer():
    """A fake product of 1000 x 500 weights."""
    module = nn.Linear(1000, 500, bias=False)
    without_weights([module], CPU)
    return module


def test_what_is_freed_no_longer_counts_and_the_peak_stays(live):
    with live, live.phase("a"):
        first = torch.ones(1000)
        second = first + 1
        assert live.now == 8000
        del first
        assert live.now == 4000
        del second
    assert (live.now, live.peaks["a"]) == (0, 8000)


def test_a_view_is_its_storage_and_counts_once(live):
    with live:
        whole = torch.ones(10, 100)
        part = whole[:3].t()
        del whole
        assert live.now == 4000
        del part
        assert live.now == 0


def test_a_phase_begins_with_what_is_alive_and_keeps_the_highest_of_several_times(live):
    with live:
        kept = torch.ones(250)
        for size in (750, 500):
            with live.phase("a"):
                torch.ones(size)
        torch.ones(5000)
    assert live.peaks["a"] == 4 * (250 + 750)
    assert kept.numel() == 250


def test_what_is_there_already_is_counted_once(live):
    shared = nn.Linear(10, 10, bias=False)
    assert live.hold(tensors_of([shared])) == 400
    assert live.hold(tensors_of([nn.Sequential(shared, nn.Linear(10, 5, bias=False))])) == 200


def test_autograd_keeps_of_fake_tensors_what_it_keeps_of_real_ones(live, layer):
    weights = live.hold([layer.weight])
    assert weights == 4 * 1000 * 500
    with live:
        x = torch.ones(8, 1000)
        hidden = layer(x).relu()  # keeps x and its own result
        del x
        assert isinstance(hidden, FakeTensor)
        assert live.now == weights + 4 * (8 * 1000 + 8 * 500)
        hidden.sum().backward()
        assert live.now == 2 * weights + 4 * 8 * 500  # the gradient, and the result that still has a name


def test_where_values_would_tell_results_are_as_large_as_can_be(live, layer):
    x = torch.ones(8, 1000)
    with live:
        fake = layer(x)
        known = torch.tensor([True, False, True, False, False, False, False, False])
        assert fake[fake > 0].shape == (8 * 500,)
        assert fake[known].shape == (2, 500)
        assert fake.sum().item() == 0.0


def test_shared_weights_stay_shared():
    first, second = nn.Linear(10, 10), nn.Linear(10, 10)
    second.weight = first.weight
    first.weight.requires_grad_(False)
    without_weights([first, nn.Sequential(second)], CPU)
    assert first.weight is second.weight
    assert isinstance(first.weight, nn.Parameter)
    assert not first.weight.requires_grad
    assert first.bias is not second.bias
    assert second.bias.requires_grad
