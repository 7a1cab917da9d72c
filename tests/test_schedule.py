"""Schedules and time grids."""

import math

import pytest
import torch

from vadd import Cosine, Geometric, InputError, Linear, Polynomial, time_grid

SCHEDULES = [Linear(), Cosine(), Polynomial(3.0), Geometric()]
TIMES = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_alpha_falls_from_one_to_zero(schedule):
    alpha = schedule.alpha(TIMES)
    assert alpha[0] == 1
    assert alpha[-1] == pytest.approx(0, abs=1e-15)
    assert (alpha.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_weight_is_the_derivative(schedule):
    t = TIMES[50:-50].clone().requires_grad_()
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    assert torch.allclose(schedule.weight(t), -slope / (1 - alpha), rtol=1e-8)


def test_polynomial_of_power_one_is_linear():
    assert torch.equal(Polynomial(1.0).alpha(TIMES), Linear().alpha(TIMES))
    assert torch.equal(Polynomial(1.0).weight(TIMES[1:]), Linear().weight(TIMES[1:]))


def test_the_formulas_of_the_paper():
    t = TIMES[1:-1]
    assert torch.allclose(Cosine().alpha(t), 1 - torch.cos(math.pi / 2 * (1 - t)))
    sigma = 1e-5 ** (1 - t) * 20.0**t
    assert torch.allclose(Geometric().alpha(t), torch.exp(-sigma), atol=2e-5)


@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_grids_fall_from_one_to_zero(grid):
    for steps in (1, 2, 7, 1000):
        times = time_grid(steps, grid)
        assert times.shape == (steps + 1,)
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all()


def test_the_cosine_grid_begins_with_fine_steps():
    times = time_grid(10, "cosine")
    assert times[5] == pytest.approx(math.cos(math.pi / 4))
    assert (-times.diff()).diff().gt(0).all()


def test_mistakes_are_told():
    with pytest.raises(InputError, match="steps must be at least 1, got 0"):
        time_grid(0)
    with pytest.raises(InputError, match="uniform or cosine, got 'log'"):
        time_grid(3, "log")
    with pytest.raises(InputError, match="must be positive, got -1"):
        Polynomial(-1.0)
    with pytest.raises(InputError, match="0 < low < high"):
        Geometric(2.0, 1.0)
