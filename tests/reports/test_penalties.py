"""The weights of the penalties against their closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.penalties import latent_kl_weights, profiles, time_points
from reports.records import Arm
from reports.runs import Cell


@given(st.integers(2, 40), st.floats(1, 5), st.floats(0.1, 2))
def test_weights_have_their_closed_form(steps, shift, a):
    times = time_points(steps, shift)
    t, dt = times[1:-1], -np.diff(times)[1:]
    expected = dt * (1 - t) * (2 + a * a) ** 2 / (8 * a * a * t)
    assert latent_kl_weights(times, a)[1:] == pytest.approx(expected)


@given(st.integers(2, 40), st.floats(0.1, 2))
def test_first_step_uses_the_second_time_point(steps, a):
    times = time_points(steps, 1.0)
    sigma_squared = a * a / (1 - times[1])
    assert latent_kl_weights(times, a)[0] == pytest.approx((times[0] - times[1]) / 2 / sigma_squared)


def test_late_steps_weigh_81_times_the_early_ones():
    weights = latent_kl_weights(time_points(10, 1.0), 0.7)
    assert weights[9] / weights[1] == pytest.approx(81)


def test_constant_noise_has_its_own_formula():
    times = time_points(4, 1.0)
    expected = 0.25 / 2 * (0.5 * (1 - 0.5) / (2 * 0.5) + 1 / 0.5) ** 2
    assert latent_kl_weights(times, 0.5, constant_sigma=True)[2] == pytest.approx(expected)


def _arm(regularizer, dynamics):
    config = {"sampler": {"steps": 4, "shift": 1.0}, "regularizer": regularizer, "dynamics": dynamics}
    return Arm("x", (), False, (Cell("x", 0, "id", "done", config=config),))


def test_profiles_by_kind():
    flow = {"name": "flow_sde", "a": 0.8}
    exact, code, mse = profiles(
        [
            _arm({"name": "latent_kl", "weight": 0.5, "dt_in_denominator": True}, flow),
            _arm({"name": "latent_kl", "weight": 0.5, "dt_in_denominator": False}, flow),
            _arm({"name": "velocity_mse", "weight": 0.1}, {"name": "cps", "eta": 0.5}),
        ]
    )
    assert code.weights == pytest.approx(exact.weights * 0.25)
    assert code.kind != exact.kind
    assert mse.weights.tolist() == [1, 1, 1, 1]
    assert (exact.strength, mse.strength) == (0.5, 0.1)


def test_no_profile_without_a_density_or_a_penalty():
    assert profiles([_arm({"name": "latent_kl"}, {"name": "cps", "eta": 0.5})]) == []
    assert profiles([_arm({"name": "none"}, {"name": "flow_sde", "a": 0.8})]) == []
    assert profiles([Arm("empty", (), False, ())]) == []
