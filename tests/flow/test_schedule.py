import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unigrpo.flow.schedule import time_points

STEPS = st.integers(1, 50)
SHIFTS = st.floats(1, 10)


@given(STEPS, SHIFTS)
def test_n_steps_have_n_plus_1_falling_points_from_exactly_1_to_exactly_0(steps, shift):
    t = time_points(steps, shift)
    assert (t.dtype, t.shape) == (torch.float64, (steps + 1,))
    assert (t[0].item(), t[-1].item()) == (1.0, 0.0)
    assert (t.diff() < 0).all()


@given(STEPS, SHIFTS)
def test_shift_follows_its_formula_and_leaves_1_uniform(steps, shift):
    u = time_points(steps)
    torch.testing.assert_close(u.diff(), torch.full((steps,), -1 / steps, dtype=torch.float64))
    t = time_points(steps, shift)
    torch.testing.assert_close(t, shift * u / (1 + (shift - 1) * u))
    torch.testing.assert_close(t / (shift - (shift - 1) * t), u, atol=1e-12, rtol=1e-9)


def test_step_sizes_of_unigrpo_as_published():
    """24 Euler steps (25 points) at shift 3: the window's first and last, and the schedule's last step size."""
    dt = -time_points(24, 3.0).diff()
    assert [round(dt[k].item(), 4) for k in (0, 4, 23)] == [0.0143, 0.0181, 0.1154]


@pytest.mark.parametrize(("steps", "shift"), [(0, 1.0), (-3, 1.0), (4, 0.5)])
def test_impossible_schedules_are_refused(steps, shift):
    with pytest.raises(ValueError, match=f"steps={steps}, shift={shift}"):
        time_points(steps, shift)
