"""The moving average of what an optimiser trains, against its closed form in float64."""

from __future__ import annotations

import math

import pytest
import torch

from unigrpo.errors import ConfigError
from unigrpo.models.adapters import Ema, Lora, average
from unigrpo.plain import build_strategy

STEPS = 14


def walked(decay: float, every: int, late: int = 0):
    """Two weights after some steps, all places of the first, and the optimiser; the second waits for its gradient."""
    first, second = (torch.nn.Parameter(torch.full((3,), float(k + 1), dtype=torch.float64)) for k in range(2))
    optimizer = torch.optim.AdamW([first, second], lr=0.1)
    Ema(decay=decay, every=every).follow(optimizer)
    places = [first.detach().clone()]
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = (first * torch.tensor([1.0, -2.0, math.sin(step)])).sum()
        (loss + second.sum() * (step >= late) if step >= late else loss).backward()
        optimizer.step()
        places.append(first.detach().clone())
    return (first, second), places, optimizer


def closed_form(places: list[torch.Tensor], decay: float, every: int) -> torch.Tensor:
    """The start and every k-th place, each by the share that all later moves leave of it."""
    moves = range(every, len(places), every)
    kept = {n: min(n / (n + 9), decay) for n in moves}
    shares = {0: 1.0} | {n: 1 - kept[n] for n in moves}
    return sum(share * math.prod(kept[m] for m in moves if m > n) * places[n] for n, share in shares.items())


@pytest.mark.parametrize(("decay", "every"), [(0.9, 1), (0.5, 1), (0.5, 4), (0.0, 5), (0.9, 20)])
def test_the_average_is_the_weighted_sum_of_places(decay, every):
    (first, _), places, optimizer = walked(decay, every)
    torch.testing.assert_close(optimizer.state[first][average.AVERAGE], closed_form(places, decay, every))


def test_a_weight_whose_gradient_comes_late_is_averaged_from_its_start_by_the_steps_of_all():
    (_, second), _, optimizer = walked(0.9, 4, late=STEPS - 3)
    d = 12 / 21  # at step 12, the last that moves the average
    start, then = torch.full((3,), 2.0, dtype=torch.float64), 2.0 * (1 - 0.1 * 0.01) - 0.1  # AdamW's decay and sign
    found = optimizer.state[second][average.AVERAGE]
    torch.testing.assert_close(found, d * start + (1 - d) * then, rtol=0, atol=1e-7)


def test_weights_that_never_move_have_no_average():
    (_, second), _, optimizer = walked(0.9, 1, late=STEPS)
    assert second not in optimizer.state


def test_weights_are_their_averages_for_a_while_in_the_same_memory():
    (first, _), places, optimizer = walked(0.5, 1)
    memory, kept = first.data_ptr(), optimizer.state[first][average.AVERAGE].clone()

    def fail_within() -> None:
        with average.in_place(optimizer):
            assert torch.equal(first, kept)
            assert first.data_ptr() == memory
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert torch.equal(first, places[-1])
    assert torch.equal(optimizer.state[first][average.AVERAGE], kept)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 1.0}, r"decay=1\.0: expected a share"),
        ({"decay": -0.1}, r"decay=-0\.1: expected a share"),
        ({"every": 0}, r"every=0: expected 1 optimiser step or more"),
        ({"inner": "ema"}, r"inner=ema: an average of an average"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build_strategy("adapter", {"name": "ema", **fields}, "adapter")


def test_it_asks_what_it_averages(tmp_path):
    assert Ema().trains_all
    lora = Ema(Lora(start=str(tmp_path)))
    assert (lora.trains_all, lora.start) == (False, str(tmp_path))
    assert [*lora.conflicts(None)] == [f"inner=lora: {reason}" for reason in lora.inner.conflicts(None)] != []
    (tmp_path / "adapter_config.json").write_text("{}")
    assert lora.digest() == lora.inner.digest() != ""
