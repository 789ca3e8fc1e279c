"""Steps against diffusers' scheduler, given equal sigmas."""

from itertools import pairwise

import pytest
import torch

from unigrpo.flow.dynamics import Cps, Ode
from unigrpo.flow.schedule import time_points

SHAPE = (2, 3, 4, 4)


def sample(scheduler, points, velocity):
    scheduler.set_timesteps(sigmas=points[:-1].tolist())
    torch.testing.assert_close(scheduler.sigmas.double(), points, atol=1e-6, rtol=1e-6)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x), t, x, return_dict=False)[0]
    return x


def walk(dynamics, points, velocity):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    for t, t_next in pairwise(points):
        x = dynamics.transition(x, velocity(x), t, t_next, points[1]).sample(torch.randn(SHAPE))
    return x


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("stochastic", "dynamics"),
    [(False, Ode()), (True, Cps(eta=1.0))],
    ids=["ode", "stochastic_sampling is cps with all noise fresh"],
)
def test_stepping_equals_the_scheduler_of_diffusers(stochastic, dynamics, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler  # slow, and every worker reads this file

    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic)
    points = time_points(10, shift)

    def velocity(x):
        return torch.sin(3 * x) - x.flip(-1) / 2

    torch.testing.assert_close(
        walk(dynamics, points, velocity), sample(scheduler, points, velocity), atol=2e-5, rtol=2e-5
    )
