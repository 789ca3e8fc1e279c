import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unigrpo.config import RunConfig
from unigrpo.flow.window import AllSteps, RandomWindow, Scattered, Sliding

UPDATES = st.integers(0, 500)
SEEDS = st.integers(0, 1000)


@st.composite
def windows(draw):
    """A window with a number of steps that it fits."""
    steps, size = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    size = min(size, steps)
    low = draw(st.integers(0, steps - size))
    high = draw(st.integers(low + size, steps))
    window = draw(
        st.sampled_from(
            [
                AllSteps(),
                RandomWindow(size, low, high),
                Sliding(size, draw(st.integers(1, 5)), draw(st.integers(1, 30))),
                Scattered(size),
            ]
        )
    )
    return window, steps, size


@given(windows(), UPDATES, SEEDS)
def test_a_window_is_a_sorted_set_of_steps_of_its_size(case, update, seed):
    window, steps, size = case
    chosen = window(steps, update, random.Random(seed))
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(range(steps))
    assert len(chosen) == (steps if isinstance(window, AllSteps) else size)
    if isinstance(window, RandomWindow | Sliding):
        assert chosen[-1] - chosen[0] == size - 1
    assert chosen == window(steps, update, random.Random(seed))


@given(windows(), st.integers(1, 200), SEEDS)
def test_no_update_of_a_run_goes_beyond_the_declared_end(case, updates, seed):
    window, steps, _ = case
    rng = random.Random(seed)
    reached = max(window(steps, update, rng)[-1] for update in range(updates)) + 1
    assert reached <= window.end(steps, updates) <= steps
    if isinstance(window, AllSteps | Sliding):
        assert reached == window.end(steps, updates)


def test_random_window_reaches_every_place_between_low_and_high_alike():
    window, rng, draws = RandomWindow(size=3, low=1, high=6), random.Random(0), 3000
    starts = [window(10, 0, rng)[0] for _ in range(draws)]
    assert set(starts) == {1, 2, 3}
    for start in (1, 2, 3):
        assert starts.count(start) == pytest.approx(draws / 3, rel=0.1)


def test_scattered_reaches_every_step_alike():
    rng = random.Random(0)
    drawn = [step for _ in range(2000) for step in Scattered(2)(8, 0, rng)]
    for step in range(8):
        assert drawn.count(step) == pytest.approx(500, rel=0.15)


def test_sliding_moves_by_its_stride_and_stops_at_the_end():
    window, rng = Sliding(size=2, stride=2, every=3), random.Random(0)
    chosen = [window(7, update, rng) for update in range(12)]
    assert chosen == [(0, 1)] * 3 + [(2, 3)] * 3 + [(4, 5)] * 3 + [(5, 6)] * 3


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (RandomWindow, {"size": 0}),
        (RandomWindow, {"size": 3, "low": 2, "high": 4}),
        (RandomWindow, {"low": -1}),
        (Sliding, {"size": 0}),
        (Sliding, {"stride": 0}),
        (Sliding, {"every": 0}),
        (Scattered, {"size": 0}),
    ],
)
def test_impossible_windows_are_refused(cls, fields):
    with pytest.raises(ValueError, match="expected"):
        cls(**fields)


@pytest.mark.parametrize(
    "window",
    [
        {"name": "random_window", "low": 0, "high": 9},
        {"name": "sliding", "size": 9},
        {"name": "scattered", "size": 9},
    ],
)
def test_windows_beyond_the_samplers_steps_are_refused_before_a_run(window):
    def conflicts(steps):
        config = RunConfig.from_dict({"window": window, "sampler": {"steps": steps}})
        return list(config.window.conflicts(config))

    (reason,) = conflicts(8)
    assert "sampler.steps=8" in reason
    assert conflicts(9) == []
